"""What is printed, whatever people and endpoints wrote."""

from __future__ import annotations

import io
import json

import click
import pytest

from ...cli import output


def test_columns_are_as_wide_as_they_must_be(capsys):
    output.write_table(("ID", "STATE"), [("a", "active"), ("bcd", None)])
    assert capsys.readouterr().out == "ID   STATE\na    active\nbcd  \n"


def test_a_table_of_nothing_is_its_head(capsys):
    output.write_table(("ID", "STATE"), [])
    assert capsys.readouterr().out == "ID  STATE\n"


def test_facts_within_a_fact_have_both_names_and_what_is_not_known_is_left_out(capsys):
    output.write_facts({"a": 1, "b": None, "c": {"d": "x", "e": []}, "f": False, "g": 0})
    assert capsys.readouterr().out == "a    1\nc d  x\nf    False\ng    0\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0"),
        (["a", "b"], "a, b"),
        ("Größe, 東京", "Größe, 東京"),
        ("a\x1b[2Jb\nc\u202ed\x9b", "a\\x1b[2Jb\\nc\\u202ed\\x9b"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(value, text):
    assert output.plain(value) == text


def test_json_is_ascii_so_that_a_terminal_obeys_nothing(capsys):
    output.write_json({"a": "\x9b2J é"})
    printed = capsys.readouterr().out
    assert printed.isascii() and json.loads(printed) == {"a": "\x9b2J é"}


def test_a_state_is_coloured_and_nothing_else():
    assert output.coloured("active ") == click.style("active ", fg="green")
    assert output.coloured("activated") == "activated"


def test_progress_gives_each_step(capsys):
    assert list(output.progressing(iter([1, 2]), "Steps")) == [1, 2]
    assert capsys.readouterr().out == ""


def test_a_terminal_is_shown_how_far_it_is(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(output.click, "get_text_stream", lambda name: terminal)
    steps = output.progressing(iter("ab"), "Steps", said=lambda step: f"at {step}")
    assert list(steps) == ["a", "b"]
    assert "Steps" in terminal.getvalue() and "at b" in terminal.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("2026-11-24T18:27:56.260417+00:00", "2026-11-24 18:27:56"), (None, "")],
)
def test_a_moment_is_short(text, shown):
    assert output.moment(text) == shown
