"""A worker keeps to one core, not to a busy one, and to none where the cores can't be known."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server import cpu_affinity as affinity
from server.cpu_affinity import Look
from tests.support import Service, clean_environment, wait_for

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="Linux and two cores are needed"
)

ALL = os.sched_getaffinity(0) if sys.platform == "linux" else set()


def cores(pid: int) -> list[set[int]]:
    """Where each of a process's threads may run."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # It may have ended by now.
        with suppress(ProcessLookupError):
            found.append(os.sched_getaffinity(int(task.name)))
    return found


def keeps_to_one(pid: int) -> bool:
    """All of the process's threads keep to the same core but the one that looks after them."""
    found = cores(pid)
    found.remove(ALL)
    return len(set().union(*found)) == 1


def test_a_worker_keeps_to_one_core(start: Callable[..., Service]) -> None:
    """All its threads do, also those of the driver; the master's do not, nor those of a worker that is not to."""
    free = start({"WEB_CONCURRENCY": "1", "CPU_AFFINITY": "false"})
    bound = start({"WEB_CONCURRENCY": "1"})
    wait_for(lambda: keeps_to_one(bound.workers()[0]), what="one core")
    assert bound.client.get("/users?limit=1").status_code == 200
    assert cores(bound.process.pid) == [ALL]
    assert all(allowed == ALL for allowed in cores(free.workers()[0]))


# A process whose cores do what the test says, line by line.
PROCESS = """
import os, sys, threading, time
from server import cpu_affinity as affinity

taken, broken, first = set(), None, 0
ticks = dict.fromkeys(os.sched_getaffinity(0), (0, 0))

def look():
    if broken:
        raise broken
    for core, (free, total) in ticks.items():
        ticks[core] = free + (0 if core in taken else 90), total + 100
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    return affinity.Look({core + first: of for core, of in ticks.items()}, threads, 0.0, time.monotonic())

affinity._look, affinity._INTERVAL = look, 0.01
threading.Thread(target=time.sleep, args=[60], daemon=True).start()
affinity.start()
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


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def core_of(process: subprocess.Popen[str]) -> int:
    wait_for(lambda: keeps_to_one(process.pid), what="one core")
    return min(min(cores(process.pid), key=len))


def test_it_leaves_a_core_that_others_use(process: subprocess.Popen[str]) -> None:
    """It goes where there is room, and back; threads that are new come along."""
    for _ in range(3):
        core = core_of(process)
        tell(process, "threading.Thread(target=time.sleep, args=[60], daemon=True).start()")
        tell(process, f"taken = {{{core}}}")
        wait_for(lambda: keeps_to_one(process.pid) and core_of(process) != core, what="another core")  # noqa: B023


@pytest.mark.parametrize(
    ("trouble", "end"),
    [
        ("taken = set(ticks)", "taken = set()"),
        ("broken = OSError(24, 'Too many open files')", "broken = None"),
        ("broken = ValueError('no number')", "broken = None"),
        # lxcfs numbers cores in its own way.
        ("first = 1", "first = 0"),
    ],
)
def test_it_may_run_anywhere_when_no_core_is_known_to_be_good(
    process: subprocess.Popen[str], trouble: str, end: str
) -> None:
    """When all are full, when nothing can be read, when the numbers are others: the kernel decides, till it is over."""
    core_of(process)
    tell(process, trouble)
    wait_for(lambda: all(allowed == ALL for allowed in cores(process.pid)), what="all cores")
    tell(process, end)
    core_of(process)


@pytest.mark.parametrize(
    ("free", "current", "used", "chosen"),
    [
        ({0: 0.2, 1: 0.9, 2: 0.3}, None, 0.0, {1}),
        ({0: 0.0, 1: 0.05}, None, 0.1, {None}),
        ({0: 0.0, 1: 0.0}, None, 0.9, {0, 1}),
        # What the worker had itself is free for it.
        ({0: 0.0, 1: 0.9}, 0, 0.9, {0}),
        ({0: 0.0, 1: 0.9}, 0, 0.5, {0, 1}),
        # Not for a little; but if it has little, and no room, the kernel may know better.
        ({0: 0.2, 1: 0.4}, 0, 0.0, {0}),
        ({0: 0.0, 1: 0.2}, 0, 0.3, {None}),
        # One that is not to be used any more.
        ({1: 0.1, 2: 0.9, 3: 0.85}, 0, 0.0, {2, 3}),
    ],
)
def test_the_core_with_most_to_give(
    free: dict[int, float], current: int | None, used: float, chosen: set[int | None]
) -> None:
    """It moves for a good reason only, not always at once, and among cores that are about alike not always to one."""
    assert {affinity.choose(free, current, used) for _ in range(200)} == chosen


def test_a_core_whose_sibling_is_busy_has_less_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four threads on two cores' hardware the one beside the busy one is not the best."""
    monkeypatch.setattr(affinity, "_siblings", lambda core: {core ^ 1})
    before = Look(dict.fromkeys(range(4), (0, 0)), [], 0.0, 0.0)
    now = Look({0: (0, 100), 1: (100, 100), 2: (100, 100), 3: (100, 100)}, [], 0.0, 1.0)
    free = affinity._shares(before, now, range(4))
    assert {affinity.choose(free, None, 0.0) for _ in range(200)} == {2, 3}
