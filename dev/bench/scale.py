"""`python -m dev.bench scale`: how the cost changes with rows, connections, workers and nodes."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dev.bench import documents, plot, report, workloads
from dev.bench.database import Database, Nodes, running_nodes
from dev.bench.load import ChildProcess, load_generator
from dev.bench.report import Values
from dev.bench.rounds import REFUSED, closed_loop
from dev.bench.stats import spread
from dev.bench.system import System, start
from dev.bench.workloads import Requests, Workload
from dev.local_cassandra.node import STATE
from settings import PROJECT


@dataclass(frozen=True)
class Sizes:
    """The sizes that are measured.

    :ivar streams: rows of a stream.
    :ivar stored: stored observers.
    :ivar connections: connections of the load generator.
    :ivar workers: worker processes of the service.
    :ivar reads: requests per measurement.
    """

    streams: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    stored: tuple[int, ...] = (10_000, 1_000_000)
    connections: tuple[int, ...] = (1, 16, 64, 256)
    workers: tuple[int, ...] = (1, 2, 4)
    reads: int = 2500


SHORT = Sizes((1_000, 10_000), (1_000, 10_000), (1, 64), (1, 2), 250)
# Enough for 256 concurrent requests without a queue.
HIGH_LIMIT = "256"


@dataclass(frozen=True)
class Case:
    """One row of a table.

    :ivar label: the first column, such as "read, 16 connections".
    """

    label: str
    system: System
    workload: Workload
    database: Database
    requests: Requests


@dataclass(frozen=True)
class Section:
    """A table: its title, and values by label, system and metric, then by round."""

    title: str
    values: Values
    units: dict[str, str]


class Bench:
    """The settings, the load generator and the helpers that all sections share."""

    def __init__(self, arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
        self.sizes = SHORT if arguments.short else Sizes()
        self.rounds: int = arguments.rounds or (1 if arguments.short else 3)
        self.directory = directory
        self.say = say
        self.load: ChildProcess

    def section(self, title: str, cases: Sequence[Case]) -> Section:
        """Measure each case in turn, round after round, after a warm-up round that is not counted."""
        values: dict[tuple[str, str, str], dict[int, float]] = {}
        for number in range(self.rounds + 1):
            first = number % len(cases)
            for case in [*cases[first:], *cases[:first]]:
                case.database.wait_until_idle()
                measured = closed_loop(case.system, case.workload, case.requests, case.database)
                for metric, value in measured.items() if number else ():
                    values.setdefault((case.label, case.system.name, metric), {})[number] = value
        order = {(case.label, case.system.name): position for position, case in enumerate(cases)}
        ordered = dict(sorted(values.items(), key=lambda item: order[item[0][:2]]))
        section = Section(title, ordered, {case.label: case.workload.unit for case in cases})
        self.say(f"\n{title}\n{report.text_table(report.results_table(section.values, section.units))}")
        return section

    def systems(self, stack: ExitStack, database: Database, names: Iterable[str]) -> list[System]:
        """Start the systems; the stack stops them."""
        started: list[System] = []
        for name in names:
            started.append(start(name, database, self.load, self.directory))
            stack.callback(started[-1].close)
        return started

    def fieldbook(self, stack: ExitStack, database: Database, label: str, variables: dict[str, str]) -> System:
        """Start Fieldbook with more environment variables; the stack stops it."""
        system = start("fieldbook", database, self.load, self.directory, variables, label)
        stack.callback(system.close)
        return system

    def workload(self, name: str, connections: int = 16) -> Workload:
        return replace(workloads.all_workloads(workloads.FULL)[name], count=self.sizes.reads, connections=connections)

    @staticmethod
    def requests(database: Database, rows: int = 0) -> Requests:
        return Requests(workloads.Scale(observers=database.observers, stream=rows))


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """Measure all sections, on one node and on a ring of three nodes.

    :raises BenchError: a system returns a wrong response.
    """
    bench = Bench(arguments, directory, say)
    sections = []
    with ExitStack() as stack:
        bench.load = load_generator()
        stack.callback(bench.load.close)
        say("Starting Cassandra: one node ...")
        one = stack.enter_context(running_nodes(directory / "one"))
        few = stack.enter_context(one.keyspace("_few"))
        many = stack.enter_context(one.keyspace("_many"))
        for database, observers in ((few, bench.sizes.stored[0]), (many, bench.sizes.stored[-1])):
            say(f"Storing {observers:,} observers ...")
            database.ensure_observers(observers)
        for section in (_stored, _streams):
            sections.append(section(bench, few, many))
        sections += [_connections(bench, few), _workers(bench, few)]
        say("\nStarting Cassandra: three nodes ...")
        three = stack.enter_context(running_nodes(directory / "three", 3))
        sections.append(_nodes(bench, few, three))
        machine = report.machine_facts(few.version, PROJECT)
    values = {f"{each.title}: {', '.join(key)}": by_round for each in sections for key, by_round in each.values.items()}
    (STATE / "bench-scale.json").write_text(json.dumps({"machine": machine, "values": values}, indent=1))
    streams = sections[1]
    plot.draw_stream(_seconds(streams), STATE / "bench-scale.png")
    say(f"\nWritten to {STATE}: bench-scale.json, bench-scale.png, bench-scale.svg")
    if arguments.write_docs:
        tables = [(each.title, report.results_table(each.values, each.units)) for each in sections]
        plot.draw_stream(_seconds(streams), documents.SCALE_PLOT)
        documents.write_scale(tables, machine)


def _stored(bench: Bench, few: Database, many: Database) -> Section:
    """Compare reads and creates on a keyspace with few observers and on one with many observers."""
    with ExitStack() as stack:
        cases = []
        for database in (few, many):
            label = f"fieldbook with {database.observers} observers"
            system = bench.fieldbook(stack, database, label, {})
            for name in ("read", "create"):
                cases.append(Case(name, system, bench.workload(name), database, bench.requests(database)))
        return bench.section("Stored rows", cases)


def _streams(bench: Bench, few: Database, many: Database) -> Section:
    """Compare streams with different numbers of rows, on three systems."""
    with ExitStack() as stack:
        cases = []
        for system in bench.systems(stack, many, ("driver", "fieldbook", "fastapi")):
            for rows in bench.sizes.streams:
                workload = replace(bench.workload("stream", 1), count=max(1, 200_000 // rows), rows=rows)
                cases.append(Case(f"{rows} rows", system, workload, many, bench.requests(many, rows)))
        return bench.section("Rows of a stream", cases)


def _connections(bench: Bench, database: Database) -> Section:
    """Compare FastAPI, Fieldbook with its defaults, and Fieldbook with a higher concurrency limit.

    With its defaults, Fieldbook queues the requests above its concurrency limit, and rejects those above the queue.
    """
    with ExitStack() as stack:
        started = [
            *bench.systems(stack, database, ("fieldbook", "fastapi")),
            bench.fieldbook(stack, database, f"fieldbook, limit {HIGH_LIMIT}", {"MAX_REQUESTS_IN_FLIGHT": HIGH_LIMIT}),
        ]
        cases = []
        for system in started:
            for connections in bench.sizes.connections:
                workload = replace(bench.workload("read", connections), statuses=(200, REFUSED))
                cases.append(
                    Case(f"read, {connections} connections", system, workload, database, bench.requests(database))
                )
        return bench.section("Connections", cases)


def _workers(bench: Bench, database: Database) -> Section:
    """Compare Fieldbook with different numbers of workers."""
    with ExitStack() as stack:
        cases = []
        for workers in bench.sizes.workers:
            label = f"fieldbook, {workers} workers"
            system = bench.fieldbook(stack, database, label, {"WEB_CONCURRENCY": str(workers)})
            cases.append(
                Case("read, 32 connections", system, bench.workload("read", 32), database, bench.requests(database))
            )
        return bench.section("Workers", cases)


def _nodes(bench: Bench, one: Database, three: Nodes) -> Section:
    """Compare one replica on one node with three replicas on three nodes, at LOCAL_QUORUM."""
    with ExitStack() as stack:
        on_three_nodes = stack.enter_context(three.keyspace())
        on_three_nodes.ensure_observers(one.observers)
        cases = []
        for database, label in ((one, "1 node"), (on_three_nodes, "3 nodes")):
            system = bench.fieldbook(stack, database, f"fieldbook, {label}", {})
            for name in ("read", "list", "create", "patch"):
                cases.append(Case(name, system, bench.workload(name), database, bench.requests(database)))
            # This stream reads the whole table.
            stream = replace(
                bench.workload("stream", 1), count=max(1, 200_000 // database.observers), rows=database.observers
            )
            cases.append(Case("stream", system, stream, database, bench.requests(database, database.observers)))
        return bench.section("Nodes", cases)


def _seconds(streams: Section) -> dict[str, dict[int, float]]:
    """Return the median seconds per stream, by system and number of rows."""
    by_system: dict[str, dict[int, float]] = {}
    for (label, system, metric), by_round in streams.values.items():
        if metric == "whole_ms":
            median = spread(list(by_round.values())).median
            by_system.setdefault(system, {})[int(label.split()[0])] = median / 1e3
    return by_system
