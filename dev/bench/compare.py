"""`python -m dev.bench compare REF`: compare the working tree with an older revision."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from dev.bench import report, rounds, workloads
from dev.bench.database import running_nodes
from dev.bench.load import load_generator
from dev.bench.processes import BenchError
from dev.bench.resources import TESTBED, resources_of
from dev.bench.stats import ratios, spread
from dev.bench.system import start_fieldbook
from settings import PROJECT

# Seconds for installing the requirements of the old revision.
_INSTALL_TIMEOUT = 900
_GIT_TIMEOUT = 300


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """Print the CPU time of both revisions and their ratio within each round.

    No ratio counts as a failure. The two revisions run in turn on one node. The benchmark code of the working tree
    measures both, on tables from the migrations of the working tree.

    :raises BenchError: the revision does not exist, or a service returns a wrong response.
    """
    scale = workloads.SHORT if arguments.short else workloads.FULL
    chosen = [each for name, each in workloads.all_workloads(scale).items() if name in arguments.only]
    old = check_out(arguments.revision, directory / "revision")
    with ExitStack() as stack:
        say("Starting Cassandra ...")
        nodes = stack.enter_context(running_nodes(directory))
        database = stack.enter_context(nodes.keyspace(resources={TESTBED, resources_of(old)}))
        say(f"Storing {scale.observers:,} observers ...")
        database.ensure_observers(scale.observers)
        load = load_generator()
        stack.callback(load.close)
        systems = []
        for label, project, python in (("old", old, _python(old, say)), ("new", PROJECT, sys.executable)):
            system = start_fieldbook(database, load, directory, label, {}, project, python)
            stack.callback(system.close)
            systems.append(system)
        count = arguments.rounds or (2 if arguments.short else 5)
        requests = workloads.Requests(scale)
        measurements = rounds.run(systems, chosen, requests, database, count, scale.open_seconds, say)
    values = report.by_round(measurements)
    # Both, because a change can move work from the service to the database.
    for metric in ("cpu_us", "db_us"):
        rows = [[rounds.METRICS[metric], f"old ({arguments.revision})", "new (working tree)", "new / old"]]
        for workload in chosen:
            before, after = (values[workload.name, label, metric] for label in ("old", "new"))
            ratio = ratios(after, before)
            assert ratio is not None
            texts = (report.format_spread(spread(list(each.values()))) for each in (before, after))
            rows.append([f"{workload.name}, per {workload.unit}", *texts, report.format_spread(ratio)])
        say("\n" + report.text_table(rows))


def check_out(revision: str, directory: Path) -> Path:
    """Clone the project into `directory` at the revision.

    :raises BenchError: the revision does not exist, or git fails.
    """
    git = ["git", "-C", str(PROJECT), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    if not commit:
        raise BenchError(f"there is no revision {revision}")
    _run(["git", "clone", "-q", "--no-checkout", str(PROJECT), str(directory)], PROJECT, _GIT_TIMEOUT)
    _run(["git", "checkout", "-q", "--detach", commit], directory, _GIT_TIMEOUT)
    return directory


def pins(requirements: Path) -> set[str]:
    """Return the pinned packages of a requirements file, without comments and blank lines."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    return {line for line in lines if line}


def _python(project: Path, say: Callable[[str], None]) -> str:
    """Return the path of a Python with the packages of the old revision.

    This is the running Python if the pins are equal. Otherwise this function creates a virtual environment in the
    checkout.

    :raises BenchError: the installation fails.
    """
    if pins(project / "requirements.txt") == pins(PROJECT / "requirements.txt"):
        return sys.executable
    say("The old revision pins other packages: installing them ...")
    python = str(project / ".venv" / "bin" / "python")
    _run([sys.executable, "-m", "venv", ".venv"], project, _INSTALL_TIMEOUT)
    install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r", "requirements.txt"]
    _run([python, *install], project, _INSTALL_TIMEOUT)
    return python


def _run(command: Sequence[str], directory: Path, timeout: float) -> None:
    """Run a command to its end.

    :raises BenchError: the command fails, or takes longer than `timeout` seconds.
    """
    try:
        subprocess.run(command, cwd=directory, check=True, timeout=timeout)
    except subprocess.SubprocessError as error:
        raise BenchError(str(error)) from error
