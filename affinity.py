"""Keeps the threads of a worker on one core at a time, the one with the most time to give.

CPython lets one thread of a process run at a time. Spread over cores, each hand-over of its lock wakes another core
and moves what the caches hold; on one core the next thread runs when the one before waits. What keeps to one core the
kernel can't move away when that gets busy, so somebody has to look: once a second, here.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

# Seconds between looks.
_INTERVAL = 1.0
# Share of a core that another one must have to give beyond the present one's, to be worth the move.
_MARGIN = 0.25


def start() -> None:
    """In a worker: looks after its threads from now on, where there are several cores and a way to keep to one."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if has_lock and sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
        threading.Thread(target=_look_after, name="affinity", daemon=True).start()


def choose(free: Mapping[int, float], current: int | None, used: float) -> int:
    """The core to be on.

    :param free: of each core that may be used, the share of its time in which nobody ran.
    :param current: where the worker is; None at first.
    :param used: the share of a core's time that the worker had.
    """
    most = max(free.values())
    if current is not None and current in free and most <= free[current] + used + _MARGIN:
        return current
    return random.choice([core for core, share in free.items() if share > most - _MARGIN / 2])


def _look_after() -> None:
    core: int | None = None
    before, busy, started = _times(), time.process_time(), time.monotonic()
    while True:
        time.sleep(_INTERVAL)
        after, busy_after, now = _times(), time.process_time(), time.monotonic()
        # This thread is kept to no core, and knows by that which ones are allowed, also when the container's change.
        free = {
            allowed: (after[allowed][0] - before[allowed][0]) / (after[allowed][1] - before[allowed][1])
            for allowed in os.sched_getaffinity(0)
            if allowed in after and allowed in before and after[allowed][1] > before[allowed][1]
        }
        # Of several workers that want to leave the same core, not all go to the same other one at once.
        if free and (core not in free or random.random() < 0.5):
            core = choose(free, core, (busy_after - busy) / (now - started))
        try:
            if core is not None:
                _keep_to(core)
        except OSError as error:
            _log.warning("The worker's threads can't be kept to one core: %s", error)
            return
        before, busy, started = after, busy_after, now


def _keep_to(core: int) -> None:
    # Each time, for a thread may have been started by one that had not been moved yet.
    for thread in map(int, os.listdir("/proc/self/task")):
        if thread != threading.get_native_id():
            try:
                os.sched_setaffinity(thread, {core})
            except ProcessLookupError:
                continue


def _times() -> dict[int, tuple[int, int]]:
    """Of each core: time in which nobody ran, and all time, in ticks of the kernel (proc_stat(5))."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, idle, waiting, *others = map(int, fields[:8])
            times[int(name[3:])] = (idle + waiting, user + nice + system + idle + waiting + sum(others))
    return times
