"""The job worker: the tasks, and the processes of Celery's prefork pool.

The parent receives messages and never connects to Cassandra. Each child works on one job at a time, with a session of
its own. If the parent is killed, Linux kills its children (PR_SET_PDEATHSIG), and their leases expire.
"""

from __future__ import annotations

import logging
import logging.config
import mmap
import os
import signal
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any
from uuid import UUID

from celery import Celery, signals
from celery.platforms import SecurityWarning, set_pdeathsig
from celery.worker.consumer import Consumer

from jobs.celery_app import application, sweep_interval
from jobs.engine import Engine, Kind
from jobs.messages import send_sweep, send_work
from jobs.sweep import send_messages
from jobs.worker_port import serve_port
from observability import logs, metrics
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.errors import StorageError

log = logging.getLogger(__name__)

_TIME = Struct("d")
# Seconds for which a task waits for the session.
_CONNECT_TIMEOUT = 10.0
# Seconds after SIGTERM until a child ends by itself, if its parent has not ended it.
_LAST_SECONDS = 20


class _Shared:
    """What the parent and its children share: memory that exists since before the fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _TIME.size)
        self.note_sweep()

    def stop(self) -> None:
        """Note that the worker is about to end."""
        self._memory[0] = 1

    def is_stopping(self) -> bool:
        """Whether the worker is about to end."""
        return self._memory[0] == 1

    def note_sweep(self) -> None:
        """Note that a process has begun a sweep."""
        _TIME.pack_into(self._memory, _TIME.size, time.monotonic())

    def since_sweep(self) -> float:
        """Seconds since the last sweep of this worker."""
        (last,) = _TIME.unpack_from(self._memory, _TIME.size)
        return time.monotonic() - float(last)


@dataclass(frozen=True)
class JobWorker:
    """The tasks, and what happens at the start and end of processes.

    :ivar kinds: the kinds of jobs by name.
    """

    settings: Settings
    kinds: Mapping[str, Kind]
    shared: _Shared = field(default_factory=_Shared)
    parent: int = field(default_factory=os.getpid)

    @property
    def engine(self) -> Engine:
        """The engine, which ends a slice early when the worker stops."""
        return Engine(self.kinds, self.settings.job_lease, self.settings.request_timeout, self.shared.is_stopping)

    def work(self, job_id: str) -> None:
        """Work on a job for one slice, and send the message for the next one."""
        if self.settings.read_only:
            # The sweep sends another message after the maintenance.
            return
        # In a long queue, each message "sweep" expires.
        if self.shared.since_sweep() > 2 * sweep_interval(self.settings):
            self.sweep()
        job = UUID(job_id)
        # A worker that is about to end leaves the job to another one.
        if self.shared.is_stopping() or self._engine_work(job) == "continue":
            send_work(self.settings, job)

    def _engine_work(self, job_id: UUID) -> str:
        try:
            return self.engine.work(db_connect.get_session(_CONNECT_TIMEOUT), job_id)
        except StorageError as error:
            log.warning("job %s: the worker gives up, and a sweep will find the job: %s", job_id, error)
            return "later"

    def sweep(self) -> None:
        """Find the jobs that need a worker."""
        if self.settings.read_only:
            return
        self.shared.note_sweep()

        def options() -> QueryOptions:
            return QueryOptions(timeout=self.settings.request_timeout)

        def send(job_id: UUID) -> bool:
            return send_work(self.settings, job_id, expires=2 * sweep_interval(self.settings))

        try:
            send_messages(db_connect.get_session(_CONNECT_TIMEOUT), self.engine, options, send)
        except StorageError as error:
            log.warning("The sweep failed: %s", error)

    # --- receivers of Celery's signals -------------------------------------------------------------------------

    def configure_logs(self, **_: Any) -> None:
        """Configure the logs of each process, instead of Celery."""
        configuration = logs.config(self.settings.log_level)
        # billiard's logger, which by default does not pass its lines on.
        configuration["loggers"]["multiprocessing"] = {"level": "WARNING", "propagate": True}
        logging.config.dictConfig(configuration)

    def start(self, **_: Any) -> None:
        """Sweep once, when the parent begins to receive messages."""
        # Jobs may have waited while there was no worker.
        send_sweep(self.settings, expires=2 * sweep_interval(self.settings))
        log.info("The job worker is ready, with %d processes", self.settings.job_concurrency)

    def start_child(self, **_: Any) -> None:
        """Prepare a child after the fork."""
        self._end_with_parent()
        # The parent ends its children. If all of them get SIGTERM, as from `kill -- -PGID`, a child that ended at once
        # would be replaced, and Celery would wait for the new one forever. The signal is blocked, because billiard
        # replaces handlers after this function. Threads inherit the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_after_sigterm, name="sigterm", daemon=True).start()
        db_connect.start_connecting()
        metrics.sampler.start()

    def end_child(self, **_: Any) -> None:
        """Close the session of a child that ends without a signal."""
        db_connect.shutdown()

    def start_beat(self, **_: Any) -> None:
        """Let a beat that is a part of a worker (`celery worker --beat`) end with its parent."""
        self._end_with_parent()

    def _end_with_parent(self) -> None:
        set_pdeathsig("SIGKILL")
        # The parent may have ended before this call.
        if os.getppid() != self.parent:
            os._exit(1)

    def end(self, **_: Any) -> None:
        """Tell the children to end their slices, when the parent receives SIGTERM, SIGINT or SIGQUIT."""
        self.shared.stop()


class JobConsumer(Consumer):
    """The part of the parent that receives messages.

    It turns off Celery's messages between workers. Celery sends heartbeats from the loop that also handles SIGTERM:
    without a broker, it would try to send one forever, and SIGTERM would have no effect.
    """

    def __init__(self, *args: Any, worker_options: Mapping[str, Any], **kwargs: Any) -> None:
        off = {"without_heartbeat": True, "without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options={**worker_options, **off}, **kwargs)


def _end_after_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    time.sleep(_LAST_SECONDS)
    os._exit(1)


def job_worker(settings: Settings, kinds: Mapping[str, Kind]) -> Celery:
    """The Celery application of job workers and of beat.

    :param kinds: the kinds of jobs by name.
    :raises SettingsError: there is no broker.
    """
    app = application(settings)
    app.conf.worker_consumer = JobConsumer
    # Celery warns that root would execute pickled messages. Workers accept JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = JobWorker(settings, kinds)

    # Celery can't check the arguments of methods.
    def work(job_id: str) -> None:
        worker.work(job_id)

    def sweep() -> None:
        worker.sweep()

    app.task(work, name="work")
    app.task(sweep, name="sweep")
    for event, receiver in (
        (signals.setup_logging, worker.configure_logs),
        (signals.worker_ready, worker.start),
        (signals.worker_process_init, worker.start_child),
        (signals.worker_process_shutdown, worker.end_child),
        (signals.beat_embedded_init, worker.start_beat),
        (signals.worker_shutting_down, worker.end),
    ):
        # By default Celery keeps only a weak reference.
        event.connect(receiver, weak=False)
    serve_port(settings)
    return app
