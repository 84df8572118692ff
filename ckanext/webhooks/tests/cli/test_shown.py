"""The README's command lines, in this process."""

from __future__ import annotations

import re
import shlex
import time

import pytest
from ckan.tests import factories

from ...cli import webhooks
from ..callers import join, stored
from ..receiver import Receiver
from ..test_readme import README, blocks
from .test_deliveries import a_worker

pytestmark = pytest.mark.usefixtures("webhooks_db")


def test_the_readmes_lines_work(run):
    (source,) = (block for block in blocks("sh") if "hook=$(" in block)
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


def test_the_readme_names_every_command():
    section = README.split("## From the command line")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", table)) == set(webhooks.commands)
