"""The units in docs/scaling.md and docs/install.md are such as systemd and supervisor take."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
COMMAND = "/usr/lib/ckan/default/bin/ckan"


def units(first: str) -> list[str]:
    """Give the blocks of our pages that begin with a section."""
    return [
        block
        for page in ("install.md", "scaling.md")
        for block in re.findall(r"```ini\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
        if block.startswith(first)
    ]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
@pytest.mark.parametrize("unit", units("[Unit]"))
def test_systemd_takes_the_unit(unit, tmp_path):
    assert COMMAND in unit
    path = tmp_path / "ckan-webhooks@1.service"
    # It looks for the command and the user, who are those of an installed CKAN.
    path.write_text(unit.replace(COMMAND, "/bin/true").replace("User=ckan", "User=root"))
    verifying = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    complaints = [line for line in verifying.stderr.splitlines() if path.name in line]
    assert complaints == []


@pytest.mark.parametrize("program", units("[program:"))
def test_supervisor_can_read_the_program(program):
    parser = configparser.RawConfigParser()
    parser.read_string(program)
    section = parser["program:ckan-webhooks"]
    assert section["command"].startswith(COMMAND)
    # It insists on that where there are several.
    assert "numprocs" not in section or "%(process_num)" in section["process_name"]


def test_there_are_units_for_both():
    assert units("[Unit]")
    assert units("[program:")
