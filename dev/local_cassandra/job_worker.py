"""The job worker of `make run`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from dev.local_cassandra.node import job_worker_name, job_worker_pid_file

PROJECT = Path(__file__).resolve().parents[2]

# Seconds until a worker that has died is started again. The backoff doubles unless it has run for the maximum.
_BACKOFF = (1.0, 60.0)
# Seconds that a worker has to end.
_STOP_TIMEOUT = 30.0


class JobWorker:
    """A job worker with beat. It is started again when it dies."""

    def __init__(self, port: int) -> None:
        """:param port: the HTTP port of the service, for the name of the worker."""
        self._port = port
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="job-worker", daemon=True)

    def start(self) -> None:
        """Start the worker, and return at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker, and wait until it has ended. Its jobs continue with the next start."""
        with self._lock:
            self._stopped.set()
            if self._process is not None:
                self._process.terminate()
        if self._thread.ident is None:
            return
        self._thread.join(_STOP_TIMEOUT)
        if self._thread.is_alive() and self._process is not None:
            # Celery waits forever for a beat that was killed.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join()

    def _run(self) -> None:
        arguments = ["--app", "worker", "--quiet", "worker", "--beat", job_worker_name(self._port)]
        backoff = _BACKOFF[0]
        pid_file = job_worker_pid_file(self._port)
        while True:
            began = time.monotonic()
            with self._lock:
                if self._stopped.is_set():
                    break
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "celery", *arguments],
                    cwd=PROJECT,
                    # In its own session it does not receive Ctrl-C.
                    start_new_session=True,
                )
            pid_file.write_text(str(self._process.pid))
            status = self._process.wait()
            pid_file.unlink(missing_ok=True)
            if self._stopped.is_set():
                break
            backoff = _BACKOFF[0] if time.monotonic() - began > _BACKOFF[1] else min(2 * backoff, _BACKOFF[1])
            print(f"The job worker ended with status {status}. It starts again in {backoff:.0f} s.", flush=True)
            self._stopped.wait(backoff)
