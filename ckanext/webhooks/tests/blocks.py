"""The blocks of code in README.md and docs/: what runs, and why the others do not.

A comment in front of a block says what it is: ``<!-- not run: REASON -->``, ``<!-- run by
TEST -->`` or ``<!-- checked by TEST -->``, ``<!-- saved as NAME -->``, or ``<!-- run as a receiver
-->``. Without one it is run by test_docs_run.py, or read by test_docs.py.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

RUN = ("bash", "sh", "python", "javascript", "go", "sql")
READ = ("json", "ini")


class Block(NamedTuple):
    """
    :param page: the file, below the project
    :param line: of its first line, from 1
    :param note: what the comment in front of it says, empty where there is none
    """

    page: str
    line: int
    language: str
    note: str
    source: str

    @property
    def reason(self) -> str:
        """Why it is not run, empty where it is."""
        return self._after("not run: ")

    @property
    def run_by(self) -> str:
        """The test that runs or reads it, empty where it is none of its own."""
        return self._after("run by ") or self._after("checked by ")

    @property
    def saved_as(self) -> str:
        """The name of the file that it is to be, empty where it is none."""
        return self._after("saved as ")

    @property
    def is_receiver(self) -> bool:
        return self.note == "run as a receiver"

    def _after(self, start: str) -> str:
        return self.note.removeprefix(start) if self.note.startswith(start) else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Give every block of every page, in order."""
    return [block for page in PAGES for block in _of(page)]


def sources(language: str, page: str = "README.md") -> list[str]:
    """Give what the blocks of a page in a language say."""
    return [b.source for b in _of(ROOT / page) if b.language == language]


_BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<note>[^\n]*?) -->\n+)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)[^\n]*\n(?P<source>.*?)^(?P=indent)```$",
    re.M | re.S,
)


def _of(page: Path) -> list[Block]:
    text = page.read_text()
    name = str(page.relative_to(ROOT))
    return [
        Block(
            name,
            text.count("\n", 0, match.start("source")) + 1,
            match["language"],
            match["note"] or "",
            textwrap.dedent(match["source"]),
        )
        for match in _BLOCK.finditer(text)
    ]
