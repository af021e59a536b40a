"""The default command: all systems and all workloads, round after round, on one node."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from dev.bench import documents, equality, plot, report, rounds, workloads
from dev.bench.database import running_nodes
from dev.bench.load import load_generator
from dev.bench.system import HttpSystem, start
from dev.local_cassandra.node import STATE
from settings import PROJECT

# A value of --only besides the workloads: memory growth with the rows of a stream.
MEMORY = "memory"


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """Check that all services return equal responses, measure, and print the results.

    :raises BenchError: two services differ, or one returns a wrong response.
    """
    scale = workloads.SHORT if arguments.short else workloads.FULL
    chosen = [each for name, each in workloads.all_workloads(scale).items() if name in arguments.only]
    units = {workload.name: workload.unit for workload in chosen}
    count = arguments.rounds or (2 if arguments.short else 5)
    requests = workloads.Requests(scale)
    with ExitStack() as stack:
        say("Starting Cassandra ...")
        database = stack.enter_context(stack.enter_context(running_nodes(directory)).keyspace())
        say(f"Storing {scale.observers:,} observers ...")
        database.ensure_observers(scale.observers)
        load = load_generator()
        stack.callback(load.close)
        with ExitStack() as running:
            systems = []
            for name in arguments.systems:
                system = start(name, database, load, directory)
                running.callback(system.close)
                systems.append(system)
            services = [each for each in systems if isinstance(each, HttpSystem)]
            equality.check_equal_responses(services)
            say(f"{', '.join(each.name for each in services)}: equal responses. Measuring ...")
            measurements = rounds.run(systems, chosen, requests, database, count, scale.open_seconds, say)
        growth = {}
        for name in arguments.systems if MEMORY in arguments.only and scale.memory else ():
            with closing(start(name, database, load, directory)) as fresh:
                stream = workloads.all_workloads(scale)["stream"]
                growth[name] = rounds.memory_growth(fresh, stream, scale, database)
        machine = report.machine_facts(database.version, PROJECT)
    values = report.by_round(measurements)
    if values:
        say("\n" + report.text_table(report.results_table(values, units)))
        if any(report.all_ratios(values).values()):
            say("\n" + report.text_table(report.ratio_table(values)))
        plot.draw(values, units, STATE / "bench.png")
    if growth:
        say("\n" + report.text_table(report.memory_table(growth)))
    (STATE / "bench.json").write_text(json.dumps(report.json_document(measurements, growth, machine), indent=1))
    say(f"\nWritten to {STATE}: bench.json{', bench.png, bench.svg' if values else ''}")
    if arguments.record:
        report.append_history(values, machine)
    if arguments.write_docs:
        plot.draw(values, units, documents.RESULTS_PLOT)
        documents.write_results(values, units, growth, machine)
