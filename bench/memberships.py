"""What noting a change of rights adds to a save that changes a membership.

Two running CKANs side by side as in ``web``: in each a user joins an organization and
leaves it, in turns. Nobody has a webhook, and no worker runs: what is measured is the
note, a row of the save's own transaction, and the nudge.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.web import HEAD, ROUNDS, Saves, in_turns, side_by_side

# What may be added (ms).
GOAL_MS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many saves")
    given = parser.parse_args()
    saves = measure(given.folder, given.rounds)
    met = "met" if saves.added_p50 <= GOAL_MS else "MISSED"
    print(f"{HEAD}  {'goal':>8}")
    print(f"{saves}  {GOAL_MS:>5.2f} ms {met}")


def measure(folder: Path, rounds: int) -> Saves:
    """Measure what is added to each of so many saves."""
    with side_by_side(folder) as (_with, clients):
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

        return in_turns(save, rounds)


if __name__ == "__main__":
    main()
