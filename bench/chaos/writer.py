"""One client that writes to CKAN through its API, at a steady rate.

python -m bench.chaos.writer URL TOKEN SEED RATE OUTCOMES

Whatever goes wrong, it goes on with the next. Each write leaves a line of JSON: what
it was, the HTTP status that came, 0 where none did, and the milliseconds that it took.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

from bench.chaos.tables import REFUSED

ORGANIZATION = "alpha"
# How often each write is drawn, of all of them.
WEIGHTS = {
    "create": 5,
    "patch": 8,
    "add_resource": 4,
    "change_resource": 4,
    "delete_resource": 2,
    "hide": 2,
    "show": 2,
    "delete": 2,
    "restore": 1,
    "purge": 1,
    "refused": 3,  # written, and rolled back when it is to be committed
    "invalid": 1,
}
# Keys and values of resources: NUL, halves of surrogate pairs, and no numbers. Some of them
# CKAN refuses itself, another in each version.
ODD: tuple[dict[str, Any], ...] = (
    {"a\0b": "c\0d"},
    {"a": {"\0": ["\0"]}},
    {"\ud800": "\udfff"},
    {"numbers": [float("nan"), float("inf"), float("-inf")]},
)
# A dataset is written to again and again, as on a portal; older ones are left alone.
MOST_DATASETS = 12


class Outcome(NamedTuple):
    write: str
    status: int
    milliseconds: float
    at: float


class Writer:
    """Knows the datasets that it made; what it is not sure of, CKAN answers.

    :param url: of the site
    :param number: the seed
    :param patience: seconds for which an answer is waited for
    """

    def __init__(self, url: str, token: str, number: int, patience: float = 60.0) -> None:
        self.url = url
        self.rng = random.Random(number)
        self.number = number
        self.patience = patience
        self.count = 0
        self.datasets: list[str] = []
        self.session = requests.Session()
        self.session.headers["Authorization"] = token
        self.session.headers["Content-Type"] = "application/json"

    def write(self) -> Outcome:
        """Write once, whatever comes of it."""
        name = self.rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0] if self.datasets else "create"
        action, data = getattr(self, f"_{name}")(self._title())
        began = time.time()
        status, _result = self.call(action, data)
        took = (time.time() - began) * 1000
        if name == "create":
            # Also where no answer came: it may be there.
            self.datasets = [*self.datasets[-MOST_DATASETS + 1 :], data["name"]]
        if name == "purge" and status == 200:
            self.datasets.remove(data["id"])
        return Outcome(name, status, took, began)

    def write_odd(self) -> int:
        """Make a dataset for each of :data:`ODD`, and change it.

        :returns: how many CKAN took
        """
        taken = 0
        for odd in ODD:
            title = f"odd-{self.number}-{time.time_ns()}"
            resource = {"url": "http://example.com/odd", "name": title, **odd}
            given = {"name": title, "title": title, "owner_org": ORGANIZATION}
            _status, dataset = self.call("package_create", {**given, "resources": [resource]})
            for made in dataset.get("resources", ()):
                taken += 1
                self.call("resource_patch", {"id": made["id"], "name": f"{title} again", **odd})
        return taken

    def _title(self) -> str:
        self.count += 1
        return f"writer-{self.number}-{self.count}"

    def _any(self) -> str:
        return self.rng.choice(self.datasets)

    def _create(self, title: str) -> tuple[str, dict[str, Any]]:
        resources = [{"url": f"http://example.com/{n}", "name": title} for n in range(2)]
        private = self.rng.random() < 0.4
        data = {"name": title, "title": title, "owner_org": ORGANIZATION, "private": private}
        return "package_create", {**data, "resources": resources}

    def _patch(self, title: str, **more: Any) -> tuple[str, dict[str, Any]]:
        return "package_patch", {"id": self._any(), "title": title, **more}

    def _hide(self, title: str) -> tuple[str, dict[str, Any]]:
        return self._patch(title, private=True)

    def _show(self, title: str) -> tuple[str, dict[str, Any]]:
        return self._patch(title, private=False)

    def _restore(self, title: str) -> tuple[str, dict[str, Any]]:
        return self._patch(title, state="active")

    def _refused(self, title: str) -> tuple[str, dict[str, Any]]:
        return self._patch(f"{REFUSED} {title}")

    def _invalid(self, title: str) -> tuple[str, dict[str, Any]]:
        return self._patch(title, name="Not a Name")

    def _delete(self, title: str) -> tuple[str, dict[str, Any]]:
        return "package_delete", {"id": self._any()}

    def _purge(self, title: str) -> tuple[str, dict[str, Any]]:
        return "dataset_purge", {"id": self._any()}

    def _add_resource(self, title: str) -> tuple[str, dict[str, Any]]:
        data = {"package_id": self._any(), "name": title, "url": "http://example.com/new"}
        return "resource_create", data

    def _change_resource(self, title: str) -> tuple[str, dict[str, Any]]:
        return "resource_patch", {"id": self._any_resource(), "name": title}

    def _delete_resource(self, title: str) -> tuple[str, dict[str, Any]]:
        return "resource_delete", {"id": self._any_resource()}

    def _any_resource(self) -> str:
        _status, dataset = self.call("package_show", {"id": self._any()})
        resources = dataset.get("resources") or [{"id": "none"}]
        return str(self.rng.choice(resources)["id"])

    def call(self, action: str, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Call an action; 0 and nothing where no answer came."""
        try:
            # Not by its parameter json, which refuses NaN.
            answer = self.session.post(
                f"{self.url}/api/3/action/{action}", data=json.dumps(data), timeout=self.patience
            )
            result = answer.json().get("result")
        except (requests.RequestException, ValueError):
            return 0, {}
        return answer.status_code, result if isinstance(result, dict) else {}


def at_rate(rate: float) -> Iterator[None]:
    """Yield so often a second; what is missed is not made up for."""
    due = time.monotonic()
    while True:
        yield
        due = max(due + 1 / rate, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def read(outcomes: Path) -> list[Outcome]:
    lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    return [Outcome(*json.loads(line)) for line in lines if line.endswith("]")]


def main(url: str, token: str, seed: int, rate: float, outcomes: Path) -> None:
    write: Callable[[], Outcome] = Writer(url, token, seed).write
    with open(outcomes, "a", buffering=1) as book:
        for _ in at_rate(rate):
            book.write(json.dumps(write()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
