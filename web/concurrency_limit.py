"""The concurrency limit: a process rejects requests above it at once, without a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.exceptions import ServiceUnavailable

from observability import metrics
from web.errors import RETRY_AFTER

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

_COUNTED = "fieldbook.counted"


class ConcurrencyLimit:
    """WSGI middleware that counts the requests in flight.

    A request counts from :meth:`enter` until the last byte of its response is sent.

    :ivar limit: maximum number of requests in flight.
    :ivar count: number of requests in flight.
    """

    def __init__(self, wsgi_app: WSGIApplication, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._wsgi_app = wsgi_app
        self._lock = threading.Lock()

    @classmethod
    def install(cls, app: Flask, limit: int) -> ConcurrencyLimit:
        """Wrap an application, and report the limit and the count as metrics.

        :param limit: maximum number of requests in flight in this process.
        """
        concurrency_limit = cls(app.wsgi_app, limit)
        app.wsgi_app = concurrency_limit  # type: ignore[method-assign]
        metrics.sampler.add(metrics.IN_FLIGHT, lambda: concurrency_limit.count)
        metrics.sampler.add(metrics.IN_FLIGHT_LIMIT, lambda: concurrency_limit.limit)
        return concurrency_limit

    def enter(self, environ: dict[str, Any]) -> None:
        """Count the request.

        :raises ServiceUnavailable: the limit is reached.
        """
        with self._lock:
            if self.count < self.limit:
                self.count += 1
                environ[_COUNTED] = True
                return
        metrics.REFUSED.inc()
        raise ServiceUnavailable("Too many requests are in flight.", retry_after=RETRY_AFTER)

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
        if environ.pop(_COUNTED, False):
            with self._lock:
                self.count -= 1


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
