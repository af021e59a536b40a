"""Writes the measured tables and plots into docs/performance.md, between its markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dev.bench import plot, report
from dev.bench.processes import BenchError
from dev.bench.report import Values
from settings import PROJECT

PAGE = PROJECT / "docs" / "performance.md"
RESULTS_PLOT = "![Server CPU of each system, one panel per workload](performance-bench.svg)"
SCALE_PLOT = "![Seconds per stream over the number of rows, log-log](performance-scale.svg)"


def write_results(
    values: Values, units: Mapping[str, str], growth: Mapping[str, Mapping[int, int]], machine: Mapping[str, Any]
) -> None:
    """Write the tables and the plot of a run with all workloads."""
    plot.draw(values, units, PAGE.with_name("performance-bench.png"))
    tables = [report.ratio_table(values), report.results_table(values, units)]
    if growth:
        tables.append(report.memory_table(growth))
    replace(PAGE, "bench", [describe_machine(machine), *map(report.markdown_table, tables), RESULTS_PLOT])


def write_scale(
    tables: Sequence[tuple[str, list[list[str]]]],
    seconds: Mapping[str, Mapping[int, float]],
    machine: Mapping[str, Any],
) -> None:
    """Write the tables of `python -m dev.bench scale`, each under its title, and the plot of its streams.

    :param seconds: seconds per stream, by system and number of rows.
    """
    plot.draw_stream(seconds, PAGE.with_name("performance-scale.png"))
    parts = [part for title, table in tables for part in (f"### {title}", report.markdown_table(table))]
    replace(PAGE, "scale", [describe_machine(machine), *parts, SCALE_PLOT])


def describe_machine(machine: Mapping[str, Any]) -> str:
    """One sentence: date, commit, cores and versions."""
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
