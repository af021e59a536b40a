"""CPU affinity: pins the threads of a worker to one core that is not busy.

CPython runs one thread of a process at a time. If the threads run on several cores, each switch between threads wakes
another core and moves the contents of its caches. On one core, the next thread runs as soon as the previous one waits.

The kernel does not move a pinned thread away from a busy core. A background thread therefore measures the load of all
cores once a second and picks the core. If no core has enough idle time, or the load can't be measured, the threads are
unpinned and the kernel schedules them.
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

# Seconds between samples.
_INTERVAL = 1.0
# Shares of a core's time. The threads move to another core only if it offers this much more than the current one.
_MIN_GAIN = 0.25
# A core that is idle for less than this share is full.
_MIN_IDLE = 0.1
# On a full core, a worker that gets less than this share is unpinned.
_MIN_USED = 0.4
# Share of a core that is lost while its hyper-threading sibling is busy.
_SIBLING_LOSS = 0.4
_SYSTEM = Path("/sys/devices/system/cpu")


class Sample(NamedTuple):
    """The load of all cores, and of this process, at one time.

    :ivar ticks: of each core, its idle ticks and all its ticks since boot (proc_stat(5)).
    :ivar threads: native ids of this process's threads.
    :ivar used: seconds of CPU time of this process.
    :ivar time: a value of `time.monotonic()`.
    """

    ticks: dict[int, tuple[int, int]]
    threads: list[int]
    used: float
    time: float


def start() -> None:
    """Pin the threads of this worker from now on.

    Does nothing without the GIL, on other systems than Linux, or when only one core is allowed.
    """
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if has_gil and sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
        threading.Thread(target=_run, name="cpu-affinity", daemon=True).start()


def choose_core(idle: Mapping[int, float], current: int | None, used: float) -> int | None:
    """The core to pin the threads to until the next sample; None to leave them to the kernel.

    :param idle: for each allowed core, the share of its time in which nothing ran.
    :param current: the core that the threads are pinned to.
    :param used: the share of a core's time that this worker used.
    """
    most = max(idle.values())
    best = [core for core, share in idle.items() if share > most - _MIN_GAIN / 2]
    if current is None or current not in idle:
        return random.choice(best) if most >= _MIN_IDLE or used >= _MIN_USED else None
    is_full = idle[current] < _MIN_IDLE
    if most > idle[current] + used + _MIN_GAIN:
        # At random, so that not all workers move to the same core at once. From a full core, a move is more likely.
        return random.choice(best) if random.random() < (0.5 if is_full else 1 / len(idle)) else current
    return current if not is_full or used >= _MIN_USED else None


def _run() -> None:
    if not _affinity_is_permitted():
        _log.info("CPU affinity is off: this process may not set it")
        return
    core: int | None = None
    before: Sample | None = None
    threads: list[int] = []
    failed = False
    while True:
        # This thread is never pinned, so its affinity is the set of allowed cores, even if the container changes it.
        allowed = os.sched_getaffinity(0)
        try:
            now = _take_sample()
            threads = now.threads
            idle = _idle_shares(before, now, allowed) if before else {}
            core = (
                choose_core(idle, core, (now.used - before.used) / (now.time - before.time))
                if before and idle
                else None
            )
            _pin(threads, allowed if core is None else {core})
            before, failed = now, False
        except (OSError, ValueError) as error:
            # For example no free file descriptor, or a core that went offline. The next sample may succeed.
            if not failed:
                _log.warning(
                    "CPU affinity: the load of the cores can't be measured, so the threads are unpinned: %s", error
                )
            core, before, failed = None, None, True
            with suppress(OSError):
                _pin(threads, allowed)
        time.sleep(_INTERVAL)


def _take_sample() -> Sample:
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    return Sample(_read_ticks(), threads, time.process_time(), time.monotonic())


def _read_ticks() -> dict[int, tuple[int, int]]:
    ticks = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[:8])
            unused = idle + iowait
            ticks[int(name[3:])] = (unused, unused + user + nice + system + irq + softirq + steal)
    return ticks


def _idle_shares(before: Sample, now: Sample, allowed: Collection[int]) -> dict[int, float]:
    """For each allowed core, its idle share between two samples; empty if not known."""
    if not set(allowed) <= before.ticks.keys() & now.ticks.keys():
        # lxcfs numbers the cores of a container from 0, so the numbers in /proc/stat are not those of the affinity.
        return {}
    shares = {}
    for core in allowed:
        (idle_before, total_before), (idle_now, total_now) = before.ticks[core], now.ticks[core]
        if total_now <= total_before:
            return {}
        shares[core] = (idle_now - idle_before) / (total_now - total_before)
    sibling_load = {
        core: max((1 - shares[other] for other in _siblings(core) if other in shares), default=0) for core in shares
    }
    return {core: share - _SIBLING_LOSS * sibling_load[core] for core, share in shares.items()}


def _siblings(core: int) -> set[int]:
    """The other logical cores on the same physical core (hyper-threading)."""
    try:
        text = (_SYSTEM / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except FileNotFoundError:
        return set()
    ranges = [part.partition("-") for part in text.strip().split(",")]
    return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)} - {core}


def _pin(threads: Collection[int], cores: Collection[int]) -> None:
    # All threads each time: a new thread inherits the affinity of the thread that started it, which may be outdated.
    for thread in threads:
        if thread != threading.get_native_id():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)


def _affinity_is_permitted() -> bool:
    """Whether this process may set CPU affinity.

    Some filters of system calls, such as systemd's `~@resources`, kill a process that tries it. A child process tries
    it first.
    """
    with suppress(OSError):
        if "\nSeccomp:\t0\n" in Path("/proc/self/status").read_text():
            return True
    code = "import os; os.sched_setaffinity(0, os.sched_getaffinity(0))"
    return subprocess.run([sys.executable, "-ISc", code], stderr=subprocess.DEVNULL, check=False).returncode == 0
