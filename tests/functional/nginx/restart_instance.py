"""The restart command of the rolling-restart test: `restart_instance.py DIRECTORY SIGNAL PORT`.

As `systemctl restart` does, it stops the instance on this port, if there is one, waits until it has ended, and starts a
new one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dev.local_cassandra.node import port_is_free

# Seconds that an instance may take to stop.
LIMIT = 45.0


def pid_file(directory: Path, port: int) -> Path:
    """The file in which gunicorn's master writes its process id; it removes the file when it ends."""
    return directory / f"{port}.pid"


def stop(directory: Path, port: int, number: int = signal.SIGTERM) -> None:
    """Stop the instance on this port, and wait until it has ended.

    :param number: SIGTERM, or SIGKILL, which ends master and workers at once.
    """
    file = pid_file(directory, port)
    if not file.exists():
        return
    pid = int(file.read_text())
    if number == signal.SIGKILL:
        os.killpg(pid, number)
        file.unlink()
    else:
        os.kill(pid, number)
    deadline = time.monotonic() + LIMIT
    while file.exists() or not port_is_free("127.0.0.1", port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the instance on port {port} does not stop")
        time.sleep(0.05)


def main() -> None:
    directory, number, port = Path(sys.argv[1]), signal.Signals[sys.argv[2]], int(sys.argv[3])
    stop(directory, port, number)
    with (directory / f"{port}.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "tests.testbed.wsgi:app", "--pid", str(pid_file(directory, port))],
            env=os.environ | {"PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


if __name__ == "__main__":
    main()
