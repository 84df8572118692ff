"""A worker that is cut off in the midst of an attempt, and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ...deliver.transport.engine import UNACKNOWLEDGED_GRACE
from ..network import Network, why_not
from ..receiver import Receiver
from .hostile import ENGINES

_why_not = why_not()
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(bool(_why_not), reason=f"no machines of our own: {_why_not}"),
]

# Seconds.
TIMEOUT = 1.0
# Sends what it reads, and prints what became of it.
_SENDER = """
import sys
from ckanext.webhooks.deliver.attempt import Request
from ckanext.webhooks.deliver.transport import Settings, open_engine

name, url, timeout = sys.argv[1:]
engine = open_engine(Settings(("10.213.0.0/24",)), name=name)
for line in sys.stdin:
    engine.start(0, Request(url, {"webhook-id": line.strip()}, b"{}", float(timeout)))
    (_key, outcome), = engine.wait(5)
    print(outcome.error or outcome.status, flush=True)
"""


@pytest.fixture
def network(tmp_path: Path):
    with Network(tmp_path, 1) as made:
        yield made


def test_what_was_given_up_does_not_arrive_after_all(network):
    """Else an old state could come after a newer one, which another worker has sent since."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver(network.listen(8000)))
        command = [*network.inside(1), sys.executable, "-c", _SENDER]
        senders = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, name, f"{receiver.url}/{name}", f"{TIMEOUT}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in ENGINES
        ]

        def send(what: str) -> list[str]:
            for sender in senders:
                print(what, file=sender.stdin, flush=True)
            return [sender.stdout.readline().strip() for sender in senders]

        assert send("before") == ["200"] * len(senders)
        network.cut(1)
        assert send("cut off") == ["no complete answer within 1 s"] * len(senders)
        time.sleep(UNACKNOWLEDGED_GRACE + 1)
        network.mend(1)
        # By then Linux would have tried again, which it does 6.2 s after the first try.
        time.sleep(5)
        assert send("after") == ["200"] * len(senders)

    for name in ENGINES:
        arrived = [request.id for request in receiver.requests if request.path == f"/{name}"]
        assert arrived == ["before", "after"]
