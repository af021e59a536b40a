"""gunicorn's threaded worker, with bounds on what clients can make its threads and its loop wait for.

gunicorn counts on a proxy before it that reads whole requests and closes its connections. These are the places where
one of gunicorn 27's workers would wait for a client that does neither, with the threads that should answer /health;
and where it would cost more than the answer: a hand-over from the main loop to a thread for each request, and two
segments for each response.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http import wsgi
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker

# Seconds for a request's headers, from their first byte; where many are late, much less.
_HEADERS = 5.0
_HEADERS_OF_MANY = 1.0
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# Milliseconds for which a thread stays with its connection when it has answered, and how many times, if nobody wants
# the thread by then. Handing the connection to the main loop and back costs more than most requests.
_STAY = 5
_STAYS = 4

# Seconds to wait for the rest of a body that the answer did not want, to keep the connection.
_UNWANTED_BODY = 0.05


class Logger(GunicornLogger):
    """gunicorn's logger without the access log, which the service writes (`request_hooks`)."""

    def access(self, *arguments: Any) -> None:
        """Called for each request; gunicorn's puts a line together also where nobody writes it."""


class _Segments(list[bytes]):
    """Stands in for a socket, to collect what would be sent."""

    sendall = list.append


class _Response(wsgi.Response):
    """Sends the headers together with what comes first of the body."""

    sock: Any

    def write(self, arg: bytes) -> None:
        if self.headers_sent:
            super().write(arg)
            return
        connection, self.sock = self.sock, _Segments()
        try:
            super().write(arg)
        finally:
            segments, self.sock = self.sock, connection
        connection.sendall(b"".join(segments))


class Worker(ThreadWorker):
    """A `gthread` worker that keeps threads free for whoever does send requests."""

    alive: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = threading.Lock()
        # Connections whose headers are being read, with the time since when; the oldest first.
        self._reading: dict[Any, float] = {}
        # Those whose client may send no more. Where its next request would begin is not known.
        self._ended: set[Any] = set()
        # Threads that may wait for clients to close their end, and that may read headers for more than a moment.
        self._patient = max(1, self.cfg.threads // 8)
        self._goodbyes = threading.Semaphore(self._patient)
        # Connections that wait for a thread, and threads that wait for a connection's next request.
        self._queued = 0
        self._stays = threading.Semaphore(self.cfg.threads // 2)

    def init_process(self) -> None:
        """Called after the fork; returns when the worker has ended."""
        # gunicorn's worker takes the class from there.
        wsgi.Response = _Response
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        """Called by the main loop: the connection waits for a thread."""
        with self._lock:
            self._queued += 1
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Called in a thread: answers the connection's requests as long as they come without a pause.

        :returns: false when the connection is to be closed.
        """
        with self._lock:
            self._queued -= 1
        keep = self._handle_one(conn)
        while keep is True and self._next_is_there(conn):
            keep = self._handle_one(conn)
        return keep

    def _next_is_there(self, conn: Any) -> bool:
        """Whether the connection's next request begins soon, and nobody else waits for the thread."""
        if not self.alive or self._queued or type(conn.sock) is not socket.socket:
            return False
        if conn.parser.unreader.buf.getvalue():
            return True
        if not self._stays.acquire(blocking=False):
            return False
        try:
            poll = select.poll()
            poll.register(conn.sock, select.POLLIN)
            for _ in range(_STAYS):
                if poll.poll(_STAY):
                    return True
                if self._queued or not self.alive:
                    break
            return False
        finally:
            self._stays.release()

    def _handle_one(self, conn: Any) -> Any:
        with self._lock:
            self._reading[conn] = time.monotonic()
        try:
            keep = super().handle(conn)
        finally:
            self._headers_are_read(conn)
        if not keep:
            self._say_goodbye(conn)
            self._ended.discard(conn)
        return keep

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The headers have been read."""
        self._headers_are_read(conn)
        return super().handle_request(req, conn)

    def _headers_are_read(self, conn: Any) -> None:
        with self._lock:
            self._reading.pop(conn, None)

    def murder_pending(self) -> None:
        """Called about once a second by the main loop: ends headers that do not come."""
        super().murder_pending()
        now = time.monotonic()
        with self._lock:
            limit = _HEADERS if len(self._reading) <= self._patient else _HEADERS_OF_MANY
            for conn, since in self._reading.items():
                if now - since > limit:
                    # What has come already is still read.
                    self._ended.add(conn)
                    with suppress(OSError):
                        conn.sock.shutdown(socket.SHUT_RD)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can be used for another request; gunicorn waits five seconds to find out."""
        if not keepalive or conn in self._ended:
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + _UNWANTED_BODY))

    def _say_goodbye(self, conn: Any) -> None:
        """Waits until the client has closed its end, so that it gets all of the answer.

        gunicorn's waits in the main loop, up to two seconds for each.
        """
        if type(conn.sock) is not socket.socket:
            return
        if conn.sock.fileno() == -1:
            # Closed already, after a fault. The main loop would fail to close it, and count it as closed twice.
            conn.sock = socket.socket()
            return
        with suppress(OSError):
            if self._goodbyes.acquire(blocking=False):
                try:
                    close_graceful(conn.sock.dup())
                finally:
                    self._goodbyes.release()
            # Nothing is left to wait for when the main loop closes it.
            conn.sock.shutdown(socket.SHUT_RDWR)

    def accept(self, listener: Any) -> None:
        """Takes a connection; one for which there is no descriptor waits. To gunicorn that is the end of the worker."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            self.log.error("Connections wait: %s", error)
            # They still make the listener readable.
            time.sleep(0.05)

    def is_parent_alive(self) -> bool:
        """A worker whose master is gone is to end, as after SIGTERM."""
        self.alive = self.alive and super().is_parent_alive()
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        """Of a worker that is to end: takes who has connected by then, and refuses the others.

        gunicorn's keeps its listeners until it has finished what is in flight: who connects meanwhile would wait, and
        be cut off without an answer.
        """
        if enabled and not self.alive:
            return
        if not self.alive and self._accepting:
            for listener in self.sockets:
                while self.nr_conns < self.worker_connections:
                    before = self.nr_conns
                    self.accept(listener)
                    if self.nr_conns == before:
                        break
        super().set_accept_enabled(enabled)
        if not self.alive:
            # The master, and after SIGHUP the new workers, have descriptors of their own.
            for listener in self.sockets:
                listener.close()
