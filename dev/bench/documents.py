"""Puts what was measured into docs/performance.md, between its markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dev.bench import plot, report
from dev.bench.processes import BenchError
from dev.bench.report import Values
from settings import PROJECT

PAGE = PROJECT / "docs" / "performance.md"


def write_results(
    values: Values, units: Mapping[str, str], growth: Mapping[str, Mapping[int, int]], machine: Mapping[str, Any]
) -> None:
    """The tables and the plot of a run of all work."""
    plot.draw(values, units, PAGE.with_name("performance-bench.png"))
    tables = [report.ratio_table(values), report.results_table(values, units)]
    if growth:
        tables.append(report.memory_table(growth))
    picture = "![Server CPU of each contender, a panel for each work](performance-bench.svg)"
    replace(PAGE, "bench", [where(machine), *map(report.markdown, tables), picture])


def write_scale(
    tables: Sequence[tuple[str, list[list[str]]]],
    seconds: Mapping[str, Mapping[int, float]],
    machine: Mapping[str, Any],
) -> None:
    """The tables of `python -m dev.bench scale`, each under its title, and the plot of its streams.

    :param seconds: of a stream, by contender and rows.
    """
    plot.draw_stream(seconds, PAGE.with_name("performance-scale.png"))
    parts = [part for title, table in tables for part in (f"### {title}", report.markdown(table))]
    picture = "![Seconds of a stream over its rows, log-log](performance-scale.svg)"
    replace(PAGE, "scale", [where(machine), *parts, picture])


def where(machine: Mapping[str, Any]) -> str:
    """A sentence on the machine."""
    return (
        f"{machine['date']}, commit {machine['commit']}: {machine['cores']} cores for everything, "
        f"Python {machine['python']}, Cassandra {machine['cassandra']}."
    )


def replace(page: Path, name: str, parts: Sequence[str]) -> None:
    """Puts paragraphs where the markers of that name stand.

    :raises BenchError: there are none.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = page.read_text()
    if begin not in text or end not in text:
        raise BenchError(f"{page} has no {begin} and {end}")
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n\n" + "\n\n".join(parts) + f"\n\n{end}{rest.partition(end)[2]}")
