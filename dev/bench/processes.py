"""Starts and stops measured processes; reads their CPU time and memory (Linux only)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from settings import Settings

# A file next to the server's log, with this suffix, holds its process id.
PID_SUFFIX = ".pid"
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The measurement failed; the message says why."""


def wait_for(condition: Callable[[], Any], timeout: float, description: str) -> Any:
    """Call `condition` until its result is true, and return the result.

    :param timeout: seconds.
    :param description: names the condition in the error message.
    :raises BenchError: the timeout expired.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise BenchError(f"timed out after {timeout:.0f} s: {description}")


def clean_environment() -> dict[str, str]:
    """Return the environment without the service's variables, which the developer may have set."""
    service_variables = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in service_variables} | {
        "ENV_FILE": os.devnull
    }


def process_tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += [int(child) for child in task.read_text().split()]
            except OSError:
                # The thread or the process has just ended.
                continue
    return pids


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of the processes so far, in seconds.

    The time includes their threads and the children that have ended.

    :raises BenchError: a process has ended.
    """
    try:
        return sum(map(_cpu_seconds, pids))
    except OSError as error:
        raise BenchError(f"a measured process has ended: {error}") from None


def _cpu_seconds(pid: int) -> float:
    # The process's CPU-time clock (clock_getcpuclockid(3)) counts nanoseconds. The fields utime and stime of
    # /proc/<pid>/stat only count hundredths of a second.
    own = time.clock_gettime((~pid << 3) | 2)
    # cutime and cstime are fields 16 and 17. Field 2, the name in parentheses, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) / TICKS


def memory(pids: Iterable[int], key: str) -> int:
    """Return the total resident memory of the processes in bytes.

    :param key: `VmRSS` for the current value, `VmHWM` for the peak since :func:`reset_peak_memory`.
    """
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:")) * 1024
    return total


def reset_peak_memory(pids: Iterable[int]) -> None:
    """Reset the peak of the resident memory to its current value."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


class Server:
    """A server process with its children. Its output goes to a log file."""

    def __init__(self, command: Sequence[str], directory: Path, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=clean_environment() | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        log.with_suffix(PID_SUFFIX).write_text(str(self._process.pid))

    def pids(self) -> list[int]:
        return process_tree(self._process.pid)

    def check(self) -> None:
        """Check that the server still runs. :raises BenchError: the server has ended."""
        if self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise BenchError(
                f"{self.log.stem} exited with status {self._process.returncode}; the end of its log:\n{tail}"
            )

    def stop(self) -> None:
        """Terminate the server; kill it after 40 s."""
        self._process.terminate()
        try:
            self._process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
