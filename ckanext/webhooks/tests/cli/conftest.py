"""Commands, run in this process as somebody types them."""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import Result

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def run(cli: Any) -> Iterator[Callable[..., Result]]:
    """Run a command, and leave the signals of this process as they were."""
    # Not at the top: see webhooks_db.
    from ...cli import webhooks

    cli.mix_stderr = False  # of click 8.1; later ones keep the two apart
    usual = [signal.getsignal(number) for number in _SIGNALS]
    yield lambda *words: cli.invoke(webhooks, [str(word) for word in words])
    for number, action in zip(_SIGNALS, usual, strict=True):
        signal.signal(number, action)


@pytest.fixture
def run_json(run: Callable[..., Result]) -> Callable[..., Any]:
    """Run a command that goes well with ``--json``, and give the document."""

    def document(*words: Any) -> Any:
        result = run(*words, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return document


@pytest.fixture
def refused(run: Callable[..., Result]) -> Callable[..., str]:
    """Run a command that fails, and give what it says of it; nothing else is printed."""

    def said(*words: Any, code: int = 1) -> str:
        result = run(*words)
        assert (result.exit_code, result.stdout) == (code, ""), result.stdout
        assert "Traceback" not in result.stderr
        return result.stderr

    return said


@pytest.fixture
def at_a_terminal(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have somebody sit at a terminal, who gives an answer to what is asked."""

    def answering(answer: str) -> None:
        asked = click.get_text_stream

        class Terminal:
            def isatty(self) -> bool:
                return True

        def stream(name: Any, *args: Any, **kwargs: Any) -> Any:
            return Terminal() if name == "stdin" else asked(name, *args, **kwargs)

        monkeypatch.setattr(click, "get_text_stream", stream)
        monkeypatch.setattr(cli, "invoke", functools.partial(cli.invoke, input=f"{answer}\n"))

    return answering
