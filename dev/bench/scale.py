"""`python -m dev.bench scale`: how the cost changes with rows, connections, workers, nodes and what is stored."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dev.bench import documents, plot, report, works
from dev.bench.database import Database, Nodes, running_nodes
from dev.bench.load import Child, load_generator
from dev.bench.report import Values
from dev.bench.rounds import REFUSED, closed_loop
from dev.bench.system import Contender, start
from dev.bench.works import Requests, Work
from dev.local_cassandra.node import STATE
from settings import PROJECT


@dataclass(frozen=True)
class Sizes:
    """What is gone through.

    :ivar streams: rows.
    :ivar stored: users.
    :ivar reads: requests of a case, and creations.
    """

    streams: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    stored: tuple[int, ...] = (10_000, 1_000_000)
    connections: tuple[int, ...] = (1, 16, 64, 256)
    workers: tuple[int, ...] = (1, 2, 4)
    reads: int = 2500


SHORT = Sizes((1_000, 10_000), (1_000, 10_000), (1, 64), (1, 2), 250)
# Threads of a worker that takes 256 requests at a time and refuses none: three quarters of them work on requests.
MANY_THREADS = "352"


@dataclass(frozen=True)
class Case:
    """A line of a table.

    :ivar label: what changes from case to case.
    """

    label: str
    contender: Contender
    work: Work
    database: Database
    requests: Requests


@dataclass(frozen=True)
class Section:
    """A table: what it says, and the values by label, contender and metric, and round."""

    title: str
    values: Values
    units: dict[str, str]


class Bench:
    """What the sections have in common."""

    def __init__(self, arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
        self.sizes = SHORT if arguments.short else Sizes()
        self.rounds: int = arguments.rounds or (1 if arguments.short else 3)
        self.directory = directory
        self.say = say
        self.load: Child

    def section(self, title: str, cases: Sequence[Case]) -> Section:
        """Each case in turn, round after round; the first round is not counted."""
        values: dict[tuple[str, str, str], dict[int, float]] = {}
        for number in range(self.rounds + 1):
            first = number % len(cases)
            for case in [*cases[first:], *cases[:first]]:
                case.database.settle()
                found = closed_loop(case.contender, case.work, case.requests, case.database)
                for metric, value in found.items() if number else ():
                    values.setdefault((case.label, case.contender.name, metric), {})[number] = value
        order = {(case.label, case.contender.name): at for at, case in enumerate(cases)}
        ordered = dict(sorted(values.items(), key=lambda item: order[item[0][:2]]))
        section = Section(title, ordered, {case.label: case.work.unit for case in cases})
        self.say(f"\n{title}\n{report.terminal(report.results_table(section.values, section.units))}")
        return section

    def contenders(self, stack: ExitStack, found: Database, names: Iterable[str]) -> list[Contender]:
        """Started, and ended with the stack."""
        started: list[Contender] = []
        for name in names:
            started.append(start(name, found, self.load, self.directory))
            stack.callback(started[-1].close)
        return started

    def fieldbook(self, stack: ExitStack, found: Database, label: str, variables: dict[str, str]) -> Contender:
        contender = start("fieldbook", found, self.load, self.directory, variables, label)
        stack.callback(contender.close)
        return contender

    def work(self, name: str, connections: int = 16) -> Work:
        return replace(works.works(works.FULL)[name], count=self.sizes.reads, connections=connections)

    @staticmethod
    def requests(found: Database, rows: int = 0) -> Requests:
        return Requests(works.Scale(users=found.users, stream=rows))


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """All sections, on a node and on a ring of three.

    :raises BenchError: a contender gives a wrong answer.
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
        for found, users in ((few, bench.sizes.stored[0]), (many, bench.sizes.stored[-1])):
            say(f"Storing {users:,} users ...")
            found.grow(users)
        for section in (_stored, _streams):
            sections.append(section(bench, few, many))
        sections += [_connections(bench, few), _workers(bench, few)]
        say("\nStarting Cassandra: three nodes ...")
        three = stack.enter_context(running_nodes(directory / "three", 3))
        sections.append(_nodes(bench, few, three))
        machine = report.machine(few.version, PROJECT)
    values = {f"{each.title}: {', '.join(key)}": by_round for each in sections for key, by_round in each.values.items()}
    (STATE / "bench-scale.json").write_text(json.dumps({"machine": machine, "values": values}, indent=1))
    streams = sections[1]
    plot.draw_stream(_seconds(streams), STATE / "bench-scale.png")
    say(f"\nIn {STATE}: bench-scale.json, bench-scale.png, bench-scale.svg")
    if arguments.write_docs:
        tables = [(each.title, report.results_table(each.values, each.units)) for each in sections]
        documents.write_scale(tables, _seconds(streams), machine)


