"""The end of an instance, in two phases: first it only says that it will end, then it finishes what is in flight.

gunicorn's master closes its listeners as soon as it handles SIGTERM. A load balancer that has not looked at /health
since would send requests to nobody, so the handling is put off for the first phase.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
from typing import Any

log = logging.getLogger("fieldbook.drain")

# Memory that the master shares with every worker that it forks. The first byte is 1 while the instance drains, the
# second one once a worker has asked for that.
_shared = mmap.mmap(-1, 2)
_master: int | None = None
_seconds = 0.0


def draining() -> bool:
    """Whether the instance has been asked to stop."""
    return _shared[0] == 1


def can_stop() -> bool:
    """Whether this process is a worker of a gunicorn that drains."""
    return _master is not None and os.getppid() == _master


def stop() -> float:
    """Asks the master of this worker to drain and stop, all its workers with it. Once: a repeat changes nothing.

    :returns: seconds of the first phase.
    """
    if not draining() and not _shared[1]:
        _shared[1] = 1
        os.kill(os.getppid(), signal.SIGTERM)
    return _seconds


def install(arbiter: Any, seconds: float) -> None:
    """In gunicorn's master, before it forks: puts the handling of the first SIGTERM off. A second one ends the wait.

    Called again, it takes the new time.

    :param arbiter: gunicorn's `Arbiter`, whose main loop calls `handle_term`.
    :param seconds: of the first phase; 0 for none.
    """
    global _master, _seconds
    _seconds = seconds
    if _master == os.getpid():
        return
    _master = os.getpid()
    stop_now = arbiter.handle_term

    def handle_term() -> None:
        first = not draining()
        _shared[0] = 1
        if not first or not _seconds:
            log.info("Stopping: what is in flight is finished.")
            stop_now()
            return
        log.info("Draining: /health says 503 from now on; the stop is in %g s, or with the next SIGTERM.", _seconds)
        # Through the queue of signals, for only the main loop may stop the workers.
        signal.signal(signal.SIGALRM, lambda number, frame: arbiter.signal(signal.SIGTERM, frame))
        signal.setitimer(signal.ITIMER_REAL, _seconds)

    arbiter.handle_term = handle_term
