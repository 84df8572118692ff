"""A worker's work, and what is done to the tables by hand."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import nullcontext

import click
from ckan import model as ckan_model

from .. import capture, config, doctor, encryption, sweep, tasks
from ..model import Event, Webhook, epoch, transaction
from .calling import require_tables
from .output import coloured, json_option, progressing, write_json


@click.command()
@click.option("--concurrency", default=2, show_default=True, help="Tasks run at once.")
@click.option("--loglevel", default="INFO", show_default=True)
def worker(concurrency: int, loglevel: str) -> None:
    """Run a Celery worker: it delivers at once, and needs nothing beside it.

    Any number of workers may run, on any number of machines.
    """
    require_tables()
    # Here and not above: it sets this process up as a worker.
    from celery.bin.celery import celery

    from .. import worker as entry

    # Celery's own command, in this very process: loading CKAN anew would double the time
    # after which a worker that was killed is back.
    command = ["--app", entry.__name__, "worker"]
    command += [f"--concurrency={concurrency}", f"--loglevel={loglevel}"]
    # Workers need not know of each other: the tables say what is taken.
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    celery.main(command)


@click.command()
@click.option("--forever", is_flag=True, help="Go on, looking once a second.")
@json_option
@click.pass_context
def deliver(context: click.Context, forever: bool, as_json: bool) -> None:
    """Do a worker's work without Celery: deliver what is due, then end.

    May run beside workers.
    """
    if forever and as_json:
        raise click.UsageError("With --forever there is no end at which to print a document.")
    require_tables()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: tasks.stopping.set())
    if forever:
        app = context.meta.get("flask_app")
        tasks.tick(app.test_request_context if app else nullcontext)
    else:
        capture.capture_missed()
        try:
            made = tasks.work_once()
        except tasks.StageFailed as error:
            raise click.ClickException(str(error)) from error
        _say(as_json, f"{made} attempts", attempts=made)


@click.command()
@json_option
def snapshot(as_json: bool) -> None:
    """Note in the log every dataset that it does not know yet. Nobody is told.

    A worker does so by itself when it starts; on a portal with very many
    datasets this shows how far it is. It may be stopped, and goes on where it
    was.
    """
    require_tables()
    found = Counter(progressing(capture.snapshot(), "Datasets", capture.count_unknown()))
    _say_found(found, "{} datasets noted", as_json)


@click.command()
@click.argument("datasets", nargs=-1)
@json_option
def reconcile(datasets: tuple[str, ...], as_json: bool) -> None:
    """Compare log and catalogue, and tell what was missed.

    A worker does so every hour; run it after changing datasets by SQL. It goes by each
    dataset's metadata_modified and who may see it. DATASETS (ids or names) are looked at
    whatever these say.
    """
    require_tables()
    named = [_dataset_id(name) for name in datasets]
    steps = capture.reconcile_datasets(named).values() if named else capture.reconcile()
    _say_found(Counter(steps), "{} changes found", as_json)


def _dataset_id(name: str) -> str:
    package = ckan_model.Package.get(name)
    if package is not None:
        return str(package.id)
    if ckan_model.Session.query(Event).filter_by(dataset_id=name).first() is None:
        raise click.ClickException(
            f"Not found: dataset {name}. One that was purged is known by its id alone"
        )
    return name


def _say_found(found: Counter[capture.Found], text: str, as_json: bool) -> None:
    missed, failed = found[capture.Found.MISSED], found[capture.Found.FAILED]
    _say(as_json, text.format(missed), missed=missed, failed=failed)
    if failed:
        raise click.ClickException(
            f"{failed} datasets could not be captured: see CKAN's log for each, and run this again"
        )


@click.command()
@json_option
def prune(as_json: bool) -> None:
    """Drop what is older than ``retention_days`` or has no room in ``log_max_size``.

    A worker does so by itself; run it after lowering one of the two.
    """
    require_tables()
    dropped = 0

    def said(_rows: int | None) -> str:
        return f"{dropped} rows"

    for rows in progressing(sweep.drop_old(), "Dropping", said=said):
        dropped += rows
    _say(as_json, f"{dropped} rows dropped", rows=dropped)


@click.command("doctor")
@json_option
def diagnose(as_json: bool) -> None:
    """Look at what deliveries depend on, and say for each what to do.

    Ends with 1 where something keeps webhooks from being called.
    """
    found = list(doctor.findings())
    if as_json:
        write_json([{**vars(finding), "level": finding.level.value} for finding in found])
    else:
        for finding in found:
            click.echo(f"{coloured(finding.level.value.ljust(_LEVEL))} {finding.what}")
            if finding.advice:
                click.echo(f"{'':{_LEVEL}} {finding.advice}")
    if any(finding.level is doctor.Level.WRONG for finding in found):
        raise SystemExit(1)


# Characters of the longest.
_LEVEL = max(len(level.value) for level in doctor.Level)


@click.command()
@json_option
def rekey(as_json: bool) -> None:
    """Write every stored secret with the first of ckanext.webhooks.secret_keys.

    Run it after a new key was put first; the old one can go afterwards.
    """
    require_tables()
    keys = config.secret_keys()
    unreadable = 0
    ids = [row.id for row in ckan_model.Session.query(Webhook.id).order_by(Webhook.id)]
    for webhook_id in progressing(ids, "Webhooks"):
        unreadable += not _rekey(webhook_id, keys)
    written = len(ids) - unreadable
    _say(
        as_json,
        f"{written} webhooks written with the first key",
        written=written,
        unreadable=unreadable,
    )
    if unreadable:
        raise click.ClickException(
            f"{unreadable} webhooks are written with a key that is not listed: add the old key"
            " at the end of ckanext.webhooks.secret_keys and run this again"
        )


def _rekey(webhook_id: str, keys: list[str]) -> bool:
    """Write one webhook's secrets anew; False where one of them cannot be read.

    Its row is locked meanwhile: who gives it a new secret comes before or after.
    """
    hook = ckan_model.Session.get(Webhook, webhook_id, with_for_update=True, populate_existing=True)
    errors = []
    for name in _ENCRYPTED if hook is not None else ():
        token = getattr(hook, name)
        try:
            if token is not None:
                setattr(hook, name, encryption.reencrypt(token, keys))
        except encryption.UnreadableSecret as error:
            errors.append(error)
    ckan_model.Session.commit()
    if errors:
        click.secho(f"{webhook_id}: {errors[0]}", fg="red", err=True)
    return not errors


_ENCRYPTED = ("secret", "previous_secret", "headers")


@click.command()
@json_option
def restored(as_json: bool) -> None:
    """Say that the database was restored from a back-up, before workers start.

    The numbers of events that were given after the back-up would be given again: a new epoch
    begins, so that they are not. Who has a cursor from after the back-up is told to begin anew.
    """
    require_tables()
    with transaction() as connection:
        number = epoch.begin(connection)
    _say(as_json, f"epoch {number} has begun", epoch=number)


COMMANDS = (worker, deliver, snapshot, reconcile, prune, diagnose, rekey, restored)


def _say(as_json: bool, text: str, **facts: int) -> None:
    if as_json:
        write_json(facts)
    else:
        click.echo(text)