def _stored(bench: Bench, few: Database, many: Database) -> Section:
    with ExitStack() as stack:
        cases = []
        for found in (few, many):
            label = f"fieldbook with {found.users} users"
            contender = bench.fieldbook(stack, found, label, {})
            for name in ("read", "create"):
                cases.append(Case(name, contender, bench.work(name), found, bench.requests(found)))
        return bench.section("Stored rows", cases)


def _streams(bench: Bench, few: Database, many: Database) -> Section:
    with ExitStack() as stack:
        cases = []
        for contender in bench.contenders(stack, many, ("driver", "fieldbook", "fastapi")):
            for rows in bench.sizes.streams:
                work = replace(bench.work("stream", 1), count=max(1, 200_000 // rows), rows=rows)
                cases.append(Case(f"{rows} rows", contender, work, many, bench.requests(many, rows)))
        return bench.section("Rows of a stream", cases)


def _connections(bench: Bench, found: Database) -> Section:
    """(b), and Fieldbook: as it ships, refusing what is above its bound, and with threads enough to refuse none."""
    with ExitStack() as stack:
        started = [
            *bench.contenders(stack, found, ("fieldbook", "fastapi")),
            bench.fieldbook(stack, found, f"fieldbook, {MANY_THREADS} threads", {"GUNICORN_THREADS": MANY_THREADS}),
        ]
        cases = []
        for contender in started:
            for connections in bench.sizes.connections:
                work = replace(bench.work("read", connections), statuses=(200, REFUSED))
                cases.append(Case(f"read, {connections} connections", contender, work, found, bench.requests(found)))
        return bench.section("Connections", cases)


def _workers(bench: Bench, found: Database) -> Section:
    with ExitStack() as stack:
        cases = []
        for workers in bench.sizes.workers:
            label = f"fieldbook, {workers} workers"
            contender = bench.fieldbook(stack, found, label, {"WEB_CONCURRENCY": str(workers)})
            cases.append(Case("read, 32 connections", contender, bench.work("read", 32), found, bench.requests(found)))
        return bench.section("Workers", cases)


def _nodes(bench: Bench, one: Database, three: Nodes) -> Section:
    """One replica on one node, and three on three, at LOCAL_QUORUM."""
    with ExitStack() as stack:
        ring = stack.enter_context(three.keyspace())
        ring.grow(one.users)
        cases = []
        for found, label in ((one, "1 node"), (ring, "3 nodes")):
            contender = bench.fieldbook(stack, found, f"fieldbook, {label}", {})
            for name in ("read", "list", "create", "patch"):
                cases.append(Case(name, contender, bench.work(name), found, bench.requests(found)))
            # The whole table.
            stream = replace(bench.work("stream", 1), count=max(1, 200_000 // found.users), rows=found.users)
            cases.append(Case("stream", contender, stream, found, bench.requests(found, found.users)))
        return bench.section("Nodes", cases)


def _seconds(streams: Section) -> dict[str, dict[int, float]]:
    """Median seconds of a stream, by contender and rows."""
    found: dict[str, dict[int, float]] = {}
    for (label, contender, metric), by_round in streams.values.items():
        if metric == "whole_ms":
            median = report.spread(list(by_round.values())).median
            found.setdefault(contender, {})[int(label.split()[0])] = median / 1e3
    return found
