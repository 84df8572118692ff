"""How figures grow: with the webhooks, the log, the workers and the payload.

python -m bench.growth FOLDER [--quick] [CURVE…]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from bench import plots, settings, table, throughput
from bench.stand import BODY, Stand, execute, latencies, percentile, vacuum
from bench.throughput import Shape
from ckanext.webhooks.dispatch import dispatch

RESULTS = Path(__file__).with_name("growth.json")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

Point = dict[str, float]

RUNS = 3
DELIVERIES = 20_000  # about so many for each run
MOST_EVENTS = 2_000  # of one webhook, which is told of them one at a time
OWNERS = 100
# Bytes and events. Ten webhooks are told of each: 200 MB of the largest.
PAYLOADS = ((1 << 10, 500), (BODY, 500), (1 << 14, 500), (1 << 17, 100), (1 << 20, 20))

# A log as a portal has it: ten versions of each dataset, each told to one webhook.
# Their datasets are not in the catalogue: a worker that starts would find them gone.
FILL = """
WITH event AS (
    INSERT INTO webhooks_event (id, sequence, entity_type, entity_id, dataset_id, version, state,
        occurred_at, captured_at, dispatched_at, labels, facets, content, digest)
    SELECT 'old-' || n, nextval('webhooks_event_order'), 'dataset', 'old-' || n / 10,
        'old-' || n / 10, 1 + n % 10, 'active', now(), now(), now(), ARRAY['public'], '{}',
        '{"id": "old-' || n / 10 || '", "resources": [], "notes": "' || repeat('x', 200) || '"}', n
    FROM generate_series(CAST(:first AS int), :last) n
    RETURNING id, sequence
), delivery AS (
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format, status,
        tries, due_at, ended_at)
    SELECT 'old', id, 'dataset/update', sequence, 'http://example.com/', 'classic', 'delivered',
        1, now(), now()
    FROM event RETURNING id
)
INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, http_status)
SELECT id, 1, now(), 0.01, 200 FROM delivery
"""


def with_webhooks(stand: Stand, quick: bool) -> Iterator[Point]:
    """Yield what webhooks cost an event, and what goes out, with one worker."""
    for webhooks in (1, 10, 100, 1_000, 10_000, 100_000)[: 4 if quick else 6]:
        events = max(1, min(MOST_EVENTS, DELIVERIES // webhooks) // (10 if quick else 1))
        shape = Shape(webhooks, events, owners=min(webhooks, OWNERS))
        runs = [throughput.measure(stand, shape) for _ in range(1 if quick else RUNS)]
        yield {
            "webhooks": webhooks,
            "ms to dispatch an event": statistics.median(_dispatching(stand, webhooks)),
            **_figures(runs),
        }


def _dispatching(stand: Stand, webhooks: int) -> Iterator[float]:
    """Yield the milliseconds that dispatch takes for one event, while no worker runs."""
    stand.site.stop_workers()
    stand.subscribe(webhooks, owners=min(webhooks, OWNERS))
    for n in range(1 + RUNS):
        stand.commit(1)
        started = time.perf_counter()
        dispatch()
        if n:  # the first learns what owners may see
            yield (time.perf_counter() - started) * 1000
    stand.start_workers()


def with_log(stand: Stand, quick: bool) -> Iterator[Point]:
    """Yield what goes out, and how soon, while the log holds ever more."""
    stand.subscribe(10)
    filled = 0
    for events in (1, 1_000, 10_000, 100_000, 1_000_000)[: 3 if quick else 5]:
        execute(sa.text(FILL), first=filled, last=events - 1)
        filled = events
        vacuum()
        # 4 KB for each of these, which are part of the log after it.
        runs = [throughput.run(stand, Shape(10, 200)) for _ in range(1 if quick else RUNS)]
        stand.endpoints.take()
        committed = stand.commit(100, rate=20)
        stand.settle()
        took = latencies(committed, stand.endpoints.take())
        yield {
            "events in the log": events,
            **_figures(runs),
            "ms from commit to arrival, p50": percentile(took, 50),
        }


def with_workers(stand: Stand, quick: bool) -> Iterator[Point]:
    """Yield what goes out with several workers, as many as two for each core."""
    shape = Shape(1_000, 2 if quick else 20, owners=OWNERS)
    for workers in (1, 2, 4, 8):
        if workers > 2 * (os.cpu_count() or 1):
            return
        while len(stand.site.workers) < workers:
            stand.start_worker()
        runs = [throughput.measure(stand, shape) for _ in range(1 if quick else RUNS)]
        yield {"workers": workers, **_figures(runs)}


def with_payload(stand: Stand, quick: bool) -> Iterator[Point]:
    """Yield what goes out of ever larger datasets, and what a bare client sends of them."""
    for size, events in PAYLOADS:
        shape = Shape(10, max(1, events // (10 if quick else 1)), size=size)
        runs = [throughput.measure(stand, shape) for _ in range(1 if quick else RUNS)]
        bare = throughput.measure_bare(stand, shape)
        rate = statistics.median(run.rate for run in runs)
        yield {
            "KB": size / 1024,
            **_figures(runs),
            "MB/s": rate * size / 1e6,
            "a bare client's MB/s": bare.rate * size / 1e6,
        }


def _figures(runs: Sequence[throughput.Run]) -> Point:
    return {
        "deliveries/s": statistics.median(run.rate for run in runs),
        **{
            f"µs of {name} for each": statistics.median(run.cpu[part] for run in runs)
            for part, name in (("worker", "the worker"), ("postgresql", "PostgreSQL"))
        },
    }


CURVES: dict[str, Callable[[Stand, bool], Iterator[Point]]] = {
    "webhooks": with_webhooks,
    "log": with_log,
    "payload": with_payload,
    # The last, since its workers stay.
    "workers": with_workers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the site")
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=", ".join(CURVES))
    parser.add_argument(
        "--quick", action="store_true", help="one short run of each, and not to its end"
    )
    given = parser.parse_intermixed_args()
    for unknown in set(given.curves) - set(CURVES):
        parser.error(f"there is no curve {unknown}; there are {', '.join(CURVES)}")
    curves: dict[str, list[Point]] = {}
    with Stand(given.folder / "stand") as stand:
        stand.start_workers()
        measured_with = settings.read(stand)
        for name in given.curves or CURVES:
            curves[name] = []
            for point in CURVES[name](stand, given.quick):
                curves[name].append({key: table.figure(value) for key, value in point.items()})
                print(f"{name}: {curves[name][-1]}", flush=True)
    if given.quick or given.curves:
        save(curves, measured_with, given.folder / "growth.json", given.folder / "performance.md")
    else:
        save(curves, measured_with, RESULTS, PAGE)


def save(
    curves: Mapping[str, Sequence[Point]],
    measured_with: Mapping[str, str],
    results: Path,
    page: Path,
) -> None:
    """Write the curves, and their tables and pictures into a page."""
    results.write_text(
        json.dumps({"curves": curves, "settings": measured_with}, indent=1, ensure_ascii=False)
        + "\n"
    )
    text = page.read_text() if page == PAGE else table.EMPTY_PAGE
    for name, points in curves.items():
        picture = page.with_suffix("") / f"growth-{name}.png"
        plots.curve(points, picture)
        shown = f"{table.points(points)}\n\n![{name}]({picture.relative_to(page.parent)})"
        text = table.between(text, f"growth {name}", shown)
    page.write_text(text)


if __name__ == "__main__":
    main()
