"""The results as a table on the terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.rounds import METRICS, Measurement
from bench.stats import Spread, ratios, spread

RATIOS = (("fieldbook", "fastapi"), ("fieldbook", "driver"), ("fieldbook", "flask"))

Values = Mapping[tuple[str, str, str], dict[int, float]]


def by_round(measurements: Sequence[Measurement]) -> Values:
    """Values by round, of each work, contender and metric."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for each in measurements:
        for metric, value in each.values.items():
            found.setdefault((each.work, each.contender, metric), {})[each.round] = value
    return found


def results_table(values: Values, units: Mapping[str, str]) -> list[list[str]]:
    """A heading and a row for each work and contender: medians, and the least and greatest of the rounds."""
    pairs = list(dict.fromkeys((work, contender) for work, contender, _ in values))
    rows = [["work", "contender", *METRICS.values()]]
    for work, contender in pairs:
        cells = [values.get((work, contender, metric)) for metric in METRICS]
        texts = ["" if cell is None else text(spread(list(cell.values()))) for cell in cells]
        rows.append([f"{work}, a {units[work]}", contender, *texts])
    return rows


def ratio_table(values: Values) -> list[list[str]]:
    """Server CPU of Fieldbook against each other contender, by work."""
    rows = [["work", *(f"{above} / {below}" for above, below in RATIOS)]]
    for work in dict.fromkeys(work for work, _, _ in values):
        found = [
            ratios(values.get((work, above, "cpu_us"), {}), values.get((work, below, "cpu_us"), {}))
            for above, below in RATIOS
        ]
        rows.append([work, *("" if ratio is None else text(ratio) for ratio in found)])
    return rows


def memory_table(growth: Mapping[str, Mapping[int, int]]) -> list[list[str]]:
    """MiB by contender and rows of the stream."""
    sizes = sorted({rows for found in growth.values() for rows in found})
    heading = ["growth of memory, MiB", *(f"{size:,} rows" for size in sizes)]
    return [heading, *([name, *(f"{found[size] / 2**20:.1f}" for size in sizes)] for name, found in growth.items())]


def text(value: Spread) -> str:
    """The median, with the least and the greatest value."""
    return f"{number(value.median)} ({number(value.least)}-{number(value.greatest)})"


def number(value: float) -> str:
    """Three digits, or the whole number."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def terminal(rows: Sequence[Sequence[str]]) -> str:
    """The table in columns; what stands in the first two is names, the rest numbers."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, its columns of numbers to the right."""
    heading, *body = rows
    rule = ["---", *("---:" for _ in heading[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, rule, *body])


def document(
    measurements: Sequence[Measurement], growth: Mapping[str, Mapping[int, int]], machine: Mapping[str, Any]
) -> dict[str, Any]:
    """All that was measured, for JSON."""
    return {
        "machine": dict(machine),
        "measurements": [
            {"round": each.round, "work": each.work, "contender": each.contender, **each.values}
            for each in measurements
        ],
        "memory": {name: {str(rows): size for rows, size in found.items()} for name, found in growth.items()},
    }
