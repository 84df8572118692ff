"""The log lines of this extension, as every handler takes them.

What is named in one may come from a plugin, an endpoint or another server, and so may an
exception's text. A handler drops a line that it cannot write as UTF-8.
"""

from __future__ import annotations

import logging

from . import wellformed

_FORMATTER = logging.Formatter()


def logger(name: str) -> logging.Logger:
    """Give a module's logger."""
    found = logging.getLogger(name)
    found.addFilter(_mended)
    return found


def _mended(record: logging.LogRecord) -> bool:
    """Replace in a line, and in the traceback below it, what cannot be written; lets it pass."""
    # What is well-formed stays as it was given: services that gather logs group lines by that.
    message = record.getMessage()
    if (mended := wellformed.text(message)) != message:
        record.msg, record.args = mended, None
    if record.exc_info:
        traceback = _FORMATTER.formatException(record.exc_info)
        if (mended := wellformed.text(traceback)) != traceback:
            record.exc_text = mended
    return True
