"""Servers of one behaviour each, on loopback, and what a test sends to them."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ...deliver.attempt import Outcome, Request
from ...deliver.transport import Engine, Settings, open_engine

LOOPBACK = ("127.0.0.0/8", "::1/128")
ENGINES = ("curl", "requests")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks"

Behaviour = Callable[[socket.socket], None]


class Server:
    """Accepts connections and lets a function have each, in a thread of its own.

    :ivar accepted: how many connections were made
    :ivar requests: heads and bodies that :func:`read_request` read
    """

    def __init__(self, behave: Behaviour, ip: str = "127.0.0.1", port: int = 0) -> None:
        self.behave = behave
        self.accepted = 0
        self.closing = threading.Event()
        self.listener = socket.create_server((ip, port))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://{ip}:{self.port}/"
        self.connections: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                connection, _peer = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.behave(connection)
            except OSError:
                pass  # the sender hung up, as it may

    def close(self) -> None:
        self.closing.set()
        for open_ in (self.listener, *self.connections):
            try:
                open_.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            open_.close()
        for thread in self.threads:
            thread.join(10)


@contextmanager
def serving(behave: Behaviour, ip: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    server = Server(behave, ip, port)
    server.threads[0].start()
    try:
        yield server
    finally:
        server.close()


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Give head and body of one request; empty where the sender hung up."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(65536)
        if not more:
            return b"", b""
        got += more
    head, body = got.split(b"\r\n\r\n", 1)
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


def answering(*answers: bytes) -> Behaviour:
    """Answer the requests of a connection in turn, then hang up."""

    def behave(connection: socket.socket) -> None:
        for answer in answers:
            if not read_request(connection)[0]:
                return
            connection.sendall(answer)

    return behave


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def dripping(prefix: bytes, drop: bytes) -> Behaviour:
    """Send a little at a time, for much longer than any deadline."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(prefix)
        for _ in range(200):
            time.sleep(0.05)
            connection.sendall(drop)

    return behave


HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class Sender:
    """Sends by an engine, which it opens for each settings that are wanted.

    :param name: the engine's
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.engines: dict[Settings, Engine] = {}

    def engine(self, settings: Settings) -> Engine:
        if settings not in self.engines:
            self.engines[settings] = open_engine(settings, name=self.name)
        return self.engines[settings]

    def __call__(
        self,
        url: str,
        timeout: float = 5.0,
        allowed: tuple[str, ...] = LOOPBACK,
        headers: dict[str, str] | None = None,
        body: bytes = b'{"a": 1}',
        proxy: str | None = None,
        ca_bundle: str | None = None,
    ) -> Outcome:
        engine = self.engine(Settings(allowed, proxy, ca_bundle))
        engine.start(url, Request(url, headers or HEADERS, body, timeout))
        ended = engine.wait(timeout + 5)
        assert [key for key, _outcome in ended] == [url]
        return ended[0][1]

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()


class Authority:
    """Signs certificates.

    :ivar bundle: file of its own certificate
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
        ca = self._builder(self._name, self._name, self._key, days=1).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.bundle = str(folder / "authority.pem")
        certificate = ca.sign(self._key, hashes.SHA256())
        Path(self.bundle).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
    ) -> Any:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    def context(
        self, host: str = "localhost", days: int = 1, self_signed: bool = False
    ) -> ssl.SSLContext:
        """Give a server's context, with a certificate of its own.

        :param days: for which it is valid yet
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        issuer = name if self_signed else self._name
        builder = self._builder(name, issuer, key, days).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
        )
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        file = self._folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def over_tls(context: ssl.SSLContext, behave: Behaviour) -> Behaviour:
    """Have a server do its handshake first."""

    def secured(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            behave(tls)

    return secured
