"""A request's body: JSON within its size, its deadline and the client's idle time, or an error that says which."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from flask import Request, g
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    GatewayTimeout,
    HTTPException,
    RequestEntityTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)


class FieldbookRequest(Request):
    """A request whose body is JSON or an error."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """:raises UnsupportedMediaType: another content type (415).
        :raises RequestTimeout: it stopped coming (408).
        :raises GatewayTimeout: it is not there at the deadline (504).
        :raises RequestEntityTooLarge: over the limit (413).
        :raises BadRequest: broken JSON (400); NaN and lone surrogates are no JSON.
        """
        if self.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be application/json.")
        deadline = g.options.deadline

        def late() -> bool:
            return deadline is not None and time.monotonic() >= deadline

        try:
            with _late_bodies.ended(self.environ.get("gunicorn.socket"), deadline):
                data = self.get_data(cache=cache)
        except ClientDisconnected as error:
            self._give_up_connection()
            if late():
                raise GatewayTimeout("The body had not come by the deadline.") from error
            # The socket's time-out, which gunicorn.conf.py has set, is a BlockingIOError.
            if isinstance(error.__context__, BlockingIOError):
                raise RequestTimeout("The body stopped coming.") from error
            raise
        except HTTPException:
            raise
        except Exception as error:
            # Whatever the server raises when the body is not framed as it should be.
            raise BadRequest("The body could not be read.") from error
        if late() and len(data) < (self.content_length or 0):
            self._give_up_connection()
            raise GatewayTimeout("The body had not come by the deadline.")
        # Werkzeug reads a body without a length up to the limit, and says nothing of the rest.
        if self.max_content_length is not None and len(data) >= self.max_content_length:
            raise RequestEntityTooLarge("The body is too large.")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not JSON: {error}") from None

    def _give_up_connection(self) -> None:
        """What may still come of this body is not the next request."""
        # gunicorn looks for none after a body that failed.
        with suppress(AttributeError):
            self.environ["wsgi.input"].failed = True


class _LateBodies:
    """Ends bodies that are still coming at their deadline.

    A socket's own time-out begins anew with each byte, so a client that sends one now and then would never be late.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._expected: dict[int, tuple[float, socket.socket]] = {}
        self._thread: threading.Thread | None = None
        # When the thread looks next, of its own accord.
        self._next_look = math.inf

    @contextmanager
    def ended(self, connection: socket.socket | None, deadline: float | None) -> Iterator[None]:
        """What the block reads from the connection has an end at the deadline (of `time.monotonic()`)."""
        if connection is None or deadline is None:
            yield
            return
        number = id(connection)
        with self._changed:
            self._expected[number] = (deadline, connection)
            if deadline < self._next_look:
                self._next_look = deadline
                self._changed.notify()
            if self._thread is None:
                # Made with the first body, and so after the fork.
                thread = threading.Thread(target=self._run, name="late-bodies", daemon=True)
                thread.start()
                self._thread = thread
        try:
            yield
        finally:
            with self._changed:
                self._expected.pop(number, None)

    def _run(self) -> None:
        # Within the lock all the while, for after it a connection may be another request's.
        with self._changed:
            while True:
                now = time.monotonic()
                for number, (deadline, connection) in list(self._expected.items()):
                    if deadline <= now:
                        del self._expected[number]
                        with suppress(OSError):
                            connection.shutdown(socket.SHUT_RD)
                self._next_look = min((deadline for deadline, _ in self._expected.values()), default=math.inf)
                self._changed.wait(self._next_look - now if self._expected else None)


_late_bodies = _LateBodies()
