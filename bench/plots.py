"""Pictures of results, for docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window is opened
from matplotlib import pyplot
from matplotlib.ticker import EngFormatter, NullLocator

OURS, OLD, GOAL = "#1f6f8b", "#c9c9c9", "#b3261e"
LATENCY = "commit to arrival at "  # which a title says already
# What grows by more than that shows its beginning on a logarithmic scale only.
STEEP = 30
ABREAST = 3
WIDTH = 9.0  # inches


def draw(rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Path]:
    """Draw what rows say, a picture for each unit that is compared.

    :returns: the pictures, by what they show; none of rows that are missing
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "deliveries a second": ("throughput", [r for r in rows if r["unit"] == "/s"]),
        "commit to arrival": ("latency", [r for r in rows if r["section"] == "latency"]),
        "CPU of a delivery": ("cpu", [r for r in rows if r["unit"] == "µs"]),
    }
    drawn = {}
    for title, (name, some) in pictures.items():
        if some:
            drawn[title] = folder / f"{name}.png"
            _bars(some, f"{title} ({some[0]['unit']})", drawn[title])
    return drawn


def _bars(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw each row beside the 2015 way's, with its goal."""
    figure, axes = pyplot.subplots(figsize=(WIDTH, 1 + 0.55 * len(rows)))
    for n, row in enumerate(rows):
        spread = [[row["value"] - row["min"]], [row["max"] - row["value"]]]
        axes.barh(n - 0.2, row["value"], 0.4, color=OURS, xerr=spread, label="this software")
        axes.barh(n + 0.2, row["way_2015"] or 0, 0.4, color=OLD, label="the 2015 way")
        axes.plot([row["goal"]] * 2, [n - 0.45, n + 0.05], color=GOAL, label="goal")
    lengths = [row[key] for row in rows for key in ("value", "way_2015", "goal") if row[key]]
    if max(lengths) > STEEP * min(lengths):
        axes.set_xscale("log")
        axes.set_xlim(left=1)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_yticks(range(len(rows)), [row["name"].removeprefix(LATENCY) for row in rows])
    axes.invert_yaxis()
    axes.set_title(title)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=3)
    _save(figure, path)


def curve(points: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw how figures grow with the first of them, whose scale is logarithmic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, *lines = points[0]
    height = -(-len(lines) // ABREAST)
    figure = pyplot.figure(figsize=(WIDTH, 2.8 * height))
    for n, line in enumerate(lines):
        axes = figure.add_subplot(height, ABREAST, n + 1)
        values = [point[line] for point in points]
        axes.plot([point[x] for point in points], values, color=OURS, marker="o")
        axes.set_xscale("log")
        axes.set_xticks([point[x] for point in points])
        axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x)
        axes.set_title(line, fontsize="medium")
        if max(values) > STEEP * min(values):
            axes.set_yscale("log")
        else:
            # From nothing, or what is flat would look steep.
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.set_layout_engine("constrained")
    # Without the version of what drew it, the same figures are the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
