"""Webhooks themselves: what there is, what it is registered with, and its secret."""

from __future__ import annotations

from typing import Any

import click
from ckan import model

from .. import topics
from ..model import Format, WebhookState
from .calling import call
from .completion import webhook_argument
from .deliveries import tell_again, yes_option
from .output import json_option, moment, write_facts, write_json, write_table

topic_choice = click.Choice([*topics.TOPICS, *topics.PATTERNS])


@click.command("list")
@click.option("--user", help="Only this user's, by name or id.")
@click.option("--state", type=click.Choice([state.value for state in WebhookState]))
@click.option("--topic", type=topic_choice, help="Only those that are told of this.")
@click.option("--limit", type=int, help="At most so many (100).")
@click.option("--offset", type=int, help="Skip so many.")
@json_option
def list_(as_json: bool, **wanted: Any) -> None:
    """List webhooks, the newest first."""
    found = call("webhook_list", **wanted)
    if as_json:
        write_json(found)
        return
    names = _names({webhook["user_id"] for webhook in found})
    write_table(
        ("ID", "STATE", "OWNER", "TOPICS", "ADDRESS"),
        [
            (w["id"], _how_it_is(w), names.get(w["user_id"], w["user_id"]), w["topics"])
            + (w["address"],)
            for w in found
        ],
    )


@click.command()
@webhook_argument
@json_option
def show(webhook_id: str, as_json: bool) -> None:
    """Show a webhook, and how its endpoint does."""
    _write(call("webhook_show", id=webhook_id), as_json)


@click.command()
@click.argument("address")
@click.option(
    "--topic",
    type=topic_choice,
    multiple=True,
    default=[topics.EVERYTHING],
    show_default=True,
    help="What to tell it; may be given several times.",
)
@click.option("--user", help="Its owner, by name or id: it is told what that user may see.")
@click.option("--description", help="For people.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Tell only of these, as organization=health; may be given several times.",
)
@click.option("--format", type=click.Choice([format_.value for format_ in Format]))
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Send this along; may be given several times. While this runs, others on this machine"
    " can read it in the list of processes.",
)
@click.option("--max-rate", type=int, help="At most so many deliveries a minute.")
@click.option("--coalesce", is_flag=True, help="Of what waits, tell only the newest state.")
@json_option
def create(
    address: str,
    topic: tuple[str, ...],
    user: str | None,
    filters: tuple[str, ...],
    headers: tuple[str, ...],
    as_json: bool,
    **rest: Any,
) -> None:
    """Register a webhook, and print its id."""
    created = call(
        "webhook_create",
        user,
        address=address,
        topic=list(topic),
        filters=_filters(filters),
        headers=dict(_pair(text, ":", "--header") for text in headers) or None,
        **rest,
    )
    if as_json:
        write_json(call("webhook_show", id=created))
    else:
        click.echo(created)


@click.command()
@webhook_argument
@click.option("--replay", is_flag=True, help="Tell it what it missed meanwhile.")
@yes_option
@json_option
def enable(webhook_id: str, replay: bool, yes: bool, as_json: bool) -> None:
    """Tell a webhook again, which was disabled, and trust its endpoint anew.

    With --replay it says on a terminal how many deliveries that would be, and asks.
    """
    enabled = call("webhook_patch", id=webhook_id, state=WebhookState.ACTIVE.value)
    missed_since = enabled["health"]["missed_since"]
    count = tell_again(webhook_id, yes) if replay and missed_since else None
    if as_json:
        write_json({**call("webhook_show", id=webhook_id), "deliveries": count})
        return
    click.echo(enabled["state"])
    if count is not None:
        click.echo(f"{count} deliveries are to be sent, of what it missed since {missed_since}")
    elif missed_since:
        click.echo(f"It missed what happened since {missed_since}. To tell it:")
        click.echo(f"    ckan webhooks replay {webhook_id}")


@click.command()
@webhook_argument
@json_option
def disable(webhook_id: str, as_json: bool) -> None:
    """Tell a webhook nothing more, and cancel what waits. It is kept."""
    disabled = call("webhook_patch", id=webhook_id, state=WebhookState.DISABLED.value)
    if as_json:
        write_json(disabled)
    else:
        click.echo(disabled["state"])


@click.command()
@webhook_argument
@json_option
def delete(webhook_id: str, as_json: bool) -> None:
    """Delete a webhook; what waits for it is cancelled."""
    deleted = call("webhook_delete", id=webhook_id)
    if as_json:
        write_json({"id": deleted})
    else:
        click.echo(deleted)


@click.command()
@webhook_argument
@click.option("--rotate", is_flag=True, help="Make a new one; the old one signs too for 24 hours.")
@json_option
def secret(webhook_id: str, rotate: bool, as_json: bool) -> None:
    """Show the secret that a webhook's requests are signed with."""
    shown = call("webhook_secret_rotate" if rotate else "webhook_secret_show", id=webhook_id)
    if as_json:
        write_json(shown)
    else:
        click.echo(shown["secret"])


COMMANDS = (list_, show, create, enable, disable, delete, secret)


def _write(webhook: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(webhook)
        return
    health = {
        name: moment(value) if name.endswith(("_at", "_since", "next_try")) else value
        for name, value in webhook["health"].items()
        if name != "state_reason"
    }
    owner = _names({webhook["user_id"]}).get(webhook["user_id"], webhook["user_id"])
    hidden = ("id", "topic", "user_id", "health")
    shown = {name: value for name, value in webhook.items() if name not in hidden}
    shown["created_at"] = moment(webhook["created_at"])
    write_facts({"id": webhook["id"], "owner": owner, **shown, "health": health})


def _how_it_is(webhook: dict[str, Any]) -> str:
    """Say of an active webhook whether it fails."""
    is_failing = webhook["state"] == WebhookState.ACTIVE and webhook["health"]["failing_since"]
    return "failing" if is_failing else webhook["state"]


def _names(user_ids: set[str]) -> dict[str, str]:
    """Name users by their ids; an owner who was purged has no name."""
    query = model.Session.query(model.User.id, model.User.name)
    return {row.id: row.name for row in query.filter(model.User.id.in_(sorted(user_ids)))}


def _filters(given: tuple[str, ...]) -> dict[str, list[str]] | None:
    filters: dict[str, list[str]] = {}
    for text in given:
        name, value = _pair(text, "=", "--filter")
        filters.setdefault(name, []).append(value)
    return filters or None


def _pair(text: str, between: str, option: str) -> tuple[str, str]:
    name, found, value = text.partition(between)
    if not found:
        message = f"{text!r} is no NAME{between}VALUE"
        raise click.BadParameter(message, param_hint=option)
    return name.strip(), value.strip()
