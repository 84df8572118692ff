"""Texts and JSON as everybody takes them: PostgreSQL, UTF-8, any reader of JSON. No I/O.

Two things fit into Python's texts that fit nowhere else: NUL, which PostgreSQL refuses, and one
half of a surrogate pair alone, which UTF-8 cannot say. Each becomes U+FFFD, the replacement
character, as it does where bytes are decoded. JSON has neither NaN nor infinite numbers
(RFC 8259, section 6): they become null.

What comes from CKAN, a plugin or an endpoint passes here before it is compared, kept or sent.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# JSON that has none of these has nothing to mend.
_ESCAPES = ("\\u0000", "\\ud", "\\uD")
_NO_NUMBERS = ("NaN", "Infinity")
SIGNS = (*_ESCAPES, *_NO_NUMBERS)
_REPLACED = re.compile("[\x00\ud800-\udfff]")
# Each escape of a JSON text, so that a backslash which is itself escaped begins none.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB]..\\u[dD][c-fC-F].."
    r"|(?P<replaced>\\u(?:0000|[dD][89a-fA-F]..))"
    r"|\\.",
    re.DOTALL,
)


def text(value: str) -> str:
    """Give a text without NUL and without halves of surrogate pairs."""
    # At the speed of memory; few texts need more.
    return value if "\x00" not in value and _is_utf8(value) else _REPLACED.sub(REPLACEMENT, value)


def json_text(value: str) -> str:
    """Give JSON that everybody takes; where it is that already, the very same text."""
    value = text(value)
    if any(escape in value for escape in _ESCAPES):
        value = _ESCAPE.sub(lambda m: r"\ufffd" if m["replaced"] else m[0], value)
    if any(name in value for name in _NO_NUMBERS):
        parsed = json.loads(value, parse_constant=lambda _name: None, parse_float=_finite)
        value = json.dumps(parsed, allow_nan=False)
    return value


def dumps(value: Any) -> str:
    """Write a value as JSON that everybody takes."""
    return json_text(json.dumps(value))


def loads(value: str) -> Any:
    """Read JSON by the same rules; what is equal there is equal here."""
    return json.loads(json_text(value))


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
