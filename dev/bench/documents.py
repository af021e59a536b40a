"""Writes the measured tables into docs/performance.md, between its markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dev.bench import report
from dev.bench.processes import BenchError
from dev.bench.report import Values
from settings import PROJECT

PAGE = PROJECT / "docs" / "performance.md"
# The plots that the page shows.
RESULTS_PLOT = PAGE.with_name("performance-bench.svg")
SCALE_PLOT = PAGE.with_name("performance-scale.svg")


def write_results(
    values: Values, units: Mapping[str, str], growth: Mapping[str, Mapping[int, int]], machine: Mapping[str, Any]
) -> None:
    """Write the tables of a run with all workloads, and a link to the plot."""
    tables = [report.ratio_table(values), report.results_table(values, units)]
    if growth:
        tables.append(report.memory_table(growth))
    picture = f"![Server CPU of each system, one panel per workload]({RESULTS_PLOT.name})"
    replace(PAGE, "bench", [describe_machine(machine), *map(report.markdown_table, tables), picture])


def write_scale(tables: Sequence[tuple[str, list[list[str]]]], machine: Mapping[str, Any]) -> None:
    """Write the tables of `python -m dev.bench scale`, each under its title, and a link to the plot."""
    parts = [part for title, table in tables for part in (f"### {title}", report.markdown_table(table))]
    picture = f"![Seconds per stream over the number of rows, log-log]({SCALE_PLOT.name})"
    replace(PAGE, "scale", [describe_machine(machine), *parts, picture])


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return one sentence with date, commit, number of cores and versions."""
    return (
        f"{machine['date']}, commit {machine['commit']}: {machine['cores']} cores shared by all processes, "
        f"Python {machine['python']}, Cassandra {machine['cassandra']}."
    )


def replace(page: Path, name: str, parts: Sequence[str]) -> None:
    """Replace the text between the page's `name` markers with paragraphs.

    :raises BenchError: the page has no such markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = page.read_text()
    if begin not in text or end not in text:
        raise BenchError(f"{page} has no {begin} and {end}")
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n\n" + "\n\n".join(parts) + f"\n\n{end}{rest.partition(end)[2]}")
