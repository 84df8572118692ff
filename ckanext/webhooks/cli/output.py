"""What a command prints: JSON for programs, a table or lines for people.

What people and endpoints wrote may hold what a terminal takes for a command;
here it is shown, and never obeyed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

Step = TypeVar("Step")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for programs."
)

# A cell that is one of these words shows by its colour how things are.
_COLOURS = {
    "active": "green",
    "delivered": "green",
    "good": "green",
    "verified": "green",
    "odd": "yellow",
    "paused": "yellow",
    "pending": "yellow",
    "unverified": "yellow",
    "bad": "red",
    "disabled": "red",
    "failed": "red",
    "failing": "red",
    "wrong": "red",
    "not verified": "red",
}


def write_json(value: Any) -> None:
    # Escaped: a terminal may be what reads it.
    click.echo(json.dumps(value, indent=2))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under each other, each column as wide as it must be."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        click.echo("  ".join(_aligned(row, widths)))


def write_facts(facts: Mapping[str, Any]) -> None:
    """Print what is known, a line for each; facts within a fact by both names."""
    lines = list(_flat(facts))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        click.echo(f"{name.ljust(width)}  {coloured(plain(value))}")


def plain(value: Any) -> str:
    """Write a value in one line of printable characters, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def moment(text: str | None) -> str:
    """Shorten a time to what a person reads: ``2026-11-24 18:27:56``."""
    return text[:19].replace("T", " ") if text else ""


def coloured(word: str) -> str:
    colour = _COLOURS.get(word.strip())
    return click.style(word, fg=colour) if colour else word


def progressing(
    steps: Iterable[Step],
    label: str,
    length: int | None = None,
    said: Callable[[Step | None], str | None] | None = None,
) -> Iterator[Step]:
    """Give steps one by one, and show on a terminal how far they are.

    :param length: how many there are, None where nobody knows
    :param said: what to show of the last one
    """
    # Beside the output, which may be read by a program.
    stream = click.get_text_stream("stderr")
    if not stream.isatty():
        yield from steps
        return
    with click.progressbar(
        steps, length=length, label=label, item_show_func=said, file=stream
    ) as bar:
        yield from bar


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    last = len(row) - 1
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield coloured(cell if index == last else cell.ljust(width))


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        elif value not in (None, [], ""):
            yield prefix + name, value
