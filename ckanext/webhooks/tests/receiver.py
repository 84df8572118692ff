"""A real HTTP server that receives deliveries and answers as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Received:
    """One request, as it arrived.

    :param sender: the address from which it came
    :param at: ``time.monotonic()`` when its body had been read
    """

    path: str
    headers: dict[str, str]
    body: bytes
    sender: str = ""
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


def accept(request: Received) -> Answer:
    return 200, {}, b"thanks"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # As many as a worker has under way at once; of more than the usual 5, Linux
    # resets some when this machine is busy.
    request_queue_size = 128


class Receiver:
    """``with Receiver() as receiver:`` listens on a free port of 127.0.0.1.

    :param listening: a socket that listens elsewhere, to be used instead
    :ivar url: where it listens
    :ivar requests: everything that arrived, in order
    :ivar respond: gives the answer to a request; replace it to misbehave
    """

    def __init__(self, listening: socket.socket | None = None) -> None:
        self.requests: list[Received] = []
        self.respond: Callable[[Received], Answer] = accept
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Else a kept connection's answer waits 40 ms for an acknowledgement.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                names = {k.lower(): v for k, v in self.headers.items()}
                status, headers, answer = receiver._take(
                    Received(self.path, names, body, self.client_address[0])
                )
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    self.close_connection = True  # the sender did not wait

            def log_message(self, format: str, *args: Any) -> None:
                pass

        listening = listening or socket.create_server(
            ("127.0.0.1", 0), backlog=_Server.request_queue_size
        )
        host, port = listening.getsockname()
        self._server = _Server((host, port), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listening
        self.url = f"http://{host}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self, count: int, timeout: float = 60.0) -> list[Received]:
        """Wait until so many requests have arrived, and give them all.

        :raises TimeoutError: fewer arrived in time
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout):
                topics = [r.json.get("topic") for r in self.requests]
                raise TimeoutError(f"{len(topics)} of {count} arrived in {timeout} s: {topics}")
            return list(self.requests)

    def settle(self, quiet: float = 2.0) -> list[Received]:
        """Wait until nothing has arrived for a while, and give what there is."""
        while True:
            with self._arrived:
                before = len(self.requests)
                self._arrived.wait_for(partial(self._has_more_than, before), quiet)
                if len(self.requests) == before:
                    return list(self.requests)

    def _has_more_than(self, count: int) -> bool:
        return len(self.requests) > count

    def clear(self) -> None:
        with self._arrived:
            self.requests.clear()

    def _take(self, request: Received) -> Answer:
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        return self.respond(request)
