"""Plots of the results, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from dev.bench.report import Values
from dev.bench.stats import spread

# With a fixed salt, the same numbers give the same bytes of SVG.
mpl.rcParams["svg.hashsalt"] = "fieldbook"

COLORS = {
    "driver": "#8c8c8c",
    "fieldbook": "#2a6f97",
    "fastapi": "#e07a5f",
    "flask": "#81b29a",
    "fastapi by batches": "#f2cc8f",
}


def draw(values: Values, units: Mapping[str, str], target: Path) -> None:
    """Draw the server CPU of each system, one panel per workload.

    Bars are medians; error bars go from the minimum to the maximum.

    :param units: what the cost is divided by (request or row), by workload.
    :param target: path of the file; the suffix is replaced.
    """
    workloads = list(dict.fromkeys(workload for workload, _, _ in values))
    columns = min(4, len(workloads))
    panel_rows = -(-len(workloads) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * panel_rows), layout="constrained")
    for position, workload in enumerate(workloads, 1):
        panel = figure.add_subplot(panel_rows, columns, position)
        spreads = {
            system: spread(list(by_round.values()))
            for (name, system, metric), by_round in values.items()
            if name == workload and metric == "cpu_us"
        }
        names = [name for name in COLORS if name in spreads]
        medians = [spreads[name].median for name in names]
        errors = [
            [spreads[name].median - spreads[name].minimum for name in names],
            [spreads[name].maximum - spreads[name].median for name in names],
        ]
        panel.barh(names, medians, xerr=errors, color=[COLORS[name] for name in names], error_kw={"elinewidth": 1})
        panel.invert_yaxis()
        panel.set_title(f"{workload}: server CPU, µs per {units[workload]}", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, target)


def draw_stream(by_system: Mapping[str, Mapping[int, float]], target: Path) -> None:
    """Draw the seconds per stream over the number of rows, log-log.

    :param by_system: seconds by number of rows, for each system.
    :param target: path of the file; the suffix is replaced.
    """
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    panel = figure.add_subplot()
    for name, seconds in by_system.items():
        panel.loglog(list(seconds), list(seconds.values()), marker="o", label=name, color=COLORS[name])
    panel.set_xlabel("rows per stream")
    panel.set_ylabel("seconds")
    panel.grid(visible=True, which="major", linewidth=0.3)
    panel.legend(frameon=False)
    save(figure, target)


def save(figure: Figure, target: Path) -> None:
    """Write the figure as PNG and as SVG."""
    figure.savefig(target.with_suffix(".png"), dpi=110)
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None})
