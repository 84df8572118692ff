"""How long pages take with a million deliveries, through CKAN over HTTP.

python -m bench.pages FOLDER [--deliveries N]
"""

from __future__ import annotations

import argparse
import re
import secrets
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ckanapi
import psycopg2
import requests

from ckanext.webhooks.tests.site import Site

DELIVERIES = 1_000_000
GOAL_MS = 300.0
ROUNDS = 20
# What the machine gives beside all else that it does: a page that is none of ours.
BESIDE = "CKAN's list of one's datasets"
# As many as their owner's page shows at once.
WEBHOOKS = 25

# Over 14 days, the oldest first, as ids are given; half of them are one webhook's. Each tenth
# event is told to ten webhooks, and one in fifty fails.
EVENTS = """
INSERT INTO webhooks_event (id, sequence, entity_type, entity_id, dataset_id, version, state,
    occurred_at, captured_at, dispatched_at, labels, facets, content, digest)
SELECT 'past-' || n, nextval('webhooks_event_order'), 'dataset', 'd-' || n / 10, 'd-' || n / 10,
    1 + n %% 10, 'active', at, at, at, ARRAY['public'], '{}', repeat('x', 200), n
FROM (SELECT n, clock_timestamp() - (%(events)s - n) * interval '14 days' / %(events)s AS at
    FROM generate_series(1, %(events)s) n) past
"""
TELL = """
WITH delivery AS (
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format, status,
        reason, tries, due_at, created_at, ended_at)
    SELECT (%(ids)s)[CASE WHEN m %% 2 = 0 THEN 1 ELSE 1 + (e.sequence + m) %% %(webhooks)s END],
        e.id, 'dataset/update', e.sequence, 'http://example.com/', 'classic',
        CASE WHEN e.sequence %% 50 = 0 THEN 'failed' ELSE 'delivered' END,
        CASE WHEN e.sequence %% 50 = 0 THEN 'the endpoint answered 503' END,
        1, NULL, e.occurred_at, e.occurred_at + interval '20 ms'
    FROM webhooks_event e CROSS JOIN generate_series(1, 10) m WHERE e.sequence IS NOT NULL
    ORDER BY e.sequence
    RETURNING id, created_at
)
INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, http_status)
SELECT id, 1, created_at, 0.01, 200 FROM delivery
"""


class Page(NamedTuple):
    """A page, and who looks at it: ``owner`` of the webhooks, or ``sysadmin``."""

    name: str
    who: str
    path: str


class Taken(NamedTuple):
    """Milliseconds that a page took."""

    page: Page
    times: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None of CKAN's own pages, which have none."""
        return self.median <= GOAL_MS if self.page.name != BESIDE else None


def measure(folder: Path, deliveries: int) -> Iterator[Taken]:
    """Yield what each page took."""
    with Site(folder, plugins="activity webhooks") as site:
        site.start_web("gunicorn", workers=2)
        sysadmin = ckanapi.RemoteCKAN(site.url, apikey=site.token)
        sessions = {
            "owner": _log_in(site, sysadmin, "owner"),
            "sysadmin": _log_in(site, sysadmin, "operator"),
        }
        sysadmin.action.user_patch(id="operator", sysadmin=True)
        pages = _prepare(site, sysadmin, deliveries)
        for page in pages:
            session, times = sessions[page.who], []
            for n in range(ROUNDS + 2):
                started = time.perf_counter()
                answer = session.get(site.url + page.path)
                took = (time.perf_counter() - started) * 1000
                assert answer.status_code == 200, (page, answer.status_code, answer.text[:500])
                assert "/user/login" not in answer.url, page
                if n >= 2:  # the first of each of the two processes compiles the template
                    times.append(took)
            yield Taken(page, times)


