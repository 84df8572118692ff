"""Texts and JSON that PostgreSQL, UTF-8 and every reader of JSON take."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .. import wellformed

# Mostly of what goes wrong: Hypothesis draws no half of a surrogate pair unless it is told to.
ANY_TEXT = st.lists(
    st.characters() | st.sampled_from(["\0", "\ud83d", "\ude00", "\\", "u0000", "NaN"])
).map("".join)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("rivers", "rivers"),
        ("Flüsse 川 😀", "Flüsse 川 😀"),
        ("a\0b", "a\ufffdb"),
        ("\ud83d", "\ufffd"),
        ("a\ude00\ud83d", "a\ufffd\ufffd"),
    ],
)
def test_nul_and_halves_of_surrogate_pairs_are_replaced(given, expected):
    assert wellformed.text(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (r'"a\u0000b"', "a\ufffdb"),
        (r'{"a\u0000": "\ud800"}', {"a\ufffd": "\ufffd"}),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (r'"\uDE00"', "\ufffd"),
        (r'"\\u0000"', r"\u0000"),
        (r'"\\ud83d\ude00"', "\\ud83d\ufffd"),
        (r'"\ud83d\\ude00"', "\ufffd\\ude00"),
        ('"\ud800"', "\ufffd"),
        ("[NaN, Infinity, -Infinity, 1]", [None, None, None, 1]),
        ('["NaN", Infinity]', ["NaN", None]),
        ("[-1e999, NaN]", [None, None]),
    ],
)
def test_json_is_mended_in_its_text(given, expected):
    assert json.loads(wellformed.json_text(given), parse_constant=refuse) == expected


@pytest.mark.parametrize(
    "text", ['{"a":  1.10,\n "b": "Flüsse"}', r'"\ud83d\ude00 \u5ddd \"\\"', '"a" ', "1e400"]
)
def test_json_that_everybody_takes_keeps_its_text(text):
    assert wellformed.json_text(text) == text


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        yield from texts([*value, *value.values()])


# A busy machine is no failure.
@pytest.mark.parametrize("examples", [20, pytest.param(500, marks=pytest.mark.long)])
def test_any_json_is_taken_by_all_who_read_it(examples):
    settings(deadline=None, max_examples=examples)(given(ANY_JSON)(_is_taken))()


def _is_taken(value: object) -> None:
    text = wellformed.dumps(value)
    read = json.loads(text, parse_constant=refuse)
    assert "\0" not in "".join(texts(read)).encode().decode()
    assert read == wellformed.loads(text)
    assert wellformed.json_text(text) == text, "once mended, it is at rest"


def test_equal_is_equal():
    nan = '{"a": [NaN]}'
    assert wellformed.loads(nan) == wellformed.loads(nan)


def test_what_is_nested_deeply_is_no_matter():
    text = "[" * 500 + r'NaN, "\u0000"' + "]" * 500
    assert wellformed.json_text(text) == "[" * 500 + r'null, "\ufffd"' + "]" * 500
