"""A picture of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

# Not pyplot: it knows of windows, which takes as long to load as all else.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.soak.figures import Figures

WIDTH, HEIGHT = 9.0, 9.0  # inches


def draw(taken: Sequence[Figures], path: Path) -> None:
    """Draw memory, latency, sizes and rows over time."""
    minutes = [f.at / 60 for f in taken]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.subplots(3, 2)
    lines: dict[str, Mapping[str, Sequence[float]]] = {
        "memory (MiB)": {n: [f.parts[n].memory for f in taken] for n in taken[0].parts},
        "commit to arrival (ms)": {
            "p50": [f.p50 for f in taken],
            "p99": [f.p99 for f in taken],
        },
        "size with indexes (MB)": {n: [f.tables[n].size for f in taken] for n in taken[0].tables},
        "rows": {n: [f.tables[n].rows for f in taken] for n in taken[0].tables},
        "dead rows": {n: [f.tables[n].dead for f in taken] for n in taken[0].tables},
        "open files": {n: [f.parts[n].files for f in taken] for n in taken[0].parts},
    }
    for one, (title, by_name) in zip(axes.flat, lines.items(), strict=True):
        for name, values in by_name.items():
            one.plot(minutes, values, label=name)
        one.set_title(title, fontsize="medium")
        # From nothing, or what is flat would look steep.
        one.set_ylim(bottom=0)
        one.set_xlabel("minutes")
        one.yaxis.set_major_formatter("{x:,g}")
        one.grid(alpha=0.3)
        one.legend(fontsize="small")
    # Measured once: to have it measured each time takes as long as to draw it.
    figure.subplots_adjust(left=0.09, right=0.985, bottom=0.055, top=0.97, wspace=0.22, hspace=0.33)
    # Without the version of what drew it, the same figures are the same file.
    figure.set_dpi(100)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
