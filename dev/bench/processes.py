"""Processes that are measured: their start, their end, their CPU time and their memory (Linux)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from settings import Settings

# Of the file beside a server's log that has its process id.
PID_SUFFIX = ".pid"
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Why there is no measurement."""


def wait_for(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """The first true result of `condition`.

    :param timeout: seconds.
    :raises BenchError: when the time is up.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.02)
    raise BenchError(f"{what} did not come within {timeout:.0f} s")


def clean_environment() -> dict[str, str]:
    """The environment without any variable of the service: what the developer has set for one is not for this one."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {"ENV_FILE": os.devnull}


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                # The thread, or the whole process, has just ended.
                continue
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, of all their threads and of children that have ended.

    :raises BenchError: one of them has ended.
    """
    try:
        return sum(map(_cpu_seconds, pids))
    except OSError as error:
        raise BenchError(f"a process has ended that is measured: {error}") from None


def _cpu_seconds(pid: int) -> float:
    # The process's CPU-time clock (clock_getcpuclockid(3)): utime + stime of /proc/<pid>/stat, which counts in
    # hundredths of a second, but to the nanosecond.
    own = time.clock_gettime((~pid << 3) | 2)
    # cutime and cstime: fields 16 and 17, the name in parentheses being the second.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) / TICKS


def memory(pids: Iterable[int], key: str) -> int:
    """Bytes of the processes together.

    :param key: `VmRSS`, now, or `VmHWM`, the most since :func:`reset_peak`.
    """
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:")) * 1024
    return total


def reset_peak(pids: Iterable[int]) -> None:
    """Makes the peak what the memory is now."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


class Server:
    """A server in processes of its own, its output in a log."""

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
        return tree(self._process.pid)

    def check(self) -> None:
        """:raises BenchError: it has ended."""
        if self._process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise BenchError(
                f"{self.log.stem} ended with status {self._process.returncode}; the end of its log:\n{tail}"
            )

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
