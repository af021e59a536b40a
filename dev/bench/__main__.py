"""`python -m dev.bench`: Fieldbook beside the bare driver, FastAPI and plain Flask, on a node of the run's own.

`python -m dev.bench scale` is Fieldbook at several sizes, `python -m dev.bench compare REF` Fieldbook against its past.
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

from dev.bench import compare, scale, side_by_side, works
from dev.bench.directory import run_directory
from dev.bench.processes import BenchError, clean_environment
from dev.bench.system import CONTENDERS
from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE

COMMANDS = {None: side_by_side.run, "scale": scale.run, "compare": compare.run}


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
            COMMANDS[arguments.command](arguments, directory, _say)
    except KeyboardInterrupt:
        sys.exit(130)
    except (BenchError, NodeError) as error:
        print(f"{error}\nThe logs are in {STATE / f'bench-{os.getpid()}'}.", file=sys.stderr)
        sys.exit(1)
    _say(f"{time.monotonic() - began:.0f} s")


def _parse() -> argparse.Namespace:
    every = list(works.works(works.FULL))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--short", action="store_true", help="small counts and few rounds: two minutes or so")
    common.add_argument("--rounds", type=int, help="that are counted; before them one is not")
    documents = argparse.ArgumentParser(add_help=False)
    documents.add_argument("--write-docs", action="store_true", help="put tables and plot into docs/performance.md")
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__, parents=[common, documents])
    _add_only(parser, [*every, side_by_side.MEMORY])
    parser.add_argument(
        "--contenders",
        type=_names(CONTENDERS),
        default=list(CONTENDERS),
        metavar="NAME,...",
        help=", ".join(CONTENDERS),
    )
    parser.add_argument("--record", action="store_true", help="append the medians to dev/bench/history.jsonl")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("scale", parents=[common, documents], help="at several sizes")
    comparison = commands.add_parser("compare", parents=[common], help="against a revision")
    comparison.add_argument("revision", metavar="REF", help="a commit, branch or tag")
    _add_only(comparison, [name for name in every if name != "import"])
    arguments = parser.parse_args()
    partly = arguments.short or len(arguments.only) <= len(every) or arguments.contenders != list(CONTENDERS)
    if arguments.command is None and partly and (arguments.write_docs or arguments.record):
        parser.error("--write-docs and --record keep what holds for all: all work, all contenders, not the short form")
    return arguments


def _add_only(parser: argparse.ArgumentParser, known: Sequence[str]) -> None:
    parser.add_argument("--only", type=_names(known), default=known, metavar="WORK,...", help=", ".join(known))


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Of an option that takes some of them, separated by commas."""

    def names(text: str) -> list[str]:
        given = text.split(",")
        if wrong := set(given) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(wrong))}")
        return [name for name in known if name in given]

    return names


def _say(text: str) -> None:
    print(text, flush=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
