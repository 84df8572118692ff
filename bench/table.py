"""The table of all figures: goals, whether they are met, and what has become worse.

No I/O but for the files that it is asked to read and to write, and no CKAN.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A ratio that is worse by this factor is a regression: on a machine that does nothing
# else, the medians of five runs differ by a tenth from time to time.
TOLERANCE = 1.25

EMPTY_PAGE = "".join(
    f"<!-- {name} -->\n<!-- /{name} -->\n"
    for name in ("bench", *(f"growth {of}" for of in ("webhooks", "log", "payload", "workers")))
)


@dataclass(frozen=True)
class Row:
    """One figure.

    :ivar section: by which rows are selected
    :ivar values: of each run
    :ivar goal: what the median must reach
    :ivar more_is_better: the goal is the least that will do, not the most
    :ivar way_2015: the same in the 2015 way, of each run; empty where it has no such figure
    :ivar ceiling: what the same work is without this software's part, of each run
    :ivar ceiling_is: what that is
    :ivar parts: of what the median is made, by name
    :ivar note: what else is to be known
    """

    section: str
    name: str
    unit: str
    values: Sequence[float]
    goal: float
    more_is_better: bool = False
    way_2015: Sequence[float] = ()
    ceiling: Sequence[float] = ()
    ceiling_is: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal

    @property
    def beside(self) -> float | None:
        """What it is compared with, of the same run: the 2015 way, or else the ceiling."""
        return _median(self.way_2015 or self.ceiling)

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside if self.beside else None

    def worse_than(self, ratio: float) -> float | None:
        """Give the factor by which the median is worse than an earlier ratio said.

        :returns: None where it is not by :data:`TOLERANCE`, or not in every run
        """
        if not self.ratio or not self.beside or not ratio:
            return None
        if self.more_is_better:
            factor, least = ratio / self.ratio, ratio / (max(self.values) / self.beside)
        else:
            factor, least = self.ratio / ratio, min(self.values) / self.beside / ratio
        return factor if factor > TOLERANCE and least > 1 else None

    def as_json(self) -> dict[str, Any]:
        return {
            "section": self.section,
            "name": self.name,
            "value": figure(self.value),
            "min": figure(min(self.values)),
            "max": figure(max(self.values)),
            "unit": self.unit,
            "goal": figure(self.goal),
            "more_is_better": self.more_is_better,
            "met": self.met,
            "way_2015": _median(self.way_2015),
            "ceiling": _median(self.ceiling),
            "ceiling_is": self.ceiling_is,
            "ratio": None if self.ratio is None else float(f"{self.ratio:.4g}"),
            "parts": {name: figure(value) for name, value in self.parts.items()},
            "note": self.note,
        }


def regressions(rows: Sequence[Row], committed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what has become worse than in results that were committed.

    Only ratios count: both sides of one were measured in the same run, on
    whatever machine.
    """
    known = {row["name"]: row["ratio"] for row in committed}
    found = []
    for row in rows:
        before = known.get(row.name)
        worse = row.worse_than(before) if before else None
        if worse:
            beside = "the 2015 way" if row.way_2015 else row.ceiling_is
            found.append(
                f"{row.name}: {worse:.2f} times worse: {row.ratio:.3g} times {beside},"
                f" and {before:.3g} times in the committed results"
            )
    return found


def read(path: Path) -> dict[str, Any]:
    """Give committed results, empty ones where there are none."""
    if not path.exists():
        return {"rows": [], "settings": {}}
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def write(path: Path, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps({"rows": rows, "settings": settings}, indent=1, ensure_ascii=False) + "\n"
    )


def markdown(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """Lay results out as a table, with what they were measured on."""
    lines = [
        "| | median (min to max) | goal | | 2015 way | ceiling |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        unit = row["unit"]
        limit = "≥" if row["more_is_better"] else "≤"
        ceiling = f"{_text(row['ceiling'])} ({row['ceiling_is']})" if row["ceiling"] else ""
        cells = [
            row["name"],
            f"**{_text(row['value'])}** {unit} ({_text(row['min'])} to {_text(row['max'])})",
            f"{limit} {_text(row['goal'])}",
            "met" if row["met"] else "**missed**",
            _text(row["way_2015"]),
            ceiling,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += [
        f"{row['name']}: {_parts(row['parts'])} {row['unit']}.  " for row in rows if row["parts"]
    ]
    lines += [f"{note}.  " for note in dict.fromkeys(row["note"] for row in rows) if note]
    lines += ["", "Measured with: " + "; ".join(f"{k} {v}" for k, v in settings.items()) + "."]
    return "\n".join(lines)


def plain(row: Row) -> str:
    """Lay one row out for a terminal."""
    shown = row.as_json()
    limit = "≥" if row.more_is_better else "≤"
    beside = f"; 2015 way {_text(shown['way_2015'])}" if row.way_2015 else ""
    if row.ceiling:
        beside += f"; {row.ceiling_is} {_text(shown['ceiling'])}"
    if row.parts:
        beside += f"; {_parts(shown['parts'])}"
    return (
        f"{row.name:<46} {_text(shown['value']):>9} {row.unit:<4}"
        f" ({_text(shown['min'])} to {_text(shown['max'])}),"
        f" goal {limit} {_text(shown['goal'])}: {'met' if row.met else 'MISSED'}{beside}"
    )


def figure(value: float) -> float:
    """Round to what means something: three digits, and whole numbers from 100 on."""
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def points(curve: Sequence[Mapping[str, float]]) -> str:
    """Lay the points of a curve out as a Markdown table."""
    lines = [f"| {' | '.join(curve[0])} |", "|---" * len(curve[0]) + "|"]
    lines += [f"| {' | '.join(map(_text, point.values()))} |" for point in curve]
    return "\n".join(lines)


def between(text: str, name: str, new: str) -> str:
    """Replace what is between a page's markers of a name.

    :raises ValueError: it has no such markers
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    start = text.index(begin) + len(begin)
    return f"{text[:start]}\n{new}\n{text[text.index(end, start) :]}"


def _median(values: Sequence[float]) -> float | None:
    return figure(statistics.median(values)) if values else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


def _parts(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in parts.items())
