"""Words and drawings of the pages: what actions give, as people read it. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import ckan.plugins.toolkit as tk
from markupsafe import Markup

from . import wellformed
from .model import BY_A_PERSON, Circuit, Format, Status, WebhookState
from .phrases import N_, translated
from .topics import EVERYTHING

# What rows and enumerations say.
_WORDS = (
    *(N_("active"), N_("paused"), N_("disabled"), N_("unverified")),
    *(N_("pending"), N_("delivered"), N_("failed"), N_("cancelled")),
    *(N_("dataset"), N_("resource"), N_("organization"), N_("group"), N_("tag"), N_("type")),
    *(N_("good"), N_("odd"), N_("wrong")),
    *(N_("event"), N_("rights"), N_("delivery"), N_("webhook")),
)

# Bootstrap's, by what they say. Never the colour alone: a word goes with each.
_OF_STATUS = {
    Status.PENDING.value: "info text-dark",
    Status.DELIVERED.value: "success",
    Status.FAILED.value: "danger",
    Status.CANCELLED.value: "secondary",
}
_OF_STATE = {
    WebhookState.ACTIVE.value: "success",
    WebhookState.PAUSED.value: "warning text-dark",
    WebhookState.DISABLED.value: "secondary",
    WebhookState.UNVERIFIED.value: "info text-dark",
}


class Badge(NamedTuple):
    """A word, and the colours that go with it."""

    word: str
    colours: str


class Part(NamedTuple):
    """A part of a bar, in percent of its width."""

    name: str
    seconds: float
    start: float
    width: float


def helpers() -> dict[str, Callable[..., Any]]:
    """Give the helpers by the names under which templates have them."""
    return {
        "webhooks_badge": badge,
        "webhooks_format": format_,
        "webhooks_health": health,
        "webhooks_lines": lines,
        "webhooks_moment": moment,
        "webhooks_percent": percent,
        "webhooks_pretty": pretty,
        "webhooks_rate": rate,
        "webhooks_reason": translated,
        "webhooks_seconds": seconds,
        "webhooks_status": status,
        "webhooks_timing": timing,
        "webhooks_topics": topics,
    }


def is_failing(webhook: dict[str, Any]) -> bool:
    return bool(webhook["state"] == WebhookState.ACTIVE and webhook["health"]["failing_since"])


def urgency(webhook: dict[str, Any]) -> int:
    """Order webhooks by how much they want somebody to look at them, the most urgent first."""
    if is_failing(webhook):
        return 0
    if webhook["state"] == WebhookState.ACTIVE:
        return 2
    return 3 if webhook["state_reason"] == BY_A_PERSON else 1


def badge(webhook: dict[str, Any]) -> Badge:
    """Say in a word how a webhook is."""
    if is_failing(webhook):
        return Badge(tk._("failing"), "danger")
    state = webhook["state"]
    return Badge(tk._(state), _OF_STATE[state])


def status(name: str) -> Badge:
    """Say in a word how a delivery is."""
    return Badge(tk._(name), _OF_STATUS[name])


def topics(names: Sequence[str]) -> str:
    """Say what a webhook is told of."""
    return tk._("everything") if EVERYTHING in names else ", ".join(names)


def format_(name: str) -> str:
    """Say what the bodies of a format are."""
    return {
        Format.CLASSIC.value: tk._("Classic: the keys that this extension has always sent"),
        Format.STANDARD.value: tk._("Standard Webhooks: type, timestamp, data"),
        Format.CLOUDEVENTS.value: tk._("CloudEvents 1.0, structured JSON"),
    }[name]


def health(webhook: dict[str, Any]) -> list[str]:
    """Say in sentences how a webhook is, and what comes next."""
    facts, said = webhook["health"], []
    if webhook["state"] != WebhookState.ACTIVE:
        said.append(
            tk._("It is told nothing: {reason}.").format(reason=translated(_reason(webhook)))
        )
    elif is_failing(webhook):
        since = _text(facts["failing_since"])
        said.append(
            tk.ungettext(
                "It has been failing since {since}, once.",
                "It has been failing since {since}, {count} times in a row.",
                max(facts["failures"], 1),
            ).format(since=since, count=facts["failures"])
        )
        if facts["circuit"] != Circuit.CLOSED and facts["next_try"]:
            said.append(
                tk._("All that waits is held back until one delivery succeeds; next try {at}.")
                .format(at=_text(facts["next_try"]))
            )  # fmt: skip
    elif facts["last_success_at"]:
        said.append(tk._("All is well."))
    else:
        said.append(tk._("Nothing was delivered so far."))
    if facts["last_success_at"]:
        said.append(tk._("Last success {at}.").format(at=_text(facts["last_success_at"])))
    if facts["last_failure_at"]:
        said.append(tk._("Last failure {at}.").format(at=_text(facts["last_failure_at"])))
    if facts["missed_since"]:
        said.append(
            tk._("It was not told what happened since {at}; that can be replayed.").format(
                at=_text(facts["missed_since"])
            )
        )
    return said


def moment(text: str | None) -> Markup:
    """Write a time as an element that programs read too."""
    if text is None:
        return Markup("–")
    return Markup('<time datetime="{}">{}</time>').format(text, _text(text))


def seconds(value: float | None) -> str:
    """Write a duration, with three digits."""
    if value is None:
        return "–"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def rate(days: Sequence[dict[str, int]]) -> float | None:
    """Give which share of what ended was delivered; None where nothing ended."""
    delivered = sum(day["delivered"] for day in days)
    failed = sum(day["failed"] for day in days)
    return delivered / (delivered + failed) if delivered + failed else None


def percent(value: float | None) -> str:
    # 99.96 % is not all of it.
    return "–" if value is None else f"{int(value * 1000) / 10:g} %"


def pretty(body: str | None) -> str:
    """Lay out JSON so that people can read it; what is none stays as it is."""
    try:
        return json.dumps(wellformed.loads(body or ""), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return wellformed.text(body or "")


def timing(attempt: dict[str, Any], longest: float) -> list[Part]:
    """Give the parts of an attempt's time, one after the other.

    :param longest: seconds that the whole width stands for
    """
    steps = [(name, attempt[name] or 0.0) for name in ("resolve", "connect", "tls", "wait")]
    rest = attempt["duration"] - sum(took for _name, took in steps)
    parts, start = [], 0.0
    for name, took in (*steps, ("rest", max(rest, 0.0))):
        width = 100 * took / longest if longest else 0.0
        if took:
            parts.append(Part(name, took, start, width))
        start += width
    return parts


def lines(values: Sequence[float | None], highest: float) -> list[str]:
    """Give the points of the lines of a plot, which is 100 wide and 100 high.

    :param values: from the left to the right; where one is not known, a line ends
    :param highest: what is at the top
    """
    found: list[list[tuple[int, float]]] = [[]]
    for number, value in enumerate(values):
        if value is None:
            found.append([])
        else:
            found[-1].append((number, 100 - 100 * value / (highest or 1)))
    width = 100 / max(len(values), 1)
    # What is known of one step alone is as wide as that.
    return [
        " ".join(
            f"{(number + at) * width:.2f},{y:.2f}"
            for number, y in points
            for at in ((0.5,) if len(points) > 1 else (0, 1))
        )
        for points in found
        if points
    ]


def _reason(webhook: dict[str, Any]) -> str:
    return str(webhook["state_reason"] or webhook["state"])


def _text(moment_: str) -> str:
    """Write a time as :func:`webhook_list` gives it for people; without an offset it is UTC."""
    at = datetime.fromisoformat(moment_)
    at = at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at.astimezone(timezone.utc)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
