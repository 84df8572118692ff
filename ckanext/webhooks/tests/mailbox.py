"""A real SMTP server that keeps what it is sent, and refuses what it is told to."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class Mailbox:
    """``with Mailbox() as mailbox:`` listens on a free port of 127.0.0.1.

    :ivar server: for ``smtp.server``
    :ivar mails: what arrived, in order
    :ivar refuse: gives what to answer to a recipient, None to take the mail
    """

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.refuse: Callable[[str], str | None] = lambda recipient: None
        self._arrived = threading.Condition()
        mailbox = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._say("220 mailbox")
                while line := self.rfile.readline():
                    command = line.decode().strip()
                    verb = command.upper()
                    if verb.startswith("RCPT"):
                        self._say(mailbox.refuse(command) or "250 ok")
                    elif verb == "DATA":
                        self._say("354 go on")
                        mailbox._take(self._data())
                        self._say("250 ok")
                    elif verb == "QUIT":
                        self._say("221 bye")
                        return
                    else:
                        self._say("250 ok")

            def _data(self) -> bytes:
                lines = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b"..") else line)
                return b"".join(lines)

            def _say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.server = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Mailbox:
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

    def wait(self, count: int, timeout: float = 20.0) -> None:
        """Wait until so many mails have arrived.

        :raises TimeoutError: fewer arrived in time
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.mails) >= count, timeout):
                raise TimeoutError(f"{len(self.mails)} of {count} mails in {timeout} s")

    def _take(self, data: bytes) -> None:
        with self._arrived:
            self.mails.append(email.message_from_bytes(data, policy=email.policy.default))
            self._arrived.notify_all()
