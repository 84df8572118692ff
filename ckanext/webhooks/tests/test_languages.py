"""The catalogues: whole, true to the sources, and compiled as they are shipped."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "ckanext" / "webhooks" / "i18n"
DOMAIN = "ckanext-webhooks"
LANGUAGES = ("de", "es", "fr")
PLACEHOLDER = re.compile(r"%\(\w+\)[srd]|%[srd]|\{\w+\}")


def read(path: Path) -> Any:
    return read_po(io.BytesIO(path.read_bytes()))


def messages(catalogue: Any) -> dict[tuple[str, ...], Any]:
    return {_texts(message.id): message for message in catalogue if message.id}


def written(language: str) -> Path:
    return FOLDER / language / "LC_MESSAGES" / f"{DOMAIN}.po"


@pytest.mark.acceptance
def test_the_template_has_what_the_sources_say(tmp_path):
    found = tmp_path / "found.pot"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "setup.py",
        "-q",
        "extract_messages",
        "-o",
        str(found),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    kept = messages(read(FOLDER / f"{DOMAIN}.pot"))
    assert set(messages(read(found))) == set(kept), "bin/i18n brings it up to date"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_whole(language):
    wanted, got = messages(read(FOLDER / f"{DOMAIN}.pot")), messages(read(written(language)))
    assert set(got) == set(wanted)
    assert [message.id for message in got.values() if message.fuzzy] == []
    assert [message.id for message in got.values() if not all(_texts(message.string))] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_fills_in_the_same_things(language):
    for message in messages(read(written(language))).values():
        # A number may be left out of the singular alone.
        wanted = _placeholders(_texts(message.id)[-1])
        assert _placeholders(_texts(message.string)[-1]) == wanted, message.id
        assert _placeholders(_texts(message.string)[0]) <= wanted, message.id
        if "python-format" in message.flags:
            # These have no names: their order counts.
            assert _unnamed(message.string) == _unnamed(message.id), message.id


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_compiled_is_what_is_written(language):
    with written(language).with_suffix(".mo").open("rb") as file:
        compiled = messages(read_mo(file))
    expected = messages(read(written(language)))
    texts = {id_: _texts(message.string) for id_, message in expected.items()}
    assert {id_: _texts(message.string) for id_, message in compiled.items()} == texts


def _texts(text: Any) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def _placeholders(text: str) -> Counter[str]:
    return Counter(PLACEHOLDER.findall(text))


def _unnamed(text: Any) -> list[str]:
    return re.findall("%[srd]", _texts(text)[-1])
