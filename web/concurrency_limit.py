"""A bound on the requests that a process works on at a time, so that it says no at once instead of queueing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

_SLOT = "fieldbook.slot"


class InFlight:
    """WSGI middleware that counts requests from :meth:`enter` until the last byte of the answer is sent.

    :ivar limit: requests at a time.
    :ivar count: of those that have a slot now.
    """

    def __init__(self, wsgi_app: WSGIApplication, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._wsgi_app = wsgi_app
        self._lock = threading.Lock()

    def enter(self, environ: dict[str, Any]) -> bool:
        """Takes a slot for the request; False when there is none left."""
        with self._lock:
            if self.count >= self.limit:
                return False
            self.count += 1
        environ[_SLOT] = True
        return True

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            body = self._wsgi_app(environ, start_response)
        except BaseException:
            self._leave(environ)
            raise
        if _SLOT not in environ:
            return body
        return _Body(body, lambda: self._leave(environ))

    def _leave(self, environ: dict[str, Any]) -> None:
        if environ.pop(_SLOT, False):
            with self._lock:
                self.count -= 1


class _Body(Iterable[bytes]):
    """A response's body; `done` is called when the server closes it, however that goes."""

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
