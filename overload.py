"""A bound on the requests that a process works on at a time, so that it says no at once instead of queueing."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

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
        # The server closes it when all is sent, also where that fails.
        return ClosingIterator(body, lambda: self._leave(environ))

    def _leave(self, environ: dict[str, Any]) -> None:
        if environ.pop(_SLOT, False):
            with self._lock:
                self.count -= 1
