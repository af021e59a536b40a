"""The results as a table on the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dev.bench.rounds import METRICS, Measurement
from dev.bench.stats import Spread, ratios, spread

RATIOS = (
    ("fieldbook", "fastapi"),
    ("fieldbook", "driver"),
    ("fieldbook", "flask"),
    ("fieldbook", "fastapi by batches"),
)

HISTORY = Path(__file__).resolve().parent / "history.jsonl"

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
    metrics = [metric for metric in METRICS if any(of == metric for _, _, of in values)]
    rows = [["work", "contender", *(METRICS[metric] for metric in metrics)]]
    for work, contender in pairs:
        cells = [values.get((work, contender, metric)) for metric in metrics]
        texts = ["" if cell is None else text(spread(list(cell.values()))) for cell in cells]
        rows.append([f"{work}, a {units[work]}", contender, *texts])
    return rows


def ratio_table(values: Values) -> list[list[str]]:
    """Server CPU of Fieldbook against each other contender, by work."""
    found = all_ratios(values)
    pairs = [pair for pair in RATIOS if any(pair in of_work for of_work in found.values())]
    rows = [["server CPU", *(" / ".join(pair) for pair in pairs)]]
    for work, of_work in found.items():
        rows.append([work, *(text(of_work[pair]) if pair in of_work else "" for pair in pairs)])
    return rows


def all_ratios(values: Values) -> dict[str, dict[tuple[str, str], Spread]]:
    """Server CPU of the pairs in `RATIOS` that were measured, by work."""
    found: dict[str, dict[tuple[str, str], Spread]] = {}
    for work in dict.fromkeys(work for work, _, _ in values):
        found[work] = {}
        for above, below in RATIOS:
            ratio = ratios(values.get((work, above, "cpu_us"), {}), values.get((work, below, "cpu_us"), {}))
            if ratio is not None:
                found[work][above, below] = ratio
    return found


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


def machine(cassandra: str, project: Path) -> dict[str, Any]:
    """Where and when: all that a reader needs to know what the numbers can be held against."""
    git = ["git", "-C", str(project), "rev-parse", "--short", "HEAD"]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cassandra": cassandra,
    }


def append_history(values: Values, where: Mapping[str, Any]) -> None:
    """A line for this run: medians of the server's and the database's CPU (microseconds), and of the ratios."""
    medians: dict[str, dict[str, dict[str, float]]] = {"cpu_us": {}, "db_us": {}}
    for (work, contender, metric), found in values.items():
        if metric in medians:
            medians[metric].setdefault(work, {})[contender] = round(spread(list(found.values())).median, 2)
    ratios_of = {
        work: {"/".join(pair): round(ratio.median, 3) for pair, ratio in found.items()}
        for work, found in all_ratios(values).items()
    }
    with HISTORY.open("a") as history:
        history.write(json.dumps({**where, **medians, "ratios": ratios_of}) + "\n")


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
