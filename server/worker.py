"""gunicorn's threaded worker, with limits for slow clients.

gunicorn expects a reverse proxy in front that sends whole requests and closes its connections. Without one, slow or
idle clients could occupy all threads of a `gthread` worker, so that not even GET /health is answered. This subclass
limits the wait for request headers, for unread request bodies and for clients to close their end of the connection.
It also avoids two costs: a pass through the main loop for each request of a keep-alive connection, and a separate TCP
segment for the response headers.

| Private name of gunicorn | Used for |
|---|---|
| `ThreadWorker.handle`, `.handle_request`, `.enqueue_req`, `.accept` | overridden: steps of a connection |
| `ThreadWorker.murder_pending` | overridden: called about once a second by the main loop |
| `ThreadWorker._keepalive_after` | overridden: decides whether the connection is kept after a request |
| `ThreadWorker.set_accept_enabled`, `.is_parent_alive` | overridden: the end of a worker |
| `ThreadWorker._accepting`, `.nr_conns`, `.worker_connections`, `.sockets`, `.alive` | state of the worker |
| `TConn.sock`, `TConn.parser` (`.unreader.buf`, `.finish_body`) | a connection, and the bytes read from it |
| `Request.headers`, `Request.must_close` | a parsed request; `must_close` adds "Connection: close" to the response |
| `wsgi.Response` (`.sock`, `.headers_sent`, `.write`) | overridden: sends the headers with the body |
| `util.close_graceful` | the lingering close of a connection |
| `Worker.load_wsgi`, `.wsgi`, `.app.wsgi` | overridden: import errors under `--reload` |
| `Worker.reloader.add_extra_file`, `util.make_fail_app` | the same |
| `glogging.Logger.access` | overridden: no access log |
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
import traceback
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http import wsgi
from gunicorn.util import close_graceful, make_fail_app
from gunicorn.workers.gthread import ThreadWorker

# Seconds for the headers of a request, from their first byte. The shorter limit applies while the headers of many
# requests are incomplete.
_HEADER_TIMEOUT = 5.0
_HEADER_TIMEOUT_UNDER_LOAD = 1.0
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# After a response, a thread polls its connection for the next request, unless other connections wait for a thread:
# handing the connection to the main loop and back costs more than most requests.
_POLL_MILLISECONDS = 5
_MAX_POLLS = 4

# Seconds to wait for the rest of a request body that the application did not read, to keep the connection.
_UNREAD_BODY_TIMEOUT = 0.05


class Logger(GunicornLogger):
    """gunicorn's logger without the access log; the service logs its requests itself."""

    def access(self, *arguments: Any) -> None:
        """Do nothing; gunicorn would format a line for each request, even if no log takes it."""


class _SegmentList(list[bytes]):
    """Stands in for a socket, and collects the bytes to send."""

    sendall = list.append


class _Response(wsgi.Response):
    """Sends the headers and the first bytes of the body in one segment."""

    sock: Any

    def write(self, arg: bytes) -> None:
        if self.headers_sent:
            super().write(arg)
            return
        connection, self.sock = self.sock, _SegmentList()
        try:
            super().write(arg)
        finally:
            segments, self.sock = self.sock, connection
        connection.sendall(b"".join(segments))


