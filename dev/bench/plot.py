"""The results as pictures, PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from dev.bench.report import Values
from dev.bench.stats import spread

# The same bytes for the same numbers.
mpl.rcParams["svg.hashsalt"] = "fieldbook"

COLOURS = {
    "driver": "#8c8c8c",
    "fieldbook": "#2a6f97",
    "fastapi": "#e07a5f",
    "flask": "#81b29a",
    "fastapi by batches": "#f2cc8f",
}


def draw(values: Values, units: Mapping[str, str], target: Path) -> None:
    """Server CPU of each contender, a panel for each work; the bars are medians, the lines go from least to greatest.

    :param target: without its ending.
    """
    works = list(dict.fromkeys(work for work, _, _ in values))
    columns = min(4, len(works))
    lines = -(-len(works) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * lines), layout="constrained")
    for at, work in enumerate(works, 1):
        panel = figure.add_subplot(lines, columns, at)
        found = {
            contender: spread(list(by_round.values()))
            for (of, contender, metric), by_round in values.items()
            if of == work and metric == "cpu_us"
        }
        names = [name for name in COLOURS if name in found]
        medians = [found[name].median for name in names]
        errors = [
            [found[name].median - found[name].least for name in names],
            [found[name].greatest - found[name].median for name in names],
        ]
        panel.barh(names, medians, xerr=errors, color=[COLOURS[name] for name in names], error_kw={"elinewidth": 1})
        panel.invert_yaxis()
        panel.set_title(f"{work}: server CPU, µs a {units[work]}", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, target)


def draw_stream(by_contender: Mapping[str, Mapping[int, float]], target: Path) -> None:
    """Seconds of a whole stream over its rows, log-log.

    :param by_contender: seconds by rows.
    :param target: without its ending.
    """
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    panel = figure.add_subplot()
    for name, seconds in by_contender.items():
        panel.loglog(list(seconds), list(seconds.values()), marker="o", label=name, color=COLOURS[name])
    panel.set_xlabel("rows of the stream")
    panel.set_ylabel("seconds")
    panel.grid(visible=True, which="major", linewidth=0.3)
    panel.legend(frameon=False)
    save(figure, target)


def save(figure: Figure, target: Path) -> None:
    figure.savefig(target.with_suffix(".png"), dpi=110)
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None})
