"""A way to a server by a Unix socket, or by TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def relay(
    listening: socket.socket,
    server: tuple[str, int],
    secured: Callable[[socket.socket], socket.socket] = lambda plain: plain,
) -> Iterator[None]:
    """Hand on what comes to a socket that listens, and what is answered.

    :param secured: makes of a connection what is read from and written to
    """
    with ExitStack() as stack:
        stack.enter_context(listening)

        def accept() -> None:
            while True:
                try:
                    came = listening.accept()[0]
                    here = stack.enter_context(secured(came))
                except ssl.SSLError:
                    continue  # the client refused the certificate
                except OSError:
                    return  # closed
                there = stack.enter_context(socket.create_connection(server))
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield
        listening.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side is gone
