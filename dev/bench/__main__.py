"""`python -m dev.bench`: compare Fieldbook with the bare driver, FastAPI and plain Flask.

Each run starts a Cassandra node of its own. `python -m dev.bench scale` measures Fieldbook at several sizes.
`python -m dev.bench imports` measures the memory during a large import. `python -m dev.bench compare REF` compares the
working tree with an older revision.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from dev.bench import compare, imports, scale, side_by_side, workloads
from dev.bench.directory import run_directory
from dev.bench.processes import BenchError, clean_environment
from dev.bench.system import SYSTEMS
from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE

COMMANDS = {None: side_by_side.run, "scale": scale.run, "imports": imports.run, "compare": compare.run}


def main() -> None:
    """Exit with status 1 when the responses of two systems differ or one response is wrong."""
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
            COMMANDS[arguments.command](arguments, directory, _say)
    except KeyboardInterrupt:
        sys.exit(130)
    except (BenchError, NodeError) as error:
        print(f"{error}\nThe logs are in {STATE / f'bench-{os.getpid()}'}.", file=sys.stderr)
        sys.exit(1)
    _say(f"{time.monotonic() - began:.0f} s")


def _parse() -> argparse.Namespace:
    names = list(workloads.all_workloads(workloads.FULL))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--short", action="store_true", help="few requests and rounds; takes about two minutes")
    common.add_argument(
        "--rounds",
        type=int,
        help="number of counted rounds, after one warm-up round; an even number balances the order of two revisions",
    )
    documents = argparse.ArgumentParser(add_help=False)
    documents.add_argument("--write-docs", action="store_true", help="write tables and plot into docs/performance.md")
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__, parents=[common, documents])
    _add_only(parser, [*names, side_by_side.MEMORY])
    parser.add_argument(
        "--systems",
        type=_names(SYSTEMS),
        default=list(SYSTEMS),
        metavar="NAME,...",
        help=f"systems under test: {', '.join(SYSTEMS)}",
    )
    parser.add_argument("--record", action="store_true", help="append the medians to dev/bench/history.jsonl")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("scale", parents=[common, documents], help="measure Fieldbook at several sizes")
    commands.add_parser("imports", parents=[common], help="measure the memory during an import of 1 GB")
    comparison = commands.add_parser("compare", parents=[common], help="compare the working tree with a revision")
    comparison.add_argument("revision", metavar="REF", help="a commit, branch or tag")
    _add_only(comparison, [name for name in names if name != "import"])
    arguments = parser.parse_args()
    # The default list of --only has one entry more than the workloads: `memory`.
    partial = arguments.short or len(arguments.only) <= len(names) or arguments.systems != list(SYSTEMS)
    if arguments.command is None and partial and (arguments.write_docs or arguments.record):
        parser.error("--write-docs and --record need a full run: all workloads, all systems and no --short")
    return arguments


def _add_only(parser: argparse.ArgumentParser, known: Sequence[str]) -> None:
    parser.add_argument(
        "--only", type=_names(known), default=known, metavar="WORKLOAD,...", help=f"workloads: {', '.join(known)}"
    )


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """The argparse type of a comma-separated list of known names."""

    def names(text: str) -> list[str]:
        given = text.split(",")
        if unknown := set(given) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return [name for name in known if name in given]

    return names


def _say(text: str) -> None:
    print(text, flush=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
