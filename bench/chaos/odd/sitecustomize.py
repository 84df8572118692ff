"""Makes a process odd: Python imports this as it starts, where it is on PYTHONPATH."""

import importlib.util
import os
import sys
import time
from importlib.machinery import ModuleSpec
from typing import Any


def put_clock_off(seconds: float) -> None:
    """Have ``time.time`` off: what Celery goes by, and a signature must not."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


class Before:
    """Finds this extension in a folder that holds an earlier version of it.

    An editable install is found before what is on the path.
    """

    def __init__(self, folder: str) -> None:
        self.package = os.path.join(folder, "ckanext", "webhooks")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "ckanext.webhooks":
            return None
        return importlib.util.spec_from_file_location(
            name,
            os.path.join(self.package, "__init__.py"),
            submodule_search_locations=[self.package],
        )


if "CHAOS_CLOCK_OFF" in os.environ:
    put_clock_off(float(os.environ["CHAOS_CLOCK_OFF"]))
if "CHAOS_VERSION_BEFORE" in os.environ:
    sys.meta_path.insert(0, Before(os.environ["CHAOS_VERSION_BEFORE"]))
