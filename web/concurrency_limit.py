"""The concurrency limits of a process, each with a queue in which requests wait for a short time.

| Limit | Kind of request | In flight | Queued |
|---|---|---|---|
| data | `data`: routes with a session | MAX_REQUESTS_IN_FLIGHT | MAX_REQUESTS_QUEUED |
| | `stream`: a part of them | MAX_STREAMS_IN_FLIGHT | 3/4 of MAX_REQUESTS_QUEUED |
| import | `import`: routes that read the body while it arrives | MAX_IMPORTS_IN_FLIGHT | 0 |
| service | `service`: routes without a session, such as /metrics and /docs | 4 | 6 |

`RouteOptions.kind` says to which kind the requests of a route belong. The health routes have no limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable

from observability import metrics
from settings import Settings
from web.errors import RETRY_AFTER
from web.route_options import RequestKind

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

# Each of these requests holds one of the settings.RESERVED_THREADS. Some must remain, for /health and rejections.
SERVICE_IN_FLIGHT = 4
SERVICE_QUEUED = 6

_COUNTED = "fieldbook.counted"


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request in the queue.

    :ivar granted: set when the request counts as in flight.
    """

    kind: RequestKind
    granted: threading.Event = field(default_factory=threading.Event)


class Limit:
    """A limit of requests in flight, and a bounded queue for it: first in, first out.

    Streams have a lower limit of their own, because a slow client keeps its stream in flight for long. Other requests
    overtake the streams that wait for this lower limit, and streams can't fill the queue.

    :ivar in_flight: number of requests in flight, including the streams.
    :ivar streams_in_flight: number of streams in flight.
    """

    def __init__(self, size: int, queue_size: int, queue_timeout: float, streams: int = 0) -> None:
        """Create a limit.

        :param size: maximum number of requests in flight.
        :param queue_size: maximum number of requests in the queue.
        :param queue_timeout: seconds that a request stays in the queue at most.
        :param streams: maximum number of streams among the requests in flight.
        """
        self.size = size
        self.streams = streams
        self.in_flight = 0
        self.streams_in_flight = 0
        self._queue_size = queue_size
        self._stream_queue_size = queue_size * 3 // 4
        self._queue_timeout = queue_timeout
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    def queued(self, kind: RequestKind) -> int:
        """The number of requests of a kind in the queue."""
        with self._lock:
            return self._queued(kind)

    def acquire(self, kind: RequestKind, deadline: float | None) -> None:
        """Count a request as in flight. At the limit, the request waits in the queue first.

        :param deadline: a value of `time.monotonic()`; None for no deadline.
        :raises ServiceUnavailable: the queue is full, or the request has waited for the queue timeout.
        :raises GatewayTimeout: the deadline passed in the queue.
        """
        with self._lock:
            # This overtakes no request: release() leaves none in the queue that fits.
            if self._fits(kind):
                self._count(kind, 1)
                return
            waiting = self._enqueue(kind)
        if waiting is None:
            raise _rejection(kind, "queue_full")
        started = time.monotonic()
        timeout, reason = self._queue_timeout, "queue_timeout"
        if deadline is not None and deadline - started < timeout:
            timeout, reason = deadline - started, "deadline"
        waiting.granted.wait(timeout)
        with self._lock:
            # Not the result of wait(): release() may have granted the request since.
            granted = waiting.granted.is_set()
            if not granted:
                self._queue.remove(waiting)
        metrics.QUEUE_SECONDS.labels(kind).observe(time.monotonic() - started)
        if not granted:
            raise _rejection(kind, reason)

    def release(self, kind: RequestKind) -> None:
        """Stop counting a request as in flight, and grant its place to the first request in the queue that fits."""
        with self._lock:
            self._count(kind, -1)
            first = next((waiting for waiting in self._queue if self._fits(waiting.kind)), None)
            if first is not None:
                self._queue.remove(first)
                self._count(first.kind, 1)
                first.granted.set()

    def _fits(self, kind: RequestKind) -> bool:
        return self.in_flight < self.size and (kind != "stream" or self.streams_in_flight < self.streams)

    def _count(self, kind: RequestKind, step: int) -> None:
        self.in_flight += step
        if kind == "stream":
            self.streams_in_flight += step

    def _queued(self, kind: RequestKind) -> int:
        return sum(waiting.kind == kind for waiting in self._queue)

    def _enqueue(self, kind: RequestKind) -> _Waiting | None:
        if len(self._queue) >= self._queue_size:
            return None
        if kind == "stream" and self._queued(kind) >= self._stream_queue_size:
            return None
        waiting = _Waiting(kind)
        self._queue.append(waiting)
        return waiting


