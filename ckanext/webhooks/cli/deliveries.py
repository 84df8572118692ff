"""What a webhook was told, told again, and how that goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from .. import topics
from ..model import Status
from .calling import call
from .completion import webhook_argument, webhook_ids
from .output import (
    coloured,
    json_option,
    moment,
    plain,
    progressing,
    write_facts,
    write_json,
    write_table,
)

_SUCCESS = range(200, 300)


yes_option = click.option(
    "--yes", is_flag=True, help="Send them without asking, on a terminal, too."
)


@click.command()
@webhook_argument
@json_option
def ping(webhook_id: str, as_json: bool) -> None:
    """Send a ping at once, and say what came back.

    Ends with 1 where the endpoint does not answer 2xx, or no worker runs.
    """
    attempt = call("webhook_ping", id=webhook_id)
    went_well = attempt["http_status"] in _SUCCESS
    if as_json:
        write_json(attempt)
    else:
        came = attempt["error"] or f"HTTP {attempt['http_status']}"
        how = coloured("good" if went_well else "bad ")
        click.echo(f"{how} {plain(came)}, after {attempt['duration']:.3f} s")
        for name in ("dialled", "answer"):
            if attempt[name]:
                click.echo(f"     {name}: {plain(attempt[name])}")
    if not went_well:
        raise SystemExit(1)


@click.command()
@webhook_argument
@click.option("--status", type=click.Choice([status.value for status in Status]))
@click.option(
    "--topic", type=click.Choice([*topics.TOPICS, *topics.PATTERNS, topics.PING]), help="Only this."
)
@click.option("--since", metavar="TIME", help="Only what was told at this time or later.")
@click.option("--until", metavar="TIME", help="Only what was told before this time.")
@click.option("--cursor", type=int, help="Only what is older than this.")
@click.option("--limit", type=int, help="At most so many (100).")
@json_option
def deliveries(webhook_id: str, as_json: bool, **wanted: Any) -> None:
    """List what a webhook was told, the newest first. Times are in UTC."""
    page = call("webhook_delivery_list", id=webhook_id, **wanted)
    if as_json:
        write_json(page)
        return
    write_table(
        ("ID", "CREATED", "TOPIC", "STATUS", "TRIES", "NEXT TRY", "REASON"),
        [
            (d["id"], moment(d["created_at"]), d["topic"], d["status"], d["tries"])
            + (moment(d["next_try"]), d["reason"])
            for d in page["deliveries"]
        ],
    )
    if page["cursor"] is not None:
        click.echo(f"There may be older ones: --cursor {page['cursor']}", err=True)


@click.command()
@click.argument("delivery_id", metavar="DELIVERY", type=int)
@json_option
def redeliver(delivery_id: int, as_json: bool) -> None:
    """Tell a webhook once more what a delivery told it, and print the new one's id."""
    made = call("webhook_redeliver", id=delivery_id)
    if as_json:
        write_json({"id": made})
    else:
        click.echo(made)


@click.command()
@webhook_argument
@click.option("--since", metavar="TIME", help="From this time on, as 2026-11-24T18:27:56Z.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--failed-only", is_flag=True, help="Only what it was not told in the end.")
@click.option("--dry-run", is_flag=True, help="Only say how many deliveries that would be.")
@yes_option
@json_option
def replay(webhook_id: str, dry_run: bool, yes: bool, as_json: bool, **wanted: Any) -> None:
    """Tell a webhook again what happened since a time, or what it missed.

    On a terminal it says first how many deliveries that would be, and asks.
    """
    if dry_run:
        count, said = _replayed(webhook_id, dry_run=True, **wanted), "would be sent"
    else:
        told, said = tell_again(webhook_id, yes, **wanted), "are to be sent"
        if told is None:
            raise click.Abort
        count = told
    if as_json:
        write_json({"deliveries": count})
    else:
        click.echo(f"{count} deliveries {said}")


def tell_again(webhook_id: str, yes: bool, **wanted: Any) -> int | None:
    """Replay page by page, and give how many deliveries are to be sent.

    :param yes: do not ask before it, where there is somebody at a terminal to ask
    :returns: None where the answer was no
    """
    if not yes and click.get_text_stream("stdin").isatty():
        count = _replayed(webhook_id, dry_run=True, **wanted)
        if not click.confirm(f"{count} deliveries would be sent. Send them?", err=True):
            return None
    return _replayed(webhook_id, **wanted)


def _replayed(webhook_id: str, **wanted: Any) -> int:
    count = 0

    def said(_told: int | None) -> str:
        return f"{count} deliveries"

    label = "Counting" if wanted.get("dry_run") else "Replaying"
    for told in progressing(_pages(webhook_id, wanted), label, said=said):
        count += told
    return count


@click.command()
@click.argument("webhook_id", metavar="[ID]", required=False, shell_complete=webhook_ids)
@click.option("--hours", type=int, help="Count what ended in the last so many hours (24).")
@json_option
def stats(webhook_id: str | None, hours: int | None, as_json: bool) -> None:
    """Say how deliveries go: all of the portal's, or one webhook's. Times are in seconds."""
    found = call("webhook_stats", id=webhook_id, hours=hours)
    if as_json:
        write_json(found)
    else:
        write_facts({**found, "since": moment(found["since"])})


COMMANDS = (ping, deliveries, redeliver, replay, stats)


def _pages(webhook_id: str, wanted: dict[str, Any]) -> Iterator[int]:
    cursor = None
    while True:
        told = call("webhook_replay", id=webhook_id, cursor=cursor, **wanted)
        yield told["deliveries"]
        cursor = told["cursor"]
        if cursor is None:
            return
