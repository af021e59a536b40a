"""Graceful shutdown of an instance in two phases: connection draining, then the stop.

While the instance drains, it serves all requests, but `GET /health` returns 503 so that load balancers stop sending.
Then gunicorn stops: in-flight requests complete, new connections are refused.

gunicorn's master closes its listeners as soon as it handles SIGTERM. A load balancer that has not checked /health since
then would send requests to a closed port. The handling of SIGTERM is therefore delayed by the draining phase.

| Private name of gunicorn | Used for |
|---|---|
| `Arbiter.handle_term` | is replaced, to delay the stop that it begins |
| `Arbiter.handle_rtmin` | is added; the main loop calls `handle_<name>` for each queued signal |
| `Arbiter.signal` | queues a signal for the master's main loop |
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
from typing import Any

log = logging.getLogger("fieldbook.shutdown")

# Memory that the master shares with all its workers: one byte, which the master sets to 1 when the instance drains.
_shared = mmap.mmap(-1, 1)
# The signal by which a worker requests the shutdown. With SIGTERM, the master could not distinguish the requests of two
# workers from the second SIGTERM of an operator, which ends the draining phase.
_REQUEST = signal.SIGRTMIN
_master: int | None = None
_drain_seconds = 0.0


def is_draining() -> bool:
    """Whether the shutdown of this instance has begun."""
    return _shared[0] == 1


def can_shut_down() -> bool:
    """Whether this process is a worker of a gunicorn master in which `install` was called."""
    return _master is not None and os.getppid() == _master


def shut_down() -> float:
    """Make the master of this worker drain and stop the instance. Safe to call more than once.

    :returns: length of the draining phase in seconds.
    """
    if not is_draining():
        os.kill(os.getppid(), _REQUEST)
    return _drain_seconds


def install(arbiter: Any, drain_seconds: float) -> None:
    """Delay the handling of the first SIGTERM in gunicorn's master.

    A second SIGTERM ends the draining phase at once. Call this before the master forks its workers; later calls only
    change the delay.

    :param arbiter: gunicorn's `Arbiter`; its main loop calls `handle_term`.
    :param drain_seconds: length of the draining phase; 0 for none.
    """
    global _master, _drain_seconds
    _drain_seconds = drain_seconds
    if _master == os.getpid():
        return
    _master = os.getpid()
    stop = arbiter.handle_term

    def handle_term() -> None:
        is_first = not is_draining()
        _shared[0] = 1
        if not is_first or not _drain_seconds:
            log.info("Shutting down: in-flight requests complete, new connections are refused")
            stop()
            return
        log.info(
            "Draining: /health returns 503; the shutdown follows in %g s, or with the next SIGTERM", _drain_seconds
        )
        # Queued as a signal, because only the master's main loop may stop the workers.
        signal.signal(signal.SIGALRM, lambda number, frame: arbiter.signal(signal.SIGTERM, frame))
        signal.setitimer(signal.ITIMER_REAL, _drain_seconds)

    def handle_request() -> None:
        if not is_draining():
            handle_term()

    arbiter.handle_term = handle_term
    arbiter.handle_rtmin = handle_request
    signal.signal(_REQUEST, arbiter.signal)