def _rejection(kind: RequestKind, reason: str) -> HTTPException:
    metrics.REFUSED.labels(kind, reason).inc()
    if reason == "deadline":
        return GatewayTimeout("The deadline passed while the request waited for the concurrency limit.")
    return ServiceUnavailable("Too many requests are in flight.", retry_after=RETRY_AFTER)


class ConcurrencyLimit:
    """WSGI middleware that counts the requests in flight.

    A request counts from :meth:`enter` until the last byte of its response is sent.

    :ivar data: the limit of requests that need Cassandra.
    :ivar imports: the limit of requests that read their body while it arrives.
    :ivar service: the limit of requests that do not need Cassandra.
    """

    def __init__(self, wsgi_app: WSGIApplication, settings: Settings) -> None:
        size, queued, timeout = settings.max_requests_in_flight, settings.max_requests_queued, settings.queue_timeout
        self.data = Limit(size, queued, timeout, streams=settings.stream_limit)
        self.imports = Limit(settings.max_imports_in_flight, 0, timeout)
        self.service = Limit(SERVICE_IN_FLIGHT, SERVICE_QUEUED, timeout)
        self._wsgi_app = wsgi_app

    @classmethod
    def install(cls, app: Flask, settings: Settings) -> ConcurrencyLimit:
        """Wrap an application, and report the limits and counts as metrics."""
        limits = cls(app.wsgi_app, settings)
        app.wsgi_app = limits  # type: ignore[method-assign]
        data, add = limits.data, metrics.sampler.add
        add(metrics.IN_FLIGHT, lambda: data.in_flight)
        add(metrics.IN_FLIGHT_LIMIT, lambda: data.size)
        add(metrics.STREAMS_IN_FLIGHT, lambda: data.streams_in_flight)
        add(metrics.STREAMS_IN_FLIGHT_LIMIT, lambda: data.streams)
        add(metrics.IMPORTS_IN_FLIGHT, lambda: limits.imports.in_flight)
        add(metrics.QUEUED.labels("data"), lambda: data.queued("data"))
        add(metrics.QUEUED.labels("stream"), lambda: data.queued("stream"))
        add(metrics.QUEUED.labels("service"), lambda: limits.service.queued("service"))
        return limits

    def enter(self, environ: dict[str, Any], kind: RequestKind, deadline: float | None) -> None:
        """Count the request. At the limit, it waits in the queue first.

        :param deadline: a value of `time.monotonic()`; None for no deadline.
        :raises ServiceUnavailable: the queue is full, or the request has waited for the queue timeout.
        :raises GatewayTimeout: the deadline passed in the queue.
        """
        self._limit(kind).acquire(kind, deadline)
        environ[_COUNTED] = kind

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            body = self._wsgi_app(environ, start_response)
        except BaseException:
            self._leave(environ)
            raise
        if _COUNTED not in environ:
            return body
        return _Body(body, lambda: self._leave(environ))

    def _leave(self, environ: dict[str, Any]) -> None:
        kind: RequestKind | None = environ.pop(_COUNTED, None)
        if kind is not None:
            self._limit(kind).release(kind)

    def _limit(self, kind: RequestKind) -> Limit:
        match kind:
            case "service":
                return self.service
            case "import":
                return self.imports
        return self.data


class _Body(Iterable[bytes]):
    """A response body that calls `done` when the server closes it, also after an error."""

    def __init__(self, body: Iterable[bytes], done: Callable[[], None]) -> None:
        self._body = body
        self._done = done

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._done()
