"""The directory of a run: its logs and its nodes' data, and what a run that was killed has left in one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dev.bench.processes import PID_SUFFIX
from dev.local_cassandra.node import STATE, Node


@contextmanager
def run_directory() -> Iterator[Path]:
    """A new directory, removed if all goes well; else its logs stay."""
    _sweep()
    directory = STATE / f"bench-{os.getpid()}"
    directory.mkdir(parents=True)
    try:
        yield directory
    except BaseException:
        for part in directory.glob("**/node*/*"):
            if part.is_dir() and part.name != "conf":
                shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def _sweep() -> None:
    """Ends the servers and nodes of runs that were killed themselves."""
    for directory in STATE.glob("bench-[0-9]*"):
        owner = directory.name.partition("-")[2]
        if Path(f"/proc/{owner}").exists():
            continue
        for file in directory.glob(f"*{PID_SUFFIX}"):
            with suppress(ValueError, OSError):
                pid = int(file.read_text())
                # Ours, and not a program that has got its number since.
                if f"CASSANDRA_KEYSPACE=bench_{owner}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGTERM)
        for file in directory.glob("**/node*/pid"):
            Node(directory=file.parent).stop()
        shutil.rmtree(directory, ignore_errors=True)
