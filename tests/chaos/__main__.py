"""Inject faults under load, check every row, and print a table of results: `python -m tests.chaos [--short]`."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import FAST_COMPILER, STATE
from dev.local_cassandra.ring import Ring
from tests.chaos import faults, first_use, scenarios, self_tests
from tests.chaos.faults import Target
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.probe import Probe
from tests.chaos.scenarios import ScenarioResult
from tests.chaos.system import Timing, clean_up_killed_runs, running_service
from tests.support import clean_environment

# The service's defaults, and shorter values for a run of two to three minutes.
DEFAULTS = Timing(heartbeat_interval=4, heartbeat_timeout=3, reconnect_min=0.5, reconnect_max=10, connect_timeout=5)
SHORT = Timing(heartbeat_interval=1, heartbeat_timeout=2, reconnect_min=0.5, reconnect_max=3, connect_timeout=3)

KEYSPACE = "faults"
# How many problems of each kind are printed. The file beside the logs has all problems.
PRINTED_PROBLEMS = 3
PROBLEMS_FILE = "problems.txt"

SHORT_SCENARIOS = (
    ("kill -9 a node, then restart it", faults.kill_node),
    ("SIGSTOP a node", faults.pause_node),
    ("kill -9 a worker", faults.kill_worker),
)
SCENARIOS = (
    *SHORT_SCENARIOS,
    ("SIGSTOP all nodes for 10 s", faults.pause_all),
    ("SIGHUP: restart of the service", faults.reload_service),
    ("nodes discard prepared statements", faults.discard_statements),
    ("ALTER TABLE observers ADD", faults.add_column),
)

COLUMNS = (
    ("scenario", 40),
    ("operations", 10),
    ("acknowledged", 12),
    ("unknown", 7),
    ("errors", 6),
    ("after detection", 15),
    ("recovery s", 10),
    ("bound s", 7),
    ("checked", 7),
    ("lost", 4),
    ("duplicates", 10),
)


def main() -> None:
    """Run the suite.

    Exit with status 1 if a check or a self-test failed or a bound was exceeded.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="run three faults with shorter timeouts, within three minutes"
    )
    arguments = parser.parse_args()
    # Do not inherit the settings of the developer's own service.
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    # The driver logs every lost connection. Here connections are lost on purpose.
    logging.disable(logging.ERROR)
    signal.signal(signal.SIGTERM, _terminate)
    # A shell makes background jobs ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    clean_up_killed_runs()
    began = time.monotonic()
    directory = STATE / f"chaos-{os.getpid()}"
    directory.mkdir(parents=True)
    results: list[ScenarioResult] = []
    try:
        _run(results, directory, arguments.short)
    except KeyboardInterrupt:
        print(f"Interrupted. The logs are in {directory}.", file=sys.stderr)
        sys.exit(130)
    except (AssertionError, NodeError) as error:
        print(f"{error}\nThe logs are in {directory}.", file=sys.stderr)
        sys.exit(1)
    finally:
        _print_details(results)
        _keep_logs(results, directory)
    failed = [result for result in results if result.failed]
    print(f"{len(results)} results, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    if failed:
        print(f"The logs are in {directory}.", file=sys.stderr)
        sys.exit(1)
    shutil.rmtree(directory)


def _run(results: list[ScenarioResult], directory: Path, short: bool) -> None:
    timing = SHORT if short else DEFAULTS
    history = History()
    with ExitStack() as stack:
        # The exit stack closes in reverse order: the service stops before its database.
        ring = Ring(directory, java_options=FAST_COMPILER if short else ())
        stack.callback(ring.close)
        _print("Starting three nodes ...")
        ring.start()
        service = stack.enter_context(running_service(ring, KEYSPACE, 3, timing, directory))
        load = Load(f"http://127.0.0.1:{service.port}", history)
        stack.callback(load.close)
        probe = Probe(service)
        stack.callback(probe.close)
        target = Target(ring, service, KEYSPACE, load, probe, timing, pause=4.0 if short else 5.0)
        _print_header()
        for name, inject in SHORT_SCENARIOS if short else SCENARIOS:
            _add(results, scenarios.run(name, inject, target, history))
        _add(results, first_use.reload_with_silent_node(target, history, directory))
        _add(results, first_use.self_test(target, history, directory))
        for result in self_tests.damage_rows(target, history):
            _add(results, result)
        _add(results, self_tests.lose_only_replica(ring, timing, directory))


def _print_header() -> None:
    _print(
        "  ".join([name.rjust(width) if number else name.ljust(width) for number, (name, width) in enumerate(COLUMNS)])
    )


def _add(results: list[ScenarioResult], result: ScenarioResult) -> None:
    """Add a result, and print it as a row of the table."""
    results.append(result)
    values = (
        result.name,
        result.operations,
        result.acknowledged,
        result.unknown,
        result.errors,
        result.errors_after_detection,
        result.recovery,
        result.recovery_bound,
        result.checked,
        result.lost,
        result.duplicates,
    )
    cells = ["-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value) for value in values]
    widths = [width for _, width in COLUMNS]
    row = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
    _print("  ".join([*row, result.verdict]))


def _print_details(results: list[ScenarioResult]) -> None:
    """Print the evidence that each fault took place, and some problems of each kind with their requests."""
    for result in results:
        _print(f"\n{result.name}: {result.verdict}")
        for text in result.facts:
            _print(f"  {text}")
        by_kind = defaultdict(list)
        for problem in result.problems:
            by_kind[problem.partition(":")[0]].append(problem)
        for kind, problems in by_kind.items():
            _print(f"  FAILED: {len(problems)} x {kind}")
            for problem in problems[:PRINTED_PROBLEMS]:
                _print(f"    {problem}")
    _print("")


def _keep_logs(results: list[ScenarioResult], directory: Path) -> None:
    """Write all problems to a file beside the logs, and remove the data of the nodes."""
    problems = [f"{result.name}: {problem}\n" for result in results for problem in result.problems]
    (directory / PROBLEMS_FILE).write_text("".join(problems))
    for entry in directory.glob("node*/*"):
        if entry.is_dir() and entry.name != "conf":
            shutil.rmtree(entry, ignore_errors=True)


def _print(text: str) -> None:
    print(text, flush=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    # Unwind the stack, so that the service and the nodes are stopped.
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
