"""What is the same on each CKAN, and takes a minute: tested on the newest."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest

on_the_newest_ckan = pytest.mark.skipif(
    not tk.check_ckan_version(min_version="2.12"),
    reason="the same on each CKAN, and a minute long: run on the newest alone",
)
