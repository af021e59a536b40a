"""Readiness and liveness."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flask import g, request

from routes.blueprint import Blueprint
from schemas.service import Health, Live
from server.graceful_shutdown import is_draining
from storage.cql import QueryOptions
from storage.db_io import cluster
from storage.errors import StorageError, StorageTimeout
from storage.schema.status import pending_migrations
from web.dependencies import current_session, current_settings
from web.openapi import responses
from web.responses import ResponseValue
from web.route_options import route_options

# Seconds until the check stops waiting for Cassandra, and until /health stops waiting for the check.
_CHECK_TIMEOUT = 1.5
_TIMEOUT = 1.7

# Each of these requests holds one of the settings.RESERVED_THREADS.
MAX_WAITING = 4

_NO_NODES = cluster.ClusterStatus(up=0, down=0, quorum=False)

blueprint = Blueprint("health", __name__, tag="service")


@dataclass(frozen=True)
class _Finding:
    """The result of a check of Cassandra, and its time."""

    is_connected: bool
    seen: cluster.ClusterStatus
    timestamp: datetime
    pending_migrations: list[str] | None = None


class _SharedCheck:
    """A check of Cassandra that concurrent requests share, so that few threads wait when Cassandra hangs.

    It runs in a thread of its own: a request with a short deadline must not end the check of the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Future[_Finding] | None = None
        self._last: _Finding | None = None
        self._waiting = threading.Semaphore(MAX_WAITING)

    def result(self, options: QueryOptions) -> _Finding:
        """The result of the check that is running or starts now; the last result if too many requests wait already.

        :raises StorageTimeout: the deadline passed first.
        """
        check = self._join()
        if not self._waiting.acquire(blocking=False):
            return self._last or _disconnected()
        try:
            options.wait_for(check)
            return check.result()
        finally:
            self._waiting.release()

    def _join(self) -> Future[_Finding]:
        with self._lock:
            if self._running is None:
                check: Future[_Finding] = Future()
                # The context has the application and, for log lines, the request id.
                threading.Thread(target=copy_context().run, args=(self._run, check), daemon=True).start()
                self._running = check
            return self._running

    def _run(self, check: Future[_Finding]) -> None:
        try:
            self._last = _check()
            check.set_result(self._last)
        except BaseException as error:
            check.set_exception(error)
        finally:
            with self._lock:
                self._running = None


_shared_check = _SharedCheck()


def _check() -> _Finding:
    # The default consistency level: the probe asks whether Cassandra answers, not whether a request's level works.
    options = QueryOptions(deadline=time.monotonic() + _CHECK_TIMEOUT)
    seen = _NO_NODES
    try:
        session = current_session(options.remaining())
        seen = cluster.status(session)
        cluster.retrieve_release_version(session, options)
    except StorageError:
        return _disconnected(seen)
    try:
        pending = pending_migrations(session, options)
    except StorageError:
        # One node answers, but the consistency level can't be met.
        pending = None
    return _Finding(True, cluster.status(session), datetime.now(UTC), pending)


def _disconnected(seen: cluster.ClusterStatus = _NO_NODES) -> _Finding:
    return _Finding(False, seen._replace(quorum=False), datetime.now(UTC))


@blueprint.get("/health", responses=responses(200, Health, 504) | responses(503, Health))
@route_options(session=False, limited=False, any_host=True, scope="open", rate_limited=False)
def health() -> ResponseValue:
    """Readiness: whether Cassandra can be queried and the instance is not draining.

    Answers within 2 seconds. `quorum`, `read_only` and `pending_migrations` do not change the
    status.
    """
    latest = time.monotonic() + _TIMEOUT
    try:
        finding = _shared_check.result(replace(g.options, deadline=min(g.options.deadline, latest)))
    except StorageTimeout:
        # The client asked for a shorter deadline: 504, as on every route.
        if g.options.deadline < latest and "X-Request-Timeout" in request.headers:
            raise
        finding = _disconnected()
    if not finding.is_connected:
        return _health("unhealthy", "disconnected", finding), 503
    if is_draining():
        return _health("draining", "connected", finding), 503
    return _health("healthy", "connected", finding), 200


def _health(status: str, cassandra: str, finding: _Finding) -> dict[str, object]:
    return {
        "status": status,
        "cassandra": cassandra,
        "keyspace": current_settings().cassandra_keyspace,
        "nodes": {"up": finding.seen.up, "down": finding.seen.down},
        "quorum": finding.seen.quorum,
        "read_only": current_settings().read_only,
        "pending_migrations": finding.pending_migrations,
        "timestamp": finding.timestamp,
    }


@blueprint.get("/health/live", responses=responses(200, Live))
@route_options(session=False, limited=False, any_host=True, scope="open", rate_limited=False)
def live() -> ResponseValue:
    """Liveness: whether the process serves requests. Does not use Cassandra."""
    return {"status": "alive"}
