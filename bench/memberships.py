"""What noting a change of rights adds to a save that changes a membership.

Two running CKANs side by side as in ``web``: in each a user joins an organization and
leaves it, in turns. Nobody has a webhook, and no worker runs: what is measured is the
note, a row of the save's own transaction, and the nudge. Beside it the note alone, as
often, since a busy machine moves a whole save by more than that.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import psycopg2

from bench.web import HEAD, ROUNDS, Saves, in_turns, p95, side_by_side
from ckanext.webhooks.capture.rights import NOTE

# What the note may add (ms).
GOAL_MS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many saves")
    given = parser.parse_args()
    saves, notes = measure(given.folder, given.rounds)
    note = statistics.median(notes)
    print(HEAD, saves, sep="\n")
    print(
        f"the note alone: p50 {note:.2f} ms, p95 {p95(notes):.2f} ms,"
        f" {1 + note / statistics.median(saves.without):.3f} times the save;"
        f" goal {GOAL_MS:g} ms: {'met' if note <= GOAL_MS else 'MISSED'}"
    )


def measure(folder: Path, rounds: int) -> tuple[Saves, list[float]]:
    """Measure what is added to each of so many saves, and as many notes alone (ms)."""
    with side_by_side(folder) as (with_, clients):
        account = {"name": "ann", "email": "ann@example.com", "password": "bench-0123456789"}
        for client in clients.values():
            client.action.user_create(**account)
        is_in = dict.fromkeys(clients, False)

        def save(name: str) -> None:
            action = clients[name].action
            if is_in[name]:
                action.organization_member_delete(id="bench", username="ann")
            else:
                action.organization_member_create(id="bench", username="ann", role="member")
            is_in[name] = not is_in[name]

        return in_turns(save, rounds), note_alone(with_.database_url, rounds)


def note_alone(database_url: str, rounds: int) -> list[float]:
    """Note a change as a save does, each in a transaction of its own; milliseconds of each."""
    took = []
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        for _ in range(rounds):
            cursor.execute("SELECT 1")  # begins a transaction
            started = time.perf_counter()
            cursor.execute(NOTE, {"ids": ["ann"]})
            took.append((time.perf_counter() - started) * 1000)
            connection.commit()
    connection.close()
    return took


if __name__ == "__main__":
    main()
