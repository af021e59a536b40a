"""The default command: all contenders, all work, round after round, on one node."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from dev.bench import documents, equality, plot, report, rounds, works
from dev.bench.database import running_nodes
from dev.bench.load import load_generator
from dev.bench.system import HttpContender, start
from dev.local_cassandra.node import STATE
from settings import PROJECT

# In --only, beside the work: how memory grows with the rows of a stream.
MEMORY = "memory"


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """Checks that all give the same answers, measures, and prints.

    :raises BenchError: two differ, or one gives a wrong answer.
    """
    scale = works.SHORT if arguments.short else works.FULL
    chosen = [work for name, work in works.works(scale).items() if name in arguments.only]
    units = {work.name: work.unit for work in chosen}
    count = arguments.rounds or (2 if arguments.short else 5)
    with ExitStack() as stack:
        say("Starting Cassandra ...")
        found = stack.enter_context(stack.enter_context(running_nodes(directory)).keyspace())
        say(f"Storing {scale.users:,} users ...")
        found.grow(scale.users)
        load = load_generator()
        stack.callback(load.close)
        with ExitStack() as running:
            contenders = []
            for name in arguments.contenders:
                contender = start(name, found, load, directory)
                running.callback(contender.close)
                contenders.append(contender)
            services = [each for each in contenders if isinstance(each, HttpContender)]
            equality.check(services)
            say(f"{', '.join(each.name for each in services)}: equal answers. Measuring ...")
            measurements = rounds.run(contenders, chosen, works.Requests(scale), found, count, scale.open_seconds, say)
        growth = {}
        for name in arguments.contenders if MEMORY in arguments.only and scale.memory else ():
            with closing(start(name, found, load, directory)) as fresh:
                growth[name] = rounds.memory_growth(fresh, works.works(scale)["stream"], scale, found)
        machine = report.machine(found.version, PROJECT)
    values = report.by_round(measurements)
    if values:
        say("\n" + report.terminal(report.results_table(values, units)))
        if any(report.all_ratios(values).values()):
            say("\n" + report.terminal(report.ratio_table(values)))
        plot.draw(values, units, STATE / "bench.png")
    if growth:
        say("\n" + report.terminal(report.memory_table(growth)))
    (STATE / "bench.json").write_text(json.dumps(report.document(measurements, growth, machine), indent=1))
    say(f"\nIn {STATE}: bench.json{', bench.png, bench.svg' if values else ''}")
    if arguments.record:
        report.append_history(values, machine)
    if arguments.write_docs:
        documents.write_results(values, units, growth, machine)
