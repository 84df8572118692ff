"""What failed alone and was put aside: shown, tried at once, or given up."""

from __future__ import annotations

from typing import Any

import click

from .calling import call
from .completion import quarantine_ids
from .output import json_option, moment, write_json, write_table


@click.group()
def quarantine() -> None:
    """What failed alone and was put aside, so that everything else goes on.

    It is tried again by itself, after pauses that grow from 5 seconds to an
    hour.
    """


@quarantine.command("list")
@click.option("--limit", type=int, help="At most so many (100).")
@json_option
def list_(limit: int | None, as_json: bool) -> None:
    """List what is put aside, the oldest first. Times are in UTC."""
    found = call("webhook_quarantine_list", limit=limit)
    if as_json:
        write_json(found)
        return
    write_table(
        ("ID", "KIND", "OF", "DATASET", "SINCE", "TRIES", "NEXT TRY", "REASON"),
        [
            (row["id"], row["kind"], _of(row), row["dataset_id"], moment(row["put_aside_at"]))
            + (row["tries"], moment(row["next_try_at"]), row["reason"])
            for row in found
        ],
    )


@quarantine.command()
@click.argument("id_", metavar="[ID]", type=int, required=False, shell_complete=quarantine_ids)
@click.option("--all", "is_all", is_flag=True, help="Try all that is put aside.")
@json_option
def retry(id_: int | None, is_all: bool, as_json: bool) -> None:
    """Have a worker try what is put aside at once, rather than after its pause."""
    if (id_ is None) != is_all:
        raise click.UsageError("Name one by its ID, or all of it by --all.")
    count = call("webhook_quarantine_retry", id=id_)
    if as_json:
        write_json({"due": count})
    else:
        click.echo(
            f"{count} due now, for a worker to try within seconds: in a moment `ckan webhooks"
            " quarantine list` shows what failed again"
        )


@quarantine.command("give-up")
@click.argument("id_", metavar="ID", type=int, shell_complete=quarantine_ids)
@json_option
def give_up(id_: int, as_json: bool) -> None:
    """Give up what is put aside, so that nothing waits for it any more.

    An event is told to nobody, a delivery is cancelled, a webhook is
    disabled.
    """
    given_up = call("webhook_quarantine_give_up", id=id_)
    if as_json:
        write_json({"id": given_up})
    else:
        click.echo(given_up)


def _of(row: dict[str, Any]) -> Any:
    names = ("event_id", "delivery_id", "webhook_id", "user_id")
    return next((row[name] for name in names if row[name] is not None), None)
