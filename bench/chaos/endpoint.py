"""The receiver: a process that keeps a ledger, and misbehaves as it is told.

python -m bench.chaos.endpoint PORT LEDGER SECRETS

``POST /NAME`` is a delivery to the webhook of that name. What the receiver acted on is
in the ledger, one line of JSON each, before it answers: a receiver that is killed
has lost nothing of it. ``PUT /MODE`` sets how it behaves: see :class:`Mode`.
"""

from __future__ import annotations

import enum
import itertools
import json
import os
import socket
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

from bench.chaos.ledger import Receipt
from bench.chaos.tables import REFUSED


class Mode(enum.Enum):
    GOOD = "good"
    FAILING = "failing"  # answers 500, and does nothing
    CUTTING = "cutting"  # acts, and cuts every second connection instead of answering
    SLOW = "slow"  # acts, and takes a second to say so


# Seconds by which a signed time may differ from ours: none of our clocks is off.
MOST_OFF = 30.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True


def serve(port: int, ledger: Path, verifiers: dict[str, Webhook]) -> None:
    """Serve until the process is ended.

    :param verifiers: of signatures, by the webhook's name
    """
    mode = Mode.GOOD
    taken = itertools.count()
    # One write for each line, and lines are short: threads need no lock.
    book = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.strip("/")
            acted = mode is not Mode.FAILING
            cut = mode is Mode.CUTTING and next(taken) % 2 == 0
            id_ = self.headers["webhook-id"]
            wrong = _wrong(verifiers[name], self.headers, body)
            told = _told(body)
            receipt = Receipt(name, id_, time.time(), acted, cut, wrong, *told)
            os.write(book, json.dumps(receipt).encode() + b"\n")
            if mode is Mode.SLOW:
                time.sleep(1)
            if cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            else:
                self._answer(200 if acted else 500)

        def do_PUT(self) -> None:
            nonlocal mode
            mode = Mode(self.path.strip("/"))
            self._answer(200)

        def _answer(self, status: int) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                self.close_connection = True  # the sender is gone

        def log_message(self, format: str, *args: Any) -> None:
            pass

    _Server(("127.0.0.1", port), Handler).serve_forever()


def _wrong(verifier: Webhook, headers: Any, body: bytes) -> str:
    """Say what is wrong with a request, in words; empty where nothing is."""
    if REFUSED.encode() in body:
        return "tells what was rolled back"
    try:
        verifier.verify(body, dict(headers))
    except Exception as error:
        return f"signature: {error}"
    try:
        text = json.dumps(json.loads(body, parse_constant=_refuse), ensure_ascii=False)
        text.encode()
    except ValueError as error:
        return f"no JSON by RFC 8259, or half a character: {error}"
    if "\\u0000" in text:
        return "a text with a NUL"
    off = float(headers["webhook-timestamp"]) - time.time()
    return f"signed at a time that is {off:.0f} s off" if abs(off) > MOST_OFF else ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _told(body: bytes) -> tuple[str, str, str, str | None, int]:
    """Give topic, entity, dataset, what the entity is called, and the sequence.

    A resource's name and a dataset's title are content, which a stub has not.
    """
    facts = json.loads(body)
    facts = facts.get("data") or facts
    entity, topic = facts["entity"], facts["topic"]
    is_dataset = topic.startswith("dataset/")
    dataset = entity["id"] if is_dataset else entity["package_id"]
    called = entity.get("title" if is_dataset else "name")
    return topic, entity["id"], dataset, called, facts["sequence"]


def set_mode(port: int, mode: Mode) -> None:
    """Tell a running receiver how to behave."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{mode.value}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def read(ledger: Path) -> list[Receipt]:
    """Give what a ledger holds; of a receiver that was killed the last line may be half."""
    if not ledger.exists():
        return []
    lines = ledger.read_text().splitlines()
    return [Receipt(*json.loads(line)) for line in lines if line.endswith("]")]


if __name__ == "__main__":
    secrets = json.loads(Path(sys.argv[3]).read_text())
    serve(
        int(sys.argv[1]),
        Path(sys.argv[2]),
        {name: Webhook(secret) for name, secret in secrets.items()},
    )
