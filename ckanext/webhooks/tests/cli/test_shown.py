"""The command lines that docs/command-line.md shows, in this process."""

from __future__ import annotations

import re
import shlex
import time

import pytest
from ckan.tests import factories

from ...cli import webhooks
from ..blocks import ROOT, sources
from ..callers import join, stored
from ..logic.test_ping import a_worker
from ..receiver import Receiver

PAGE = "docs/command-line.md"

pytestmark = pytest.mark.usefixtures("webhooks_db")


def test_the_pages_lines_work(run):
    (source,) = (block for block in sources("sh", PAGE) if "hook=$(" in block)
    ada, health = factories.User(name="ada"), factories.Organization(name="health")
    join(health, ada)
    seen, hook = set(), ""
    with Receiver() as receiver, a_worker():
        for line in source.splitlines()[1:]:
            # All that bash would do: a variable, and what a command printed.
            command = line.removeprefix("hook=$(").split(" #")[0].rstrip(") ")
            command = command.replace("https://example.com/callback", receiver.url)
            command = command.replace("$hook", hook)
            if "4711" in command:
                command = command.replace("4711", str(ended_delivery()))
            ckan, group, *words = shlex.split(command)
            assert (ckan, group) == ("ckan", "webhooks")
            result = run(*words)
            assert result.exit_code == 0, (line, result.stderr)
            seen.add(words[0])
            if line.startswith("hook="):
                hook = result.stdout.strip()
                factories.Dataset(owner_org=health["id"])
                receiver.wait(1)
    assert stored() == []
    assert set(webhooks.commands) - seen == {
        "deliver",
        "listen",
        "reconcile",
        "rekey",
        "restored",
        "snapshot",
        "worker",
    }


def ended_delivery(timeout: float = 10.0) -> int:
    """Wait for a delivery to end, and give its id."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for row in stored("webhooks_delivery"):
            if row.topic == "dataset/create" and row.ended_at:
                return int(row.id)
        time.sleep(0.05)
    raise TimeoutError("no delivery ended")


def test_the_page_names_every_command():
    lines = (ROOT / PAGE).read_text().splitlines()
    table = "\n".join(line for line in lines if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", table)) == set(webhooks.commands)
