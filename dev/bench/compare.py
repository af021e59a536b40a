"""`python -m dev.bench compare REF`: the service as it is here against that of a revision, on one node, in turn."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from dev.bench import report, rounds, works
from dev.bench.database import running_nodes
from dev.bench.load import load_generator
from dev.bench.processes import BenchError
from dev.bench.stats import ratios, spread
from dev.bench.system import start_fieldbook
from settings import PROJECT

# An installation of the requirements, in seconds.
_INSTALLATION = 900


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """Prints server CPU of both and their ratio, within each round; judges nothing.

    Both are measured by the harness that is here, on tables as the migrations that are here make them.

    :raises BenchError: there is no such revision, or a service gives a wrong answer.
    """
    scale = works.SHORT if arguments.short else works.FULL
    chosen = [work for name, work in works.works(scale).items() if name in arguments.only]
    old = check_out(arguments.revision, directory / "revision")
    with ExitStack() as stack:
        say("Starting Cassandra ...")
        found = stack.enter_context(stack.enter_context(running_nodes(directory)).keyspace())
        say(f"Storing {scale.users:,} users ...")
        found.grow(scale.users)
        load = load_generator()
        stack.callback(load.close)
        contenders = []
        for label, project, python in (("old", old, _python(old, say)), ("new", PROJECT, sys.executable)):
            contender = start_fieldbook(found, load, directory, label, {}, project, python)
            stack.callback(contender.close)
            contenders.append(contender)
        count = arguments.rounds or (2 if arguments.short else 5)
        measurements = rounds.run(contenders, chosen, works.Requests(scale), found, count, scale.open_seconds, say)
    values = report.by_round(measurements)
    # What is taken from the service may have been given to the database.
    for metric, title in (("cpu_us", "server CPU, us"), ("db_us", "database CPU, us")):
        rows = [[title, f"old ({arguments.revision})", "new (here)", "new / old"]]
        for work in chosen:
            before, after = (values[work.name, label, metric] for label in ("old", "new"))
            ratio = ratios(after, before)
            assert ratio is not None
            texts = (report.text(spread(list(of.values()))) for of in (before, after))
            rows.append([f"{work.name}, a {work.unit}", *texts, report.text(ratio)])
        say("\n" + report.terminal(rows))


def check_out(revision: str, directory: Path) -> Path:
    """The project as it was then, in a clone of its own.

    :raises BenchError: there is no such revision.
    """
    git = ["git", "-C", str(PROJECT), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    if not commit:
        raise BenchError(f"there is no revision {revision}")
    subprocess.run(["git", "clone", "-q", "--no-checkout", str(PROJECT), str(directory)], check=True, timeout=300)
    subprocess.run(["git", "-C", str(directory), "checkout", "-q", "--detach", commit], check=True, timeout=300)
    return directory


def _python(project: Path, say: Callable[[str], None]) -> str:
    """A Python with what that revision requires: this one, or where its pins are others, one of its own."""
    if (project / "requirements.txt").read_bytes() == (PROJECT / "requirements.txt").read_bytes():
        return sys.executable
    say("Its requirements are others: installing them ...")
    python = project / ".venv" / "bin" / "python"
    requirements = ["-r", "requirements.txt"]
    for command in (
        [sys.executable, "-m", "venv", ".venv"],
        [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *requirements],
    ):
        subprocess.run(command, cwd=project, check=True, timeout=_INSTALLATION)
    return str(python)
