"""gunicorn's threaded worker, with one thing done elsewhere."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker


class Worker(ThreadWorker):
    """Waits for a client to close its end in the thread of the request.

    gunicorn 27 waits, up to two seconds, in the loop that accepts connections: a few clients that keep theirs open
    would stop the whole worker.
    """

    def handle(self, conn: Any) -> Any:
        """:returns: false when the connection is to be closed."""
        keep = super().handle(conn)
        if not keep and type(conn.sock) is socket.socket:
            with suppress(OSError):
                close_graceful(conn.sock.dup())
                # Nothing is left to wait for when the loop closes it.
                conn.sock.shutdown(socket.SHUT_RDWR)
        return keep
