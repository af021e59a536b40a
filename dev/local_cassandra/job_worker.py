"""The job worker and the beat of `make run`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from dev.local_cassandra.node import beat_pid_file, beat_pid_option, job_worker_name, job_worker_pid_file

PROJECT = Path(__file__).resolve().parents[2]

# Seconds until a process that has died is started again. The backoff doubles unless it has run for the maximum.
_BACKOFF = (1.0, 60.0)
# Seconds after SIGTERM until a process is killed. A job worker finishes its slices within 20 s.
_KILL_AFTER = 30.0


class JobWorker:
    """A job worker and beat. Each is started again when it dies.

    Beat is a process of its own, because a worker does not notice when the beat inside it dies.
    """

    def __init__(self, port: int) -> None:
        """:param port: the HTTP port of the service, for the names of the processes."""
        self._processes = (
            _Supervised("The job worker", ["worker", job_worker_name(port)], job_worker_pid_file(port)),
            _Supervised("Beat", ["beat", beat_pid_option(port)], beat_pid_file(port)),
        )

    def start(self) -> None:
        """Start both, and return at once."""
        for process in self._processes:
            process.start()

    def stop(self) -> None:
        """Stop both, and wait until they have ended. Jobs continue with the next start."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


class _Supervised:
    """A process of Celery that is started again when it dies."""

    def __init__(self, name: str, arguments: list[str], pid_file: Path) -> None:
        """:param pid_file: exists while the process runs."""
        self._name = name
        self._command = [sys.executable, "-m", "celery", "--app", "worker", "--quiet", *arguments]
        self._pid_file = pid_file
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def terminate(self) -> None:
        with self._lock:
            self._stopped.set()
            if self._process is not None:
                self._process.terminate()

    def join(self) -> None:
        if self._thread.ident is None:
            return
        self._thread.join(_KILL_AFTER)
        if self._thread.is_alive() and self._process is not None:
            print(f"{self._name} did not end within {_KILL_AFTER:.0f} s after SIGTERM and is killed.", flush=True)
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        backoff = _BACKOFF[0]
        while True:
            began = time.monotonic()
            with self._lock:
                if self._stopped.is_set():
                    break
                # In its own session it does not receive Ctrl-C.
                self._process = subprocess.Popen(self._command, cwd=PROJECT, start_new_session=True)
            # Beat, which writes the same file, warns of one without a line end.
            self._pid_file.write_text(f"{self._process.pid}\n")
            status = self._process.wait()
            self._pid_file.unlink(missing_ok=True)
            if self._stopped.is_set():
                break
            backoff = _BACKOFF[0] if time.monotonic() - began > _BACKOFF[1] else min(2 * backoff, _BACKOFF[1])
            print(f"{self._name} ended with status {status}. It starts again in {backoff:.0f} s.", flush=True)
            self._stopped.wait(backoff)
