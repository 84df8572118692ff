"""``ckan webhooks …``"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import nullcontext
from typing import Any

import ckan.plugins.toolkit as tk
import click
from ckan import model as ckan_model

from . import capture, config, doctor, encryption, tasks
from .model import Webhook, missing_tables
from .model.base import HOW_TO_MIGRATE


def get_commands() -> list[click.Command]:
    return [webhooks]


@click.group(short_help="Signed webhooks for dataset and resource changes.")
def webhooks() -> None:
    """Signed webhooks for dataset and resource changes."""


@webhooks.command()
@click.option("--concurrency", default=2, show_default=True, help="Tasks run at once.")
@click.option("--loglevel", default="INFO", show_default=True)
def worker(concurrency: int, loglevel: str) -> None:
    """Run a Celery worker: it delivers at once, and needs nothing beside it.

    Any number of workers may run, on any number of machines.
    """
    _require_tables()
    os.environ["CKAN_INI"] = tk.config["__file__"]
    # The same command that Celery's users know, in this very process: what the
    # command line alone needed of CKAN is not kept in memory.
    command = [sys.executable, "-m", "celery", "-A", "ckanext.webhooks.worker", "worker"]
    command += [f"--concurrency={concurrency}", f"--loglevel={loglevel}"]
    # Workers need not know of each other: the tables say what is taken.
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    os.execv(command[0], command)


@webhooks.command()
@click.option("--forever", is_flag=True, help="Go on, looking once a second.")
@click.pass_context
def deliver(context: click.Context, forever: bool) -> None:
    """Do a worker's work without Celery: deliver what is due, then end.

    May run beside workers.
    """
    _require_tables()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: tasks.stopping.set())
    if forever:
        app = context.meta.get("flask_app")
        tasks.tick(app.test_request_context if app else nullcontext)
    else:
        made = tasks.work_once()
        click.echo(f"{made} attempts")


@webhooks.command()
def snapshot() -> None:
    """Note in the log every dataset that it does not know yet. Nobody is told.

    A worker does so by itself when it starts; on a portal with very many
    datasets this shows how far it is. It may be stopped, and goes on where it
    was.
    """
    _require_tables()
    found: Counter[capture.Found] = Counter()
    with click.progressbar(length=capture.count_unknown(), label="Datasets") as bar:
        for one in capture.snapshot():
            found[one] += 1
            bar.update(1)
    click.echo(f"{found[capture.Found.MISSED]} datasets noted")
    _say_failed(found)


@webhooks.command()
def reconcile() -> None:
    """Compare log and catalogue, and tell what was missed.

    A worker does so every hour; run it after changing datasets by SQL.
    """
    _require_tables()
    found = Counter(capture.reconcile())
    click.echo(f"{found[capture.Found.MISSED]} changes found")
    _say_failed(found)


def _say_failed(found: Counter[capture.Found]) -> None:
    if found[capture.Found.FAILED]:
        raise click.ClickException(
            f"{found[capture.Found.FAILED]} datasets could not be captured: see CKAN's log for"
            " each, and run this again"
        )


@webhooks.command("doctor")
def diagnose() -> None:
    """Look at what deliveries depend on, and say for each what to do.

    Ends with 1 where something keeps webhooks from being called.
    """
    found = list(doctor.findings())
    for finding in found:
        mark, colour = _MARKS[finding.level]
        click.echo(f"{click.style(mark, fg=colour)} {finding.what}")
        if finding.advice:
            click.echo(f"     {finding.advice}")
    if any(finding.level is doctor.Level.WRONG for finding in found):
        raise SystemExit(1)


_MARKS = {
    doctor.Level.GOOD: ("good", "green"),
    doctor.Level.ODD: ("odd ", "yellow"),
    doctor.Level.WRONG: ("bad ", "red"),
}


@webhooks.command()
def rekey() -> None:
    """Write every stored secret with the first of ckanext.webhooks.secret_keys.

    Run it after a new key was put first; the old one can go afterwards.
    """
    _require_tables()
    keys = config.secret_keys()
    unreadable = 0
    hooks = ckan_model.Session.query(Webhook).order_by(Webhook.id).all()
    with click.progressbar(hooks, label="Webhooks") as bar:
        for hook in bar:
            unreadable += not _rekey(hook, keys)
    ckan_model.Session.commit()
    click.echo(f"{len(hooks) - unreadable} webhooks written with the first key")
    if unreadable:
        raise click.ClickException(
            f"{unreadable} webhooks are written with a key that is not listed: add the old key"
            " at the end of ckanext.webhooks.secret_keys and run this again"
        )


def _rekey(hook: Any, keys: list[str]) -> bool:
    """Write one webhook's secrets anew; False where they cannot be read."""
    try:
        for name in ("secret", "previous_secret", "headers"):
            token = getattr(hook, name)
            if token is not None:
                setattr(hook, name, encryption.reencrypt(token, keys))
    except encryption.UnreadableSecret as error:
        click.secho(f"{hook.id}: {error}", fg="red", err=True)
        return False
    return True


def _require_tables() -> None:
    if missing_tables():
        raise click.ClickException(
            f"The tables of the webhooks plugin are missing: {HOW_TO_MIGRATE}"
        )
