"""The directory in which the workers of one gunicorn store their metrics.

prometheus-client's multiprocess mode needs it: each worker writes its counts to files of its own there.

| Private name of gunicorn | Used for |
|---|---|
| `Arbiter.WORKERS` | the running workers by process id |
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

log = logging.getLogger("fieldbook.metrics")


def create() -> None:
    """Create an empty directory in gunicorn's master. It is removed when the master ends.

    Call this before prometheus-client is imported. After SIGHUP the master keeps its directory. A master that another
    master started (SIGUSR2) inherits the variable, but gets a directory of its own.
    """
    from environment import metrics_directory, set_metrics_directory

    prefix = f"fieldbook-metrics-{os.getpid()}-"
    if Path(metrics_directory() or "").name.startswith(prefix):
        return
    directory, master = mkdtemp(prefix=prefix), os.getpid()
    set_metrics_directory(directory)

    def remove() -> None:
        # Workers inherit this exit handler through the fork, but must not remove the directory.
        if os.getpid() == master:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)


def worker_ended(arbiter: Any, process: int) -> None:
    """Remove the gauges of a worker that has ended for any reason, and merge its other files.

    Call this in gunicorn's master before it can start another worker with the same process id.

    :param arbiter: gunicorn's `Arbiter`.
    :param process: process id of the worker.
    """
    from prometheus_client.multiprocess import mark_process_dead

    from environment import metrics_directory
    from observability.metrics_files import merge_ended

    mark_process_dead(process)  # type: ignore[no-untyped-call]
    try:
        # With --preload, the master has files too.
        merge_ended(metrics_directory() or "", {os.getpid(), *arbiter.WORKERS})
    except OSError as error:
        log.error("The metrics of ended workers could not be merged: %s", error)
