"""A worker keeps to one core, and not to a busy one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import affinity
from tests.support import Service, wait_for

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


def only_core(pid: int) -> int | None:
    """The core that all of the process's threads keep to but the one that looks after them."""
    found = cores(pid)
    found.remove(ALL)
    allowed = set().union(*found)
    return allowed.pop() if len(allowed) == 1 else None


def test_a_worker_keeps_to_one_core_and_leaves_a_busy_one(start: Callable[..., Service]) -> None:
    """All its threads, also those that come later, and those of the driver; what else runs there sends it away."""
    running = start({"WEB_CONCURRENCY": "1"})
    (worker,) = running.workers()
    wait_for(lambda: only_core(worker) is not None, what="one core")
    first = only_core(worker)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(busy.pid, {first})
        wait_for(lambda: only_core(worker) not in (None, first), what="the other core")
        assert running.client.get("/users?limit=1").status_code == 200
    finally:
        busy.kill()
        busy.wait()
    assert cores(running.process.pid) == [ALL]


def test_a_worker_may_use_all_cores(start: Callable[..., Service]) -> None:
    """With CPU_AFFINITY=false, also by the time at which one that was started later keeps to a core."""
    free = start({"WEB_CONCURRENCY": "1", "CPU_AFFINITY": "false"}).workers()
    bound = start({"WEB_CONCURRENCY": "1"}).workers()
    wait_for(lambda: only_core(bound[0]) is not None, what="one core")
    assert all(allowed == ALL for allowed in cores(free[0]))


@pytest.mark.parametrize(
    ("free", "current", "used", "chosen"),
    [
        ({0: 0.2, 1: 0.9, 2: 0.3}, None, 0.0, {1}),
        # What the worker had itself is free for it.
        ({0: 0.0, 1: 0.9}, 0, 0.9, {0}),
        ({0: 0.0, 1: 0.9}, 0, 0.5, {1}),
        # Not for a little.
        ({0: 0.5, 1: 0.7}, 0, 0.0, {0}),
        # One that is not to be used any more.
        ({1: 0.1, 2: 0.9, 3: 0.85}, 0, 0.0, {2, 3}),
    ],
)
def test_the_core_with_most_to_give(free: dict[int, float], current: int | None, used: float, chosen: set[int]) -> None:
    """It moves for a good reason only, and among cores that are about alike not always to the same."""
    assert {affinity.choose(free, current, used) for _ in range(100)} == chosen
