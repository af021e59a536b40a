"""CPU affinity: a worker is pinned to one core that is not busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server import cpu_affinity
from server.cpu_affinity import Sample
from tests.support import Service, clean_environment, wait_for

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"),
]

ALL_CORES = os.sched_getaffinity(0) if sys.platform == "linux" else set()


def cores(pid: int) -> list[set[int]]:
    """Return, for each thread of a process, the cores on which it may run."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # The thread may have ended.
        with suppress(ProcessLookupError):
            found.append(os.sched_getaffinity(int(task.name)))
    return found


def is_pinned(pid: int) -> bool:
    """Return whether all threads, except the one that pins them, are pinned to the same core."""
    found = cores(pid)
    found.remove(ALL_CORES)
    return len(set().union(*found)) == 1


@pytest.mark.slow
def test_worker_is_pinned_to_one_core(start: Callable[..., Service]) -> None:
    """All threads of a worker are pinned, including those of the driver.

    The master, and a worker with CPU_AFFINITY=false, are not pinned.
    """
    unpinned = start({"WEB_CONCURRENCY": "1", "CPU_AFFINITY": "false"})
    pinned = start({"WEB_CONCURRENCY": "1"})
    wait_for(lambda: is_pinned(pinned.workers()[0]), description="the pinned threads")
    assert pinned.client.get("/observers?limit=1").status_code == 200
    assert all(allowed == ALL_CORES for allowed in cores(pinned.process.pid))
    assert all(allowed == ALL_CORES for allowed in cores(unpinned.workers()[0]))


# A process with simulated load: it executes the lines that the test sends.
PROCESS = """
import os, sys, threading, time
from server import cpu_affinity

busy, error, first_core = set(), None, 0
ticks = dict.fromkeys(os.sched_getaffinity(0), (0, 0))

def take_sample():
    if error:
        raise error
    for core, (idle, total) in ticks.items():
        ticks[core] = idle + (0 if core in busy else 90), total + 100
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    numbered = {core + first_core: counts for core, counts in ticks.items()}
    return cpu_affinity.Sample(numbered, threads, 0.0, time.monotonic())

cpu_affinity._take_sample, cpu_affinity._INTERVAL = take_sample, 0.01
threading.Thread(target=time.sleep, args=[60], daemon=True).start()
cpu_affinity.start()
for line in sys.stdin:
    exec(line)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, text=True, env=clean_environment()
    ) as running:
        yield running
        running.kill()


def send_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def pinned_core(process: subprocess.Popen[str]) -> int:
    wait_for(lambda: is_pinned(process.pid), description="the pinned threads")
    return min(min(cores(process.pid), key=len))


def test_threads_move_away_from_a_busy_core(process: subprocess.Popen[str]) -> None:
    """The threads move to an idle core, and back when that core becomes busy.

    New threads move too.
    """
    for _ in range(3):
        core = pinned_core(process)
        send_line(process, "threading.Thread(target=time.sleep, args=[60], daemon=True).start()")
        send_line(process, f"busy = {{{core}}}")
        wait_for(lambda: is_pinned(process.pid) and pinned_core(process) != core, description="the move")  # noqa: B023


@pytest.mark.parametrize(
    ("fault", "repair"),
    [
        ("busy = set(ticks)", "busy = set()"),
        ("error = OSError(24, 'Too many open files')", "error = None"),
        ("error = ValueError('no number')", "error = None"),
        # lxcfs numbers the cores differently from the kernel.
        ("first_core = 1", "first_core = 0"),
    ],
)
def test_threads_are_unpinned_without_a_known_idle_core(
    process: subprocess.Popen[str], fault: str, repair: str
) -> None:
    """If all cores are busy, or their load is unknown, the kernel schedules the threads."""
    pinned_core(process)
    send_line(process, fault)
    wait_for(lambda: all(allowed == ALL_CORES for allowed in cores(process.pid)), description="the unpinned threads")
    send_line(process, repair)
    pinned_core(process)


@pytest.mark.parametrize(
    ("idle", "current", "used", "chosen"),
    [
        ({0: 0.2, 1: 0.9, 2: 0.3}, None, 0.0, {1}),
        ({0: 0.0, 1: 0.05}, None, 0.1, {None}),
        ({0: 0.0, 1: 0.0}, None, 0.9, {0, 1}),
        # The time that the worker itself used counts as available on its own core.
        ({0: 0.0, 1: 0.9}, 0, 0.9, {0}),
        ({0: 0.0, 1: 0.9}, 0, 0.5, {0, 1}),
        # A small gain is no reason to move. A worker that gets little time on a fully used core is unpinned.
        ({0: 0.2, 1: 0.4}, 0, 0.0, {0}),
        ({0: 0.0, 1: 0.2}, 0, 0.3, {None}),
        # The current core is no longer allowed.
        ({1: 0.1, 2: 0.9, 3: 0.85}, 0, 0.0, {2, 3}),
    ],
)
def test_core_is_changed_only_for_a_clear_gain(
    idle: dict[int, float], current: int | None, used: float, chosen: set[int | None]
) -> None:
    """A move needs a clear gain and may be delayed; of several similar cores, a random one is chosen."""
    assert {cpu_affinity.choose_core(idle, current, used) for _ in range(200)} == chosen


def test_core_with_a_busy_sibling_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four logical cores on two physical ones, the busy core's sibling is not chosen."""
    monkeypatch.setattr(cpu_affinity, "_siblings", lambda core: {core ^ 1})
    before = Sample(dict.fromkeys(range(4), (0, 0)), [], 0.0, 0.0)
    now = Sample({0: (0, 100), 1: (100, 100), 2: (100, 100), 3: (100, 100)}, [], 0.0, 1.0)
    idle = cpu_affinity._idle_shares(before, now, range(4))
    assert {cpu_affinity.choose_core(idle, None, 0.0) for _ in range(200)} == {2, 3}