def _prepare(site: Site, sysadmin: Any, deliveries: int) -> list[Page]:
    """Make webhooks and what they were told; gives the pages that show it."""
    token = sysadmin.action.api_token_create(user="owner", name="bench")["token"]
    owner = ckanapi.RemoteCKAN(site.url, apikey=token)
    hooks = [
        owner.action.webhook_create(topic="*", address=f"http://n{n}.example.com/")
        for n in range(WEBHOOKS)
    ]
    organization = sysadmin.action.organization_create(name="bench")
    dataset = sysadmin.action.package_create(name="bench", owner_org=organization["id"])
    connection = psycopg2.connect(site.database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(EVENTS, {"events": deliveries // 10})
        # The newest thousand versions are of a dataset that there is.
        cursor.execute(
            "UPDATE webhooks_event SET dataset_id = %s, entity_id = %s, version = 1000 + sequence"
            " WHERE sequence > (SELECT max(sequence) - 1000 FROM webhooks_event)",
            [dataset["id"], dataset["id"]],
        )
        cursor.execute(TELL, {"ids": hooks, "webhooks": WEBHOOKS})
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("SELECT max(id), count(*) FROM webhooks_delivery")
        newest, count = cursor.fetchone()
    connection.close()
    print(f"{count} deliveries, {deliveries // 10} events", flush=True)
    busy, yesterday = (
        f"/webhook/{hooks[0]}",
        time.strftime("%Y-%m-%dT00:00", time.gmtime(time.time() - 86400)),
    )
    return [
        Page(BESIDE, "owner", "/dashboard/datasets"),
        Page("my webhooks", "owner", "/dashboard/webhooks"),
        Page("form, new", "owner", "/webhook/new"),
        Page("form, edit", "owner", f"{busy}/edit"),
        Page("one webhook", "owner", busy),
        Page("one webhook, failed", "owner", f"{busy}?status=failed"),
        Page("one webhook, cancelled (none)", "owner", f"{busy}?status=cancelled"),
        Page("one webhook, a topic (none)", "owner", f"{busy}?topic=resource/delete"),
        Page("one webhook, since a day", "owner", f"{busy}?since={yesterday}"),
        Page("one webhook, until a day", "owner", f"{busy}?until={yesterday}&status=failed"),
        Page("one webhook, from the middle", "owner", f"{busy}?cursor={newest // 2}"),
        Page("one delivery", "owner", f"/webhook/delivery/{newest - newest % 2}"),
        Page("secret", "owner", f"{busy}/secret"),
        Page("replay", "owner", f"{busy}/replay"),
        Page("administration, a day", "sysadmin", "/ckan-admin/webhooks"),
        Page("administration, 30 days", "sysadmin", "/ckan-admin/webhooks?hours=720"),
        Page("administration, one host", "sysadmin", "/ckan-admin/webhooks?host=n3.example.com"),
        Page("a dataset", "sysadmin", "/dataset/webhooks/bench"),
    ]


def _log_in(site: Site, sysadmin: Any, name: str) -> requests.Session:
    """Give the session of a user who has logged in by the form, as people do."""
    password = secrets.token_hex(8)
    sysadmin.action.user_create(name=name, email=f"{name}@example.com", password=password)
    session = requests.Session()
    session.trust_env = False
    form = session.get(f"{site.url}/user/login").text
    hidden = dict(re.findall(r'name="(_?csrf_token)" value="([^"]+)"', form))
    fields = {"login": name, "password": password, **hidden}
    answer = session.post(f"{site.url}/user/login", data=fields)
    assert answer.ok and "/user/login" not in answer.url, answer.url
    return session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the site")
    parser.add_argument("--deliveries", type=int, default=DELIVERIES)
    given = parser.parse_args()
    print(f"{'page':32} {'median':>8} {'max':>8}  goal {GOAL_MS:g} ms")
    taken = []
    for one in measure(given.folder / "pages", given.deliveries):
        taken.append(one)
        verdict = {True: "met", False: "NOT MET", None: ""}[one.met]
        print(f"{one.page.name:32} {one.median:5.0f} ms {max(one.times):5.0f} ms  {verdict}")
    met = [one.met for one in taken if one.met is not None]
    print(f"{sum(met)} of {len(met)} goals are met")
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
