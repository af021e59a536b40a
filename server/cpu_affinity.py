"""Keeps the threads of a worker on one core at a time, one that has time to give.

CPython lets one thread of a process run at a time. Spread over cores, each hand-over of its lock wakes another core
and moves what the caches hold; on one core the next thread runs when the one before waits. What keeps to one core the
kernel can't move away when that gets busy, so somebody has to look: once a second, here. Where a core gives too little,
or nothing can be known of them, the threads may run anywhere.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)

# Seconds between looks.
_INTERVAL = 1.0
# Shares of a core's time: what another core must have to give beyond the present one, to be worth the move; below
# which a core has no room; and what a worker must have where there is no room, to be better off than with the kernel.
_MARGIN = 0.25
_ROOM = 0.1
_ENOUGH = 0.4
# How much of a core is lost while the other thread of the same hardware is busy.
_SIBLING = 0.4
_SYSTEM = Path("/sys/devices/system/cpu")


class Look(NamedTuple):
    """What was read at one time.

    :ivar free: ticks (proc_stat(5)) of each core in which nobody ran, and all ticks.
    :ivar threads: of this process, as the kernel numbers them.
    :ivar used: seconds of CPU time of this process.
    :ivar at: seconds of a clock.
    """

    free: dict[int, tuple[int, int]]
    threads: list[int]
    used: float
    at: float


def start() -> None:
    """In a worker: looks after its threads from now on, where there are several cores and a way to keep to one."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if has_lock and sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
        threading.Thread(target=_look_after, name="affinity", daemon=True).start()


def choose(free: Mapping[int, float], current: int | None, used: float) -> int | None:
    """The core to be on until the next look; None to leave it to the kernel.

    :param free: of each core that may be used, the share of its time in which nobody ran.
    :param current: where the worker is kept to.
    :param used: the share of a core's time that the worker had.
    """
    most = max(free.values())
    best = [core for core, share in free.items() if share > most - _MARGIN / 2]
    if current is None or current not in free:
        return random.choice(best) if most >= _ROOM or used >= _ENOUGH else None
    room = free[current] >= _ROOM
    if most > free[current] + used + _MARGIN:
        # Of several workers that would leave, not all go at once; those that have no room go first.
        return random.choice(best) if random.random() < (1 / len(free) if room else 0.5) else current
    return current if room or used >= _ENOUGH else None


def _look_after() -> None:
    if not _is_permitted():
        _log.info("The worker's threads may not be kept to one core here")
        return
    core: int | None = None
    before: Look | None = None
    threads: list[int] = []
    failed = False
    while True:
        # This thread is kept to no core, and knows by that which ones are allowed, also when the container's change.
        allowed = os.sched_getaffinity(0)
        try:
            now = _look()
            threads = now.threads
            free = _shares(before, now, allowed) if before else {}
            core = choose(free, core, (now.used - before.used) / (now.at - before.at)) if before and free else None
            _keep_to(allowed if core is None else {core}, threads)
            before, failed = now, False
        except (OSError, ValueError) as error:
            # No descriptor, a core that has just gone, a line that says nothing. The next look may work.
            if not failed:
                _log.warning("The worker's threads can't be kept to one core now: %s", error)
            core, before, failed = None, None, True
            with suppress(OSError):
                _keep_to(allowed, threads)
        time.sleep(_INTERVAL)


def _look() -> Look:
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    return Look(_ticks(), threads, time.process_time(), time.monotonic())


def _ticks() -> dict[int, tuple[int, int]]:
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, idle, waiting, irq, softirq, steal = map(int, fields[:8])
            nobody = idle + waiting
            found[int(name[3:])] = (nobody, nobody + user + nice + system + irq + softirq + steal)
    return found


def _shares(before: Look, now: Look, allowed: Collection[int]) -> dict[int, float]:
    """Of each core the share of its time that may be had; nothing where the numbers may be those of other cores."""
    if not set(allowed) <= before.free.keys() & now.free.keys():
        # lxcfs numbers a container's cores from 0, whatever they are.
        return {}
    shares = {}
    for core in allowed:
        (nobody, total), (nobody_now, total_now) = before.free[core], now.free[core]
        if total_now <= total:
            return {}
        shares[core] = (nobody_now - nobody) / (total_now - total)
    busy = {
        core: max((1 - shares[other] for other in _siblings(core) if other in shares), default=0) for core in shares
    }
    return {core: share - _SIBLING * busy[core] for core, share in shares.items()}


def _siblings(core: int) -> set[int]:
    """The other threads of the same hardware."""
    try:
        text = (_SYSTEM / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except FileNotFoundError:
        return set()
    spans = [part.partition("-") for part in text.strip().split(",")]
    return {number for first, _, last in spans for number in range(int(first), int(last or first) + 1)} - {core}


def _keep_to(cores: Collection[int], threads: Collection[int]) -> None:
    # All, each time, for a thread may have been started by one that had not been moved yet.
    for thread in threads:
        if thread != threading.get_native_id():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def _is_permitted() -> bool:
    """Some filters of system calls (systemd's ~@resources) kill who asks. Then it is a child that dies of it."""
    with suppress(OSError):
        if "\nSeccomp:\t0\n" in Path("/proc/self/status").read_text():
            return True
    code = "import os; os.sched_setaffinity(0, os.sched_getaffinity(0))"
    return subprocess.run([sys.executable, "-ISc", code], stderr=subprocess.DEVNULL, check=False).returncode == 0
