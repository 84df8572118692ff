"""A receiver on this machine: it shows what webhooks tell, while somebody looks.

It listens on the loopback alone, registers itself and, however it is ended
but by ``kill -9``, takes its webhook away again.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from ckan import model
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from .. import config, encryption, topics
from ..deliver import addresses, signing
from ..model import Webhook
from .calling import call, require_tables, site_user
from .output import coloured, plain

_HOST = "127.0.0.1"
# What a terminal's end and a supervisor send, beside Ctrl-C.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--topic",
    type=click.Choice([*topics.TOPICS, *topics.PATTERNS]),
    multiple=True,
    default=[topics.EVERYTHING],
    show_default=True,
    help="What to be told; may be given several times.",
)
@click.option("--user", help="Be told what this user may see (all that is active).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Listen there (a free one).")
@click.option("--json", "as_json", is_flag=True, help="Print the bodies alone, one a line.")
def listen(topic: tuple[str, ...], user: str | None, port: int, as_json: bool) -> None:
    """Print what is told as it comes, until Ctrl-C.

    Registers a webhook at a receiver of its own on 127.0.0.1, and deletes it
    at the end. A worker has to run, on this machine; and
    ckanext.webhooks.allowed_networks has to list the receiver.
    """
    require_tables()
    secret = encryption.new_secret()
    write = _write_body if as_json else _write_line
    with _signals() as wait, _receiver(port, secret, write) as actual_port:
        # Nobody else has this address: by it, the webhook is found again.
        address = f"http://{_HOST}:{actual_port}/{secrets.token_urlsafe(8)}"
        _require_allowed(address, port)
        with _registered(user or site_user(), list(topic), address, secret):
            wait()


def is_signed(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Tell whether one of a request's signatures is ours.

    :param headers: by their names in small letters
    """
    try:
        expected = signing.sign(
            headers["webhook-id"], int(headers["webhook-timestamp"]), body, secret
        )
    except (KeyError, ValueError):
        return False
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(one.encode(), expected.encode()) for one in given)


def line(event: Mapping[str, Any], signed: bool, at: str) -> str:
    """Say in one line what was told.

    :param event: a body of the format ``classic``
    :param at: the time that it came
    """
    topic = plain(event.get("topic"))
    words = (
        at,
        click.style(topic.ljust(15), fg=_COLOURS.get(topic.rpartition("/")[2]), bold=True),
        # Before what is of any length, so that it stands in a column.
        coloured("verified" if signed else "not verified"),
        plain(_name(event)),
        plain(event.get("changed")),
    )
    return "  ".join(word for word in words if word)


_COLOURS = {"create": "green", "update": "yellow", "delete": "red"}


def _name(event: Mapping[str, Any]) -> str:
    own = _called(event.get("entity"))
    dataset = _called(event.get("dataset"))
    return f"{dataset}: {own}" if dataset else own


def _called(entity: Any) -> str:
    if not isinstance(entity, dict):  # a ping has none
        return ""
    return str(entity.get("name") or entity.get("id") or "")


def _write_line(event: Mapping[str, Any], signed: bool) -> None:
    click.echo(line(event, signed, time.strftime("%H:%M:%S")))


def _write_body(event: Mapping[str, Any], signed: bool) -> None:
    if signed:
        click.echo(json.dumps(event))
    else:
        click.echo(f"not verified: {json.dumps(event)}", err=True)


@contextmanager
def _signals() -> Iterator[Callable[[], object]]:
    """Have signals interrupt nothing, and give what waits for one.

    By a pipe: a handler that sets an Event may wait for the thread it interrupts.
    """
    reading, writing = os.pipe()
    usual = {
        number: signal.signal(number, lambda *_: os.write(writing, b".")) for number in _ENDING
    }
    try:
        yield lambda: os.read(reading, 1)
    finally:
        for number, action in usual.items():
            signal.signal(number, action)
        os.close(reading)
        os.close(writing)


@contextmanager
def _receiver(
    port: int, secret: str, write: Callable[[Mapping[str, Any], bool], None]
) -> Iterator[int]:
    """Take requests in threads of their own, and give the port."""
    writing = threading.Lock()

    @Request.application
    def take(request: Request) -> Response:
        body = request.get_data()
        event = _read(body)
        if event is None:
            return Response("This takes webhooks.", 400)
        headers = {name.lower(): value for name, value in request.headers}
        with writing:
            write(event, is_signed(headers, body, secret))
        # Where ckanext.webhooks.verify asks for it, the endpoint answers with this.
        return Response(str(event.get("challenge", "")))

    try:
        server = make_server(_HOST, port, take, threaded=True, request_handler=_Silent)
    except (OSError, SystemExit):  # newer ones of werkzeug end the program
        message = f"Port {port} of {_HOST} is taken, or may not be had: name another by --port"
        raise click.ClickException(message) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()


def _read(body: bytes) -> dict[str, Any] | None:
    """Read what may be an event; None where it is not one."""
    try:
        event = json.loads(body)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


class _Silent(WSGIRequestHandler):
    """What came is written elsewhere."""

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _require_allowed(address: str, port: int) -> None:
    listed = config.allowed_networks()
    try:
        addresses.check_url(address, listed)
    except addresses.RefusedAddress:
        # With a port that stays, nothing else need be opened.
        wanted = f"{_HOST}:{port}" if port else f"{_HOST}/32"
        raise click.ClickException(
            f"Webhooks may not call {_HOST}. Set in ckan.ini, and start the worker again:\n"
            f"    {addresses.OPTION} = {' '.join([*listed, wanted])}"
        ) from None


@contextmanager
def _registered(owner: str, topic: list[str], address: str, secret: str) -> Iterator[None]:
    """Have a webhook for a while; what came of a failed registration goes as well."""
    try:
        created = call(
            "webhook_create",
            owner,
            topic=topic,
            address=address,
            secret=secret,
            description="ckan webhooks listen",
        )
        _let_go()
        click.echo(
            f"Webhook {created} of {owner} calls {address} now; Ctrl-C deletes it.", err=True
        )
        yield
    finally:
        _delete(address)


def _delete(address: str) -> None:
    _let_go()
    try:
        rows = model.Session.query(Webhook.id).filter(Webhook.address == address).all()
        for (webhook_id,) in rows:
            call("webhook_delete", id=webhook_id)
            click.echo(f"Webhook {webhook_id} is deleted.", err=True)
    except SQLAlchemyError as error:
        raise click.ClickException(
            f"The webhook that calls {address} could not be deleted; `ckan webhooks list` has its"
            f" id for `ckan webhooks delete`: {error}"
        ) from None


def _let_go() -> None:
    """Hold no connection meanwhile: a database that is restarted would have closed it."""
    model.Session.remove()
    if model.meta.engine is not None:
        model.meta.engine.dispose()
