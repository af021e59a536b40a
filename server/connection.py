"""Sockets below WSGI: idle timeouts, and access to the connection of a request.

`web/` uses `client_socket` and `discard_connection`, so that it needs no private API of gunicorn.

| Private name of gunicorn | Used for |
|---|---|
| `environ["gunicorn.socket"]` | the socket of the request's connection |
| `environ["wsgi.input"].failed` | true for a body that could not be read: gunicorn then closes the connection |
| `Arbiter.LISTENERS`, and `.sock` of each | the listening sockets |
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Any


def client_socket(environ: dict[str, Any]) -> socket.socket | None:
    """The socket of a request's connection; None under another server than gunicorn."""
    connection: socket.socket | None = environ.get("gunicorn.socket")
    return connection


def discard_connection(environ: dict[str, Any]) -> None:
    """Make gunicorn close the connection after the response.

    Call it when the rest of the body is not read: gunicorn would parse the rest as the next request.
    """
    # The input of another server has no such attribute, or does not allow it.
    with suppress(AttributeError):
        environ["wsgi.input"].failed = True


def set_idle_timeout(arbiter: Any, seconds: float) -> None:
    """Limit how long a read from a client, or a write to it, may wait.

    After that time the read or write raises BlockingIOError. The timeouts are set on the listening sockets, and
    accepted connections inherit them.

    :param arbiter: gunicorn's `Arbiter`.
    :param seconds: the timeout.
    """
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    for listener in arbiter.LISTENERS:
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        if listener.sock.family != socket.AF_UNIX and hasattr(socket, "TCP_DEFER_ACCEPT"):
            # The kernel reports a connection only when its first byte has arrived, so a silent one uses no thread.
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, max(1, int(seconds)))
