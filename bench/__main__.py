"""`python -m bench`: Fieldbook beside the bare driver, FastAPI and plain Flask, on a node of the run's own."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from bench import documents, equality, plot, report, rounds, works
from bench.load import load_generator
from bench.processes import BenchError, clean_environment
from bench.system import CONTENDERS, HttpContender, database, run_directory, start
from local_cassandra.jars import NodeError
from local_cassandra.node import STATE
from settings import PROJECT

# In --only, beside the work: how memory grows with the rows of a stream.
MEMORY = "memory"


def main() -> None:
    """Exit status 1 when the contenders differ, or one gives a wrong answer."""
    arguments = _parse()
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    logging.disable(logging.ERROR)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    try:
        with run_directory() as directory:
            _run(arguments, directory)
    except KeyboardInterrupt:
        sys.exit(130)
    except (BenchError, NodeError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    _say(f"{time.monotonic() - began:.0f} s")


def _parse() -> argparse.Namespace:
    every = [*works.works(works.FULL), MEMORY]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="small counts, two rounds: some two minutes")
    parser.add_argument("--rounds", type=int, help="that are counted (5; short: 2)")
    parser.add_argument("--only", type=_names(every), default=every, metavar="WORK,...", help=", ".join(every))
    parser.add_argument(
        "--contenders",
        type=_names(CONTENDERS),
        default=list(CONTENDERS),
        metavar="NAME,...",
        help=", ".join(CONTENDERS),
    )
    parser.add_argument("--write-docs", action="store_true", help="put tables and plot into docs/performance.md")
    parser.add_argument("--record", action="store_true", help="append the medians to bench/history.jsonl")
    return parser.parse_args()


def _names(known):
    def names(text: str) -> list[str]:
        given = text.split(",")
        if wrong := set(given) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(wrong))}")
        return [name for name in known if name in given]

    return names


def _run(arguments: argparse.Namespace, directory: Path) -> None:
    scale = works.SHORT if arguments.short else works.FULL
    chosen = [work for name, work in works.works(scale).items() if name in arguments.only]
    with ExitStack() as stack:
        _say("Starting Cassandra ...")
        found = stack.enter_context(database(directory))
        _say(f"Storing {scale.users:,} users ...")
        found.grow(scale.users)
        load = load_generator()
        stack.callback(load.close)
        contenders = []
        for name in arguments.contenders:
            contender = start(name, found, load, directory, {})
            stack.callback(contender.close)
            contenders.append(contender)
        services = [each for each in contenders if isinstance(each, HttpContender)]
        equality.check(services)
        _say(f"{', '.join(each.name for each in services)}: equal answers. Measuring ...")
        requests = works.Requests(scale)
        count = arguments.rounds or (2 if arguments.short else 5)
        measurements = rounds.run(contenders, chosen, requests, found, count, scale.open_seconds, _say)
        growth = {}
        if MEMORY in arguments.only and scale.memory:
            growth = rounds.memory_growth(contenders, works.works(scale)["stream"], scale, found)
        values = report.by_round(measurements)
        units = {work.name: work.unit for work in chosen}
        _say("\n" + report.terminal(report.results_table(values, units)))
        _say("\n" + report.terminal(report.ratio_table(values)))
        if growth:
            _say("\n" + report.terminal(report.memory_table(growth)))
        machine = report.machine(found.version, PROJECT)
        results = STATE / "bench.json"
        results.write_text(json.dumps(report.document(measurements, growth, machine), indent=1))
        plot.draw(values, units, STATE / "bench")
        _say(f"\nIn {STATE}: bench.json, bench.png, bench.svg")
        if arguments.record:
            report.append_history(values, machine)
        if arguments.write_docs:
            documents.write_results(values, units, growth, machine)


def _say(text: str) -> None:
    print(text, flush=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
