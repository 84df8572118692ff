"""Figures for Prometheus, in its text format.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format

All of them are read from the tables: each web process of each machine gives the same, and
that nobody works is seen whatever a worker says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ckan.plugins.toolkit as tk
import flask
from ckan import model
from ckan.lib import api_token

from ..logic import stats
from ..model import Kind, WebhookState, missing_tables
from ..model.base import HOW_TO_MIGRATE

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Rates and times are those of the last five minutes, and of the newest so many that
# ended: a tenth of what webhook_stats reads, since this is asked for again and again.
_HOURS = 5 / 60
_MOST = 5_000
_QUANTILES = {"0.5": "p50", "0.95": "p95", "0.99": "p99"}

# Values by the label's; without a label there is one, of "".
_Samples = Mapping[str, "float | None"]


def metrics() -> flask.Response:
    """All figures, for a sysadmin's API token."""
    user = _caller()
    if user is None:
        return _text(401, tk._("Send the API token of a sysadmin"))
    if not user.sysadmin:
        return _text(403, tk._("Need to be system administrator to administer"))
    if missing_tables():
        return _text(503, HOW_TO_MIGRATE)
    found = stats.measure(None, _HOURS, _MOST)
    lines = _lines(found, stats.totals(), stats.standing(), stats.quarantined())
    return _text(200, *lines)


def _caller() -> Any:
    """Give the active user who asks, or None.

    Prometheus can only send ``Bearer TOKEN``, and CKAN takes only the token alone.
    """
    user = tk.current_user
    kind, _, token = flask.request.headers.get("Authorization", "").partition(" ")
    if kind == "Bearer":
        user = api_token.get_user_from_token(token)
    return user if getattr(user, "state", None) == model.State.ACTIVE else None


def _text(status: int, *lines: str) -> flask.Response:
    answer = flask.Response("".join(f"{line}\n" for line in lines), status)
    answer.headers["Content-Type"] = CONTENT_TYPE
    answer.headers["Cache-Control"] = "no-store"
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _lines(
    found: Mapping[str, Any],
    totals: Mapping[str, int],
    standing: Mapping[str, int],
    quarantined: Mapping[str, int],
) -> Iterator[str]:
    waiting = found["waiting"]
    yield from _metric(
        "events_total", "counter", "Events that were dispatched.", {"": totals["events"]}
    )
    yield from _metric(
        "deliveries_total",
        "counter",
        "Deliveries, whatever came of them.",
        {"": totals["deliveries"]},
    )
    yield from _metric("attempts_total", "counter", "Requests sent.", {"": totals["attempts"]})
    yield from _metric(
        "oldest_due_seconds",
        "gauge",
        "For how long the first of what is due has been: a second, or nobody works.",
        {"": waiting["age"] or 0.0},
    )
    yield from _metric(
        "queue_depth",
        "gauge",
        "What waits: events, deliveries that are due, later ones, and those held back.",
        {state: waiting[state] for state in ("events", "due", "later", "held_back")},
        "state",
    )
    yield from _metric(
        "success_ratio",
        "gauge",
        "Of what ended in the last five minutes, how much was delivered.",
        {"": found["success_rate"]},
    )
    yield from _metric(
        "latency_seconds",
        "summary",
        "From when an event was told to when it was delivered, where the first try did it.",
        _quantiles(found["latency"]),
        "quantile",
    )
    yield from _metric(
        "attempt_duration_seconds",
        "summary",
        "What requests took.",
        _quantiles(found["duration"]),
        "quantile",
    )
    yield from _metric(
        "registered",
        "gauge",
        "Webhooks.",
        {state.value: standing[state.value] for state in WebhookState},
        "state",
    )
    yield from _metric(
        "failing", "gauge", "Active webhooks whose endpoint fails.", {"": standing["failing"]}
    )
    yield from _metric(
        "missed",
        "gauge",
        "Datasets of which something could not be captured yet: none, or the log says why.",
        {"": standing["missed"]},
    )
    yield from _metric(
        "quarantined",
        "gauge",
        "What failed alone and is put aside, so that everything else goes on.",
        {kind.value: quarantined[kind.value] for kind in Kind},
        "kind",
    )


def _quantiles(percentiles: Mapping[str, float | None]) -> _Samples:
    return {quantile: percentiles[name] for quantile, name in _QUANTILES.items()}


def _metric(name: str, kind: str, help_: str, samples: _Samples, label: str = "") -> Iterator[str]:
    """Write a metric; a value that is not known is left out, as the format wants it."""
    yield f"# HELP webhooks_{name} {help_}"
    yield f"# TYPE webhooks_{name} {kind}"
    for of, value in samples.items():
        if value is not None:
            labels = f'{{{label}="{of}"}}' if label else ""
            yield f"webhooks_{name}{labels} {value}"


# Of its own: who is not logged in is refused, and not sent to a form.
blueprint = flask.Blueprint("webhooks_metrics", __name__)
blueprint.add_url_rule("/webhooks/metrics", "metrics", metrics, methods=["GET"])