class Worker(ThreadWorker):
    """A `gthread` worker whose threads slow clients can't exhaust."""

    alive: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = threading.Lock()
        # Replaced when the application is imported; see load_wsgi().
        self._request_id: ContextVar[str] = ContextVar("request_id")
        self._max_body_bytes = 0
        self.has_failed_import = False
        # Connections whose headers are being read, each with the time when that began; the oldest comes first.
        self._reading_headers: dict[Any, float] = {}
        # Connections whose headers were late. They are closed, because it is unknown where the next request starts.
        self._late: set[Any] = set()
        # Maximum number of threads that wait in a lingering close. With more requests than this whose headers are
        # incomplete, the worker is under load.
        self._slow_client_threads = max(1, self.cfg.threads // 8)
        self._lingering_closes = threading.Semaphore(self._slow_client_threads)
        # Number of connections that wait for a thread, and limit of threads that poll for a next request.
        self._queued = 0
        self._polling_threads = threading.Semaphore(self.cfg.threads // 2)

    def init_process(self) -> None:
        """Run the worker; called after the fork."""
        # gunicorn's worker looks the response class up in this module.
        wsgi.Response = _Response
        super().init_process()

    def load_wsgi(self) -> None:
        """Import the application; called after the fork.

        With `--reload`, an import error is the response to every request until the code changes. gunicorn does
        this for a SyntaxError only; another error would end the whole instance.
        """
        try:
            # Not super().load_wsgi(): it hides a SyntaxError, and post_worker_init would import the module again.
            self.wsgi = self.app.wsgi()
            # Imported after the fork, so that a reloaded worker does not use the master's copies.
            from observability.logs import request_id
            from settings import get_settings

            self._request_id = request_id
            self._max_body_bytes = get_settings().max_body_bytes
        except Exception as error:
            if not self.cfg.reload:
                raise
            self.log.exception("The application can't be imported. Waiting for the next change.")
            for frame in traceback.extract_tb(error.__traceback__):
                self.reloader.add_extra_file(frame.filename)
            if isinstance(error, SyntaxError) and error.filename:
                self.reloader.add_extra_file(error.filename)
            self.wsgi = make_fail_app("".join(traceback.format_exception(error)))
            self.has_failed_import = True

    def enqueue_req(self, conn: Any) -> None:
        """Queue a connection for a thread; called by the main loop."""
        with self._lock:
            self._queued += 1
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Answer the requests of a connection; called in a thread.

        The thread continues with the next request if it comes within a few milliseconds.

        :returns: false when the connection is to be closed.
        """
        with self._lock:
            self._queued -= 1
        keep = self._handle_one(conn)
        while keep is True and self._wait_for_next_request(conn):
            keep = self._handle_one(conn)
        return keep

    def _wait_for_next_request(self, conn: Any) -> bool:
        """Whether the next request of the connection begins within a few milliseconds.

        Returns early when other connections wait for a thread.
        """
        if not self.alive or self._queued or type(conn.sock) is not socket.socket:
            return False
        if conn.parser.unreader.buf.getvalue():
            return True
        if not self._polling_threads.acquire(blocking=False):
            return False
        try:
            poll = select.poll()
            poll.register(conn.sock, select.POLLIN)
            for _ in range(_MAX_POLLS):
                if poll.poll(_POLL_MILLISECONDS):
                    return True
                if self._queued or not self.alive:
                    break
            return False
        finally:
            self._polling_threads.release()

    def _handle_one(self, conn: Any) -> Any:
        with self._lock:
            self._reading_headers[conn] = time.monotonic()
        try:
            keep = super().handle(conn)
        finally:
            self._headers_complete(conn)
        if not keep:
            self._linger(conn)
            self._late.discard(conn)
        return keep

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request; called when its headers have been read."""
        self._headers_complete(conn)
        self._announce_close(req)
        try:
            return super().handle_request(req, conn)
        finally:
            # Until its next request, log lines of this thread belong to no request.
            self._request_id.set("-")

    def _headers_complete(self, conn: Any) -> None:
        with self._lock:
            self._reading_headers.pop(conn, None)

    def _announce_close(self, req: Any) -> None:
        """Add "Connection: close" to the response when part of the body may stay unread.

        gunicorn closes the connection in that case. The header tells the client before it sends another request.
        """
        length = next((int(value) for name, value in req.headers if name == "CONTENT-LENGTH"), 0)
        chunked = any(name == "TRANSFER-ENCODING" for name, _ in req.headers)
        if length > self._max_body_bytes or chunked:
            req.must_close = True

    def murder_pending(self) -> None:
        """Stop reading late request headers; called about once a second by the main loop."""
        super().murder_pending()
        now = time.monotonic()
        with self._lock:
            under_load = len(self._reading_headers) > self._slow_client_threads
            limit = _HEADER_TIMEOUT_UNDER_LOAD if under_load else _HEADER_TIMEOUT
            for conn, began in self._reading_headers.items():
                if now - began > limit:
                    # A request that has arrived by now is still answered.
                    self._late.add(conn)
                    with suppress(OSError):
                        conn.sock.shutdown(socket.SHUT_RD)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Whether the connection can be used for another request.

        gunicorn's own version waits up to five seconds for the rest of the request body.
        """
        if not keepalive or conn in self._late:
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + _UNREAD_BODY_TIMEOUT))

    def _linger(self, conn: Any) -> None:
        """Lingering close: wait until the client closes its end of the connection.

        Without it, the client may not receive the whole response. gunicorn waits in the main loop, up to two seconds
        for each connection. Here a thread waits; if too many threads wait already, the connection is closed at once.
        """
        if type(conn.sock) is not socket.socket:
            return
        if conn.sock.fileno() == -1:
            # Closed after an error. The main loop would fail to close it again, and count the connection as closed
            # twice.
            conn.sock = socket.socket()
            return
        with suppress(OSError):
            if self._lingering_closes.acquire(blocking=False):
                try:
                    close_graceful(conn.sock.dup())
                finally:
                    self._lingering_closes.release()
            # After this the main loop closes the connection without waiting.
            conn.sock.shutdown(socket.SHUT_RDWR)

    def accept(self, listener: Any) -> None:
        """Accept a connection.

        Without a free file descriptor the connection waits; gunicorn's own worker would end with the error.
        """
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            self.log.error("New connections wait: %s", error)
            # The listener stays readable, so the main loop would try again at once.
            time.sleep(0.05)

    def is_parent_alive(self) -> bool:
        """Whether the master is alive. Without it the worker shuts down, as after SIGTERM."""
        self.alive = self.alive and super().is_parent_alive()
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting connections; a worker that shuts down also closes its listeners.

        gunicorn's worker keeps its listeners open until in-flight requests are complete. Clients that connect in that
        time would wait, and be disconnected without a response. This worker accepts the connections that are already
        queued and refuses later ones.
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
            # The master, and the new workers after SIGHUP, have descriptors of their own.
            for listener in self.sockets:
                listener.close()
