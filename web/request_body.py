"""The request body: JSON within the limits of size, deadline and idle time."""

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

from server.connection import client_socket, discard_connection


class FieldbookRequest(Request):
    """A request whose JSON body is read within the limits of size and time."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Read and parse the body.

        :raises UnsupportedMediaType: the content type is not JSON (415).
        :raises RequestTimeout: the client stopped sending (408).
        :raises GatewayTimeout: the body is not complete at the deadline (504).
        :raises RequestEntityTooLarge: the body exceeds the limit (413).
        :raises BadRequest: the body is not valid JSON, which excludes NaN and lone surrogates (400).
        """
        if self.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be application/json.")
        deadline = g.options.deadline

        def is_past_deadline() -> bool:
            return deadline is not None and time.monotonic() >= deadline

        try:
            with _late_bodies.end_at(client_socket(self.environ), deadline):
                data = self.get_data(cache=cache)
        except ClientDisconnected as error:
            discard_connection(self.environ)
            if is_past_deadline():
                raise GatewayTimeout("The body was not complete at the deadline.") from error
            # The idle timeout of the socket (CLIENT_IDLE_TIMEOUT) raises BlockingIOError.
            if isinstance(error.__context__, BlockingIOError):
                raise RequestTimeout("The client stopped sending the body.") from error
            raise
        except HTTPException:
            raise
        except Exception as error:
            # gunicorn raises exceptions of its own when the chunks of the body are malformed.
            raise BadRequest("The body could not be read: its chunks are malformed.") from error
        if is_past_deadline() and len(data) < (self.content_length or 0):
            discard_connection(self.environ)
            raise GatewayTimeout("The body was not complete at the deadline.")
        # Werkzeug reads a body without Content-Length up to the limit, and ignores the rest.
        if self.max_content_length is not None and len(data) >= self.max_content_length:
            limit = self.max_content_length - 1
            raise RequestEntityTooLarge(f"The body is larger than {limit} bytes (MAX_BODY_BYTES).")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not JSON: {error}") from None


class _LateBodies:
    """Stops reading a request body at the deadline of its request.

    A socket timeout is not enough: it restarts with each byte, so a client that sends a byte now and then never
    exceeds it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reading: dict[int, tuple[float, socket.socket]] = {}
        self._thread: threading.Thread | None = None
        # Time of `time.monotonic()` when the thread wakes up next.
        self._next_wakeup = math.inf

    @contextmanager
    def end_at(self, connection: socket.socket | None, deadline: float | None) -> Iterator[None]:
        """Stop reads from the connection at the deadline, as long as the block runs.

        :param deadline: a value of `time.monotonic()`.
        """
        if connection is None or deadline is None:
            yield
            return
        number = id(connection)
        with self._changed:
            self._reading[number] = (deadline, connection)
            if deadline < self._next_wakeup:
                self._next_wakeup = deadline
                self._changed.notify()
            if self._thread is None:
                # Started with the first body and not earlier, because a fork does not copy threads.
                thread = threading.Thread(target=self._run, name="late-bodies", daemon=True)
                thread.start()
                self._thread = thread
        try:
            yield
        finally:
            with self._changed:
                self._reading.pop(number, None)

    def _run(self) -> None:
        # The lock is held during shutdown(). Otherwise the block could end first, and the connection could already
        # serve the next request.
        with self._changed:
            while True:
                now = time.monotonic()
                for number, (deadline, connection) in list(self._reading.items()):
                    if deadline <= now:
                        del self._reading[number]
                        with suppress(OSError):
                            connection.shutdown(socket.SHUT_RD)
                self._next_wakeup = min((deadline for deadline, _ in self._reading.values()), default=math.inf)
                self._changed.wait(self._next_wakeup - now if self._reading else None)


_late_bodies = _LateBodies()
