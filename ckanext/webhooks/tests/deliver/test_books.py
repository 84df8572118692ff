"""Nothing that was learnt is forgotten, and nobody waits for the book-keeping."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from ...deliver import books as keeping
from ...deliver.books import Books


class Writing:
    """Stands for the database: slow, away, and with all that was written."""

    def __init__(self) -> None:
        self.written: list[list[Any]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails = 0
        self.refused: set[str] = set()
        self.tries = 0
        self.ended = threading.Event()

    def __call__(self, some) -> None:
        self.may_go_on.wait(10)
        self.tries += 1
        if self.fails:
            self.fails -= 1
            raise OperationalError("UPDATE", {}, Exception("gone"))
        if self.refused & {one.name for one in some}:
            raise ValueError("it cannot be written")
        self.written.append(list(some))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(keeping, "GATHER", 0.0)


@pytest.fixture
def writing():
    return Writing()


@pytest.fixture
def books(writing):
    return Books(writing, writing.ended.set)


def add(books: Books, *names: str) -> None:
    for name in names:
        one: Any = SimpleNamespace(name=name, delivery=SimpleNamespace(id=name))
        books.add(one)


def names(writing: Writing) -> list[list[str]]:
    return [[one.name for one in some] for some in writing.written]


def finish(books: Books) -> None:
    deadline = time.monotonic() + 10
    while not books.is_empty and time.monotonic() < deadline:
        books.turn()
        time.sleep(0.001)
    assert books.is_empty


def test_what_is_added_while_a_set_is_written_goes_with_the_next(books, writing):
    writing.may_go_on.clear()
    add(books, "a")
    books.turn()
    add(books, "b", "c")
    assert books.turn() is None
    assert not books.is_empty
    writing.may_go_on.set()
    finish(books)
    assert names(writing) == [["a"], ["b", "c"]]


def test_it_is_said_when_a_set_was_written(books, writing):
    add(books, "a")
    books.turn()
    assert writing.ended.wait(10)


def test_a_set_is_bounded(books, writing, monkeypatch):
    monkeypatch.setattr(keeping, "MOST_AT_ONCE", 2)
    add(books, "a", "b", "c")
    finish(books)
    assert names(writing) == [["a", "b"], ["c"]]


def test_while_the_database_is_away_all_is_kept_and_nothing_more_is_claimed(
    books, writing, monkeypatch
):
    monkeypatch.setattr(keeping, "_TRY_EVERY", 0.05)
    writing.fails = 2
    add(books, "a")
    books.turn()
    writing.ended.wait(10)
    wait = books.turn()
    assert wait is not None
    assert 0 < wait <= 0.05
    assert books.is_behind
    add(books, "b")
    finish(books)
    assert names(writing) == [["a", "b"]]
    assert not books.is_behind


def test_with_much_that_is_not_written_nothing_more_is_claimed(books, writing, monkeypatch):
    monkeypatch.setattr(keeping, "_BEHIND", 2)
    writing.may_go_on.clear()
    add(books, "a", "b")
    assert books.is_behind
    writing.may_go_on.set()
    finish(books)
    assert not books.is_behind


def test_what_ends_soon_after_another_is_written_with_it(books, writing, monkeypatch):
    monkeypatch.setattr(keeping, "GATHER", 0.05)
    add(books, "a")
    wait = books.turn()
    assert wait is not None
    assert 0 < wait <= 0.05
    add(books, "b")
    finish(books)
    assert names(writing) == [["a", "b"]]


@pytest.mark.parametrize("refused", [set("e"), set("a"), set("j"), set("aj"), set("abcdefghij")])
def test_what_cannot_be_written_stands_alone_and_the_others_are_written(
    books, writing, caplog, refused
):
    """Each of the others once, and at once: with no wait between the halves."""
    writing.refused = refused
    add(books, *"abcdefghij")
    began = time.monotonic()
    finish(books)
    assert [name for some in names(writing) for name in some] == sorted(set("abcdefghij") - refused)
    assert {r.args[1] for r in caplog.records if "cannot be written down, so" in r.msg} == refused
    assert writing.tries <= 8 * len(refused)
    assert time.monotonic() - began < keeping._TRY_EVERY
    assert not books.is_behind
