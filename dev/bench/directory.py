"""The directory of a run, with logs and data of its nodes, and the cleanup after killed runs."""

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
    """Create a directory. Remove it if the run succeeds; keep its logs if the run fails."""
    _clean_up_killed_runs()
    directory = STATE / f"bench-{os.getpid()}"
    directory.mkdir(parents=True)
    try:
        yield directory
    except BaseException:
        for entry in directory.glob("**/node*/*"):
            if entry.is_dir() and entry.name != "conf":
                shutil.rmtree(entry, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


def _clean_up_killed_runs() -> None:
    """Stop servers and nodes whose run was killed, and remove their directories."""
    for directory in STATE.glob("bench-[0-9]*"):
        run_pid = directory.name.partition("-")[2]
        if Path(f"/proc/{run_pid}").exists():
            continue
        for file in directory.glob(f"*{PID_SUFFIX}"):
            with suppress(ValueError, OSError):
                pid = int(file.read_text())
                # Another program may have this process id by now: check that the process is a server of that run.
                if f"CASSANDRA_KEYSPACE=bench_{run_pid}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGTERM)
        for file in directory.glob("**/node*/pid"):
            Node(directory=file.parent).stop()
        shutil.rmtree(directory, ignore_errors=True)
