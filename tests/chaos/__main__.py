"""`python -m tests.chaos [--short]`: every fault, the proofs that the check can fail, a table of what came of them."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE
from tests.chaos import faults, proofs, scenarios
from tests.chaos.faults import Target
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.probe import Probe
from tests.chaos.scenarios import Line
from tests.chaos.system import Ring, Timing, running_service, sweep
from tests.support import clean_environment

# The service's defaults, and what is short enough for a run of two minutes.
DEFAULTS = Timing(heartbeat_interval=5, heartbeat_timeout=5, reconnect_min=0.5, reconnect_max=10, connect_timeout=5)
SHORT = Timing(heartbeat_interval=1, heartbeat_timeout=2, reconnect_min=0.5, reconnect_max=3, connect_timeout=3)

KEYSPACE = "faults"
# Problems of a kind that are printed; all of them are in the directory of the logs.
SHOWN = 3
PROBLEMS = "problems.txt"

SHORT_SCENARIOS = (
    ("kill -9 a node, bring it back", faults.kill_node),
    ("SIGSTOP a node", faults.pause_node),
    ("kill -9 a worker", faults.kill_worker),
)
SCENARIOS = (
    *SHORT_SCENARIOS,
    ("SIGSTOP all nodes for 10 s", faults.pause_all),
    ("HUP: restart of the service", faults.restart_service),
    ("nodes forget prepared statements", faults.forget_statements),
    ("ALTER TABLE users ADD", faults.add_column),
)

COLUMNS = (
    ("fault", 47),
    ("operations", 10),
    ("acknowledged", 12),
    ("unknown", 7),
    ("errors", 6),
    ("after mark", 10),
    ("recovery s", 10),
    ("bound s", 7),
    ("checked", 7),
    ("lost", 4),
    ("duplicates", 10),
)


def main() -> None:
    """Exit status 1 when something was lost, a bound was broken, or a proof was not reported."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer faults, within three minutes")
    arguments = parser.parse_args()
    # What the developer has set for a service of his own is not for this one.
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    # The driver tells of every connection that is lost, and here that is the purpose.
    logging.disable(logging.ERROR)
    signal.signal(signal.SIGTERM, _terminate)
    # A shell switches SIGINT off for a job in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweep()
    began = time.monotonic()
    directory = STATE / f"chaos-{os.getpid()}"
    directory.mkdir(parents=True)
    lines: list[Line] = []
    try:
        _run(lines, directory, arguments.short)
    except KeyboardInterrupt:
        print(f"Interrupted. The logs are in {directory}.", file=sys.stderr)
        sys.exit(130)
    except (AssertionError, NodeError) as error:
        print(f"{error}\nThe logs are in {directory}.", file=sys.stderr)
        sys.exit(1)
    finally:
        _explain(lines)
        _keep_logs(lines, directory)
    failed = [line for line in lines if line.failed]
    print(f"{len(lines)} rows, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    if failed:
        print(f"The logs are in {directory}.", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(directory)


def _run(lines: list[Line], directory: Path, short: bool) -> None:
    timing = SHORT if short else DEFAULTS
    history = History()
    with ExitStack() as stack:
        # Undone last to first: the service ends before its database.
        ring = Ring(directory)
        stack.callback(ring.close)
        _say("Starting three nodes ...")
        ring.start()
        service = stack.enter_context(running_service(ring, KEYSPACE, 3, timing, directory))
        load = Load(f"http://127.0.0.1:{service.port}", history)
        stack.callback(load.close)
        probe = Probe(service)
        stack.callback(probe.close)
        target = Target(ring, service, KEYSPACE, load, probe, timing, pause=4.0 if short else 5.0)
        _head()
        for name, fault in SHORT_SCENARIOS if short else SCENARIOS:
            _add(lines, scenarios.run(name, fault, target, history))
        for line in proofs.damaged_rows(target, history):
            _add(lines, line)
        _add(lines, proofs.lost_replica(ring, timing, directory))


def _head() -> None:
    _say("  ".join([name.ljust(width) if not at else name.rjust(width) for at, (name, width) in enumerate(COLUMNS)]))


def _add(lines: list[Line], line: Line) -> None:
    lines.append(line)
    values = (
        line.fault,
        line.operations,
        line.acknowledged,
        line.unknown,
        line.errors,
        line.after_mark,
        line.recovery,
        line.bound,
        line.checked,
        line.lost,
        line.duplicates,
    )
    cells = ["-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value) for value in values]
    widths = [width for _, width in COLUMNS]
    row = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
    _say("  ".join([*row, line.verdict]))


def _explain(lines: list[Line]) -> None:
    """Below the table: what proves that each fault happened, and some problems of each kind, with their requests."""
    for line in lines:
        _say(f"\n{line.fault}: {line.verdict}")
        for text in line.facts:
            _say(f"  {text}")
        kinds = Counter(problem.partition(":")[0] for problem in line.problems)
        for kind, count in kinds.items():
            _say(f"  FAILED: {count} x {kind}")
            for problem in [problem for problem in line.problems if problem.partition(":")[0] == kind][:SHOWN]:
                _say(f"    {problem}")
    _say("")


def _keep_logs(lines: list[Line], directory: Path) -> None:
    """All problems, in full, beside the logs; what else the nodes have left is of no use to anybody."""
    problems = [f"{line.fault}: {problem}\n" for line in lines for problem in line.problems]
    (directory / PROBLEMS).write_text("".join(problems))
    for part in directory.glob("node*/*"):
        if part.is_dir() and part.name != "conf":
            shutil.rmtree(part, ignore_errors=True)


def _say(text: str) -> None:
    print(text, flush=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    # What was started is ended on the way out.
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
