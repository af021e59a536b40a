"""The directory in which the workers of one gunicorn store their metrics.

prometheus-client's multiprocess mode needs it: each worker writes its counts to files of its own there.
"""

from __future__ import annotations

import atexit
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp


def create() -> None:
    """Create an empty directory in gunicorn's master. It is removed when the master ends.

    Call this before prometheus-client is imported. After SIGHUP the master keeps its directory. A master that another
    master started (SIGUSR2) inherits the variable, but gets a directory of its own.
    """
    from settings import metrics_directory, set_metrics_directory

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
