"""The words of the mails to owners. They name no secret and no custom header."""

from __future__ import annotations

import datetime
import textwrap
from dataclasses import dataclass

import ckan.plugins.toolkit as tk

from .. import wellformed
from ..phrases import translated
from .incident import Mail

# Of a line of prose, as RFC 3676 (4.2) has it for mail in plain text.
_WIDTH = 78


@dataclass(frozen=True)
class Facts:
    """What the mails say.

    :param what: what went wrong the last time
    :param since: the first failure after the last success
    :param until: when the webhook is disabled unless it works before
    :param missed_since: when it stopped being told
    """

    name: str
    webhook_id: str
    address: str
    description: str | None
    site_title: str
    site_url: str
    what: str | None
    state_reason: str | None
    since: datetime.datetime | None
    until: datetime.datetime | None
    missed_since: datetime.datetime | None


def write(mail: Mail, facts: Facts) -> tuple[str, str]:
    """Give the subject and the body of a mail, which can be written whatever they quote."""
    subject, said, advice = {
        Mail.FAILING: _failing,
        Mail.WARNING: _warning,
        Mail.DISABLED: _disabled,
        Mail.RECOVERED: _recovered,
    }[mail](facts)
    paragraphs = [
        tk._("Dear %(name)s,") % {"name": facts.name},
        textwrap.fill(said, _WIDTH, break_long_words=False, break_on_hyphens=False),
        "\n".join(_about(mail, facts)),
        "\n".join([tk._("What you can do, by the action API:"), *advice]),
        f"-- \n{facts.site_title}\n{facts.site_url}",
    ]
    body = "\n\n".join(paragraphs) + "\n"
    return wellformed.text(f"[{facts.site_title}] {subject}"), wellformed.text(body)


def _failing(facts: Facts) -> tuple[str, str, list[str]]:
    said = tk._(
        "the endpoint of your webhook does not take what it is sent. Nothing is lost yet: what"
        " waits is kept and tried again, and is sent when the endpoint works. If it fails until"
        " %(until)s, the webhook is disabled, and what waits then is cancelled."
    )
    advice = [_show(facts), _ping(facts), _move(facts)]
    return tk._("A webhook is failing"), said % {"until": _time(facts.until)}, advice


def _warning(facts: Facts) -> tuple[str, str, list[str]]:
    said = tk._(
        "the endpoint of your webhook still does not take what it is sent. If it goes on failing,"
        " the webhook is disabled at %(until)s, and what waits for it is cancelled."
    )
    advice = [_show(facts), _ping(facts), _move(facts)]
    return tk._("A webhook will be disabled"), said % {"until": _time(facts.until)}, advice


def _disabled(facts: Facts) -> tuple[str, str, list[str]]:
    said = tk._(
        "your webhook has been disabled: %(reason)s. It is told nothing any more, and what waited"
        " for it is cancelled. The webhook itself is kept; once its endpoint works you can enable"
        " it, and have sent what it missed."
    )
    again = [_replay(facts, failed_only=True), _replay(facts)]
    advice = [_show(facts), _enable(facts), *again]
    said %= {"reason": translated(str(facts.state_reason))}
    return tk._("A webhook has been disabled"), said, advice


def _recovered(facts: Facts) -> tuple[str, str, list[str]]:
    said = tk._(
        "the endpoint of your webhook works again. What waited for it is being sent. What was"
        " given up in the meantime is not, unless you ask for it."
    )
    return tk._("A webhook works again"), said, [_show(facts), _replay(facts, failed_only=True)]


def _about(mail: Mail, facts: Facts) -> list[str]:
    lines = [
        (tk._("address"), facts.address),
        (tk._("webhook"), facts.webhook_id),
        (tk._("description"), facts.description),
    ]
    if mail is not Mail.RECOVERED:
        lines += [
            (tk._("failing since"), _time(facts.since)),
            (tk._("last failure"), facts.what and translated(facts.what)),
        ]
    return [f"    {name}: {value}" for name, value in lines if value]


def _show(facts: Facts) -> str:
    return _call("webhook_show", facts, comment=tk._("what is wrong, and the next try"))


def _ping(facts: Facts) -> str:
    return _call("webhook_ping", facts, comment=tk._("try it now"))


def _move(facts: Facts) -> str:
    return _call("webhook_patch", facts, 'address="…"', comment=tk._("call another address"))


def _enable(facts: Facts) -> str:
    return _call("webhook_patch", facts, 'state="active"', comment=tk._("enable it"))


def _replay(facts: Facts, failed_only: bool = False) -> str:
    if failed_only:
        return _call("webhook_replay", facts, "failed_only=True", comment=tk._("what was given up"))
    since = facts.missed_since or facts.since
    moment = f'since="{since.isoformat()}"' if since else "since=…"
    return _call("webhook_replay", facts, moment, comment=tk._("what it missed"))


def _call(action: str, facts: Facts, *arguments: str, comment: str) -> str:
    given = ", ".join([f'id="{facts.webhook_id}"', *arguments])
    return f"    {action}({given})    # {comment}"


def _time(moment: datetime.datetime | None) -> str:
    """Write a time that is the same for every reader."""
    if moment is None:
        return ""
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
