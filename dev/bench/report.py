"""The results as text tables, Markdown tables and JSON."""

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

# (workload, system, metric) -> value by round number
Values = Mapping[tuple[str, str, str], dict[int, float]]


def by_round(measurements: Sequence[Measurement]) -> Values:
    """Group the measurements by workload, system and metric."""
    grouped: dict[tuple[str, str, str], dict[int, float]] = {}
    for each in measurements:
        for metric, value in each.values.items():
            grouped.setdefault((each.workload, each.system, metric), {})[each.round] = value
    return grouped


def results_table(values: Values, units: Mapping[str, str]) -> list[list[str]]:
    """Return a heading, then a row per workload and system: median, minimum and maximum over the rounds."""
    pairs = list(dict.fromkeys((workload, system) for workload, system, _ in values))
    metrics = [metric for metric in METRICS if any(name == metric for _, _, name in values)]
    rows = [["workload", "system", *(METRICS[metric] for metric in metrics)]]
    for workload, system in pairs:
        cells = [values.get((workload, system, metric)) for metric in metrics]
        texts = ["" if cell is None else format_spread(spread(list(cell.values()))) for cell in cells]
        rows.append([f"{workload}, per {units[workload]}", system, *texts])
    return rows


def ratio_table(values: Values) -> list[list[str]]:
    """Return the server CPU of Fieldbook divided by that of each baseline, by workload."""
    by_workload = all_ratios(values)
    pairs = [pair for pair in RATIOS if any(pair in pair_ratios for pair_ratios in by_workload.values())]
    rows = [["server CPU", *(" / ".join(pair) for pair in pairs)]]
    for workload, pair_ratios in by_workload.items():
        rows.append([workload, *(format_spread(pair_ratios[pair]) if pair in pair_ratios else "" for pair in pairs)])
    return rows


def all_ratios(values: Values) -> dict[str, dict[tuple[str, str], Spread]]:
    """Return the server CPU ratios of all measured pairs in `RATIOS`, by workload."""
    by_workload: dict[str, dict[tuple[str, str], Spread]] = {}
    for workload in dict.fromkeys(workload for workload, _, _ in values):
        by_workload[workload] = {}
        for system, other in RATIOS:
            ratio = ratios(values.get((workload, system, "cpu_us"), {}), values.get((workload, other, "cpu_us"), {}))
            if ratio is not None:
                by_workload[workload][system, other] = ratio
    return by_workload


def memory_table(growth: Mapping[str, Mapping[int, int]]) -> list[list[str]]:
    """Return the memory growth in MiB, by system and by the rows of the stream."""
    sizes = sorted({rows for by_rows in growth.values() for rows in by_rows})
    heading = ["memory growth, MiB", *(f"{size:,} rows" for size in sizes)]
    return [heading, *([name, *(f"{by_rows[size] / 2**20:.1f}" for size in sizes)] for name, by_rows in growth.items())]


def format_spread(value: Spread) -> str:
    """Format a spread as `median (minimum-maximum)`."""
    return f"{format_number(value.median)} ({format_number(value.minimum)}-{format_number(value.maximum)})"


def format_number(value: float) -> str:
    """Format a number with three significant digits; from 100 on, as a whole number."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Format a table for a terminal: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown: the first column left-aligned, the others right-aligned."""
    heading, *body = rows
    rule = ["---", *("---:" for _ in heading[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, rule, *body])


def machine_facts(cassandra: str, project: Path) -> dict[str, Any]:
    """Return date, commit, number of cores and versions, with which readers can compare figures.

    :param cassandra: the version of Cassandra.
    """
    git = ["git", "-C", str(project), "rev-parse", "--short", "HEAD"]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cassandra": cassandra,
    }


def append_history(values: Values, machine: Mapping[str, Any]) -> None:
    """Append a line for this run: medians of server and database CPU in microseconds, and of the ratios."""
    medians: dict[str, dict[str, dict[str, float]]] = {"cpu_us": {}, "db_us": {}}
    for (workload, system, metric), round_values in values.items():
        if metric in medians:
            medians[metric].setdefault(workload, {})[system] = round(spread(list(round_values.values())).median, 2)
    ratio_medians = {
        workload: {"/".join(pair): round(ratio.median, 3) for pair, ratio in pair_ratios.items()}
        for workload, pair_ratios in all_ratios(values).items()
    }
    with HISTORY.open("a") as history:
        history.write(json.dumps({**machine, **medians, "ratios": ratio_medians}) + "\n")


def json_document(
    measurements: Sequence[Measurement], growth: Mapping[str, Mapping[int, int]], machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all measurements as a document for `json.dumps`."""
    return {
        "machine": dict(machine),
        "measurements": [
            {"round": each.round, "workload": each.workload, "system": each.system, **each.values}
            for each in measurements
        ],
        "memory": {name: {str(rows): size for rows, size in by_rows.items()} for name, by_rows in growth.items()},
    }
