"""The directory of a run, with its logs and the data of its nodes; also cleans up after runs that were killed."""

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
    """Create a directory. It is removed when the run succeeds; when the run fails, its logs are kept."""
    _clean_up_killed_runs()
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


def _clean_up_killed_runs() -> None:
    """Stop servers and nodes whose run was killed, and remove their directories."""
    for directory in STATE.glob("bench-[0-9]*"):
        owner = directory.name.partition("-")[2]
        if Path(f"/proc/{owner}").exists():
            continue
        for file in directory.glob(f"*{PID_SUFFIX}"):
            with suppress(ValueError, OSError):
                pid = int(file.read_text())
                # The process id may since belong to another program: check that this is a server of that run.
                if f"CASSANDRA_KEYSPACE=bench_{owner}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGTERM)
        for file in directory.glob("**/node*/pid"):
            Node(directory=file.parent).stop()
        shutil.rmtree(directory, ignore_errors=True)
