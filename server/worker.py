"""gunicorn's worker class for the service: an event loop, and threads for complete requests.

gunicorn's own threaded worker (`gthread`) reads requests and sends responses in its threads. It expects a reverse proxy
in front that sends whole requests and receives fast. Without one, a few dozen slow clients occupy all threads, and not
even GET /health/live is answered. Here an event loop waits for the clients (server/event_loop.py). Only a stream waits
for its client in a thread, because the service fetches the next page when the client has received the last one. The
client of a stream must therefore receive at a minimum rate.

The worker serves HTTP/1.0 and 1.1 without TLS. It does not call gunicorn's hooks `pre_request` and `post_request`.

| Private name of gunicorn | Used for |
|---|---|
| `workers.base.Worker.load_wsgi`, `.run`, `.check_config` | overridden: import, main loop, check of the settings |
| `Worker.app`, `.cfg`, `.log`, `.sockets`, `.PIPE`, `.ppid`, `.reloader` | what the base class gets or creates |
| `Worker.alive`, `.notify`, `.nr`, `.max_requests`, `.wsgi` | state and methods of the base class |
| `http.wsgi.create`, `Request.body.failed` | the WSGI environment of a request; whether its body is malformed |
| `http.wsgi.Response`: `.start_response`, `.write`, `.close` | formats the response |
| `Response.response_length`, `.chunked`, `.should_close`, `.force_close` | its framing; whether the connection ends |
| `http.errors.NoMoreData` | the client closed the connection in the middle of a request |
| `util.make_fail_app` | the response to every request after a failed import under `--reload` |
| `glogging.Logger.access` | overridden: no access log |
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.errors import NoMoreData
from gunicorn.http.wsgi import create
from gunicorn.util import make_fail_app
from gunicorn.workers.base import Worker as BaseWorker

from server.connection import ClientDisconnected, Connection, Limits
from server.event_loop import EventLoop
from server.graceful_shutdown import is_draining
from server.request import HttpRequest, error_response
from server.streamed_body import STREAMED_BODIES
from server.thread_pool import ThreadPool

# After a response, a thread polls its connection for the next request, unless other requests wait for a thread:
# handing the connection to the event loop and back costs more than most requests.
_POLL_MILLISECONDS = 5
_MAX_POLLS = 4

# Requests that a thread takes first, so that they are answered while many others wait.
_URGENT = (b"GET /health", b"HEAD /health", b"GET /metrics")


class Logger(GunicornLogger):
    """gunicorn's logger without the access log; the service logs its requests itself."""

    def access(self, *arguments: Any) -> None:
        """Do nothing; gunicorn would format a line for each request, even if no log takes it."""


class Worker(BaseWorker):
    """A worker process whose threads no slow or idle client can occupy."""

    alive: bool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Replaced when the application is imported; see load_wsgi().
        self._request_id: ContextVar[str] = ContextVar("request_id")
        self._limits = Limits()
        self.has_failed_import = False
        self._pool = ThreadPool(self.cfg.threads, self._handle)
        self._polling_threads = threading.Semaphore(max(1, self.cfg.threads // 2))

    @classmethod
    def check_config(cls, config: Config, log: GunicornLogger) -> None:
        """Refuse what the worker can't do; gunicorn calls this at its start."""
        if config.is_ssl:
            raise RuntimeError("The service does not serve TLS. Terminate TLS in a reverse proxy.")

    def load_wsgi(self) -> None:
        """Import the application; called after the fork.

        With `--reload`, an import error is the response to every request until the code changes. gunicorn does
        this for a SyntaxError only; another error would end the whole instance.
        """
        count_closed_early: Callable[[], object] = int
        try:
            # Not super().load_wsgi(): it hides a SyntaxError, and post_worker_init would import the module again.
            self.wsgi = self.app.wsgi()
            # Imported after the fork, so that a reloaded worker does not use the master's copies.
            from environment import get_settings
            from observability import metrics
            from observability.logs import request_id
            from settings import MAX_REQUEST_TIMEOUT

            self._request_id = request_id
            settings = get_settings()
            extensions = getattr(self.wsgi, "extensions", {})
            self._limits = Limits(
                settings.max_body_bytes,
                settings.request_timeout,
                MAX_REQUEST_TIMEOUT,
                settings.client_idle_timeout,
                settings.min_transfer_rate,
                settings.transfer_rate_window,
                frozenset(path.encode() for path in extensions.get(STREAMED_BODIES, ())),
            )
            metrics.sampler.add(metrics.CONNECTIONS, lambda: self._loop.count)
            count_closed_early = metrics.CONNECTIONS_CLOSED_EARLY.inc
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
        wakeup = (self.PIPE[0], self.PIPE[1])
        self._loop = EventLoop(self.sockets, self.cfg, self._limits, self._add_request, count_closed_early, wakeup)

    def run(self) -> None:
        """Serve until gunicorn stops the worker, then complete the requests that have begun."""
        # The event loop competes with all threads for the GIL at each of its steps. With Python's 5 ms, it would need a
        # second to accept a burst of 1,000 connections.
        sys.setswitchinterval(0.001)
        loop = self._loop
        # Without its master the worker stops, as after SIGTERM.
        while self.alive and self.ppid == os.getppid():
            self.notify()
            loop.run_once()
        self.alive = False
        loop.stop_accepting()
        latest = time.monotonic() + self.cfg.graceful_timeout
        while loop.count and time.monotonic() < latest:
            self.notify()
            loop.run_once()
        loop.close()

    def _add_request(self, connection: Connection) -> None:
        self._pool.add(connection, urgent=connection.request.data.startswith(_URGENT))

    # --- in a thread -------------------------------------------------------------------------------------------

    def _handle(self, connection: Connection) -> None:
        """Answer the request of a connection, and further requests that arrive within a few milliseconds."""
        try:
            self._answer(connection)
            while self._next_request_arrives(connection):
                connection.start_request()
                self._answer(connection)
        finally:
            self._loop.take_back(connection)

    def _answer(self, connection: Connection) -> None:
        """Answer a request. Afterwards, `connection.keep` tells whether another one may follow."""
        request = None
        connection.keep = False
        try:
            request = connection.parse_request()
            self._respond(request, connection)
            connection.finish_request(request)
            connection.flush()
        except (StopIteration, NoMoreData):
            pass
        except ClientDisconnected:
            connection.close()
        except BaseException as error:
            if connection.has_begun:
                self.log.exception("The response is not complete")
                connection.abort()
            else:
                connection.discard()
                self._send_error(connection, error)
        finally:
            # Until its next request, log lines of this thread belong to no request.
            self._request_id.set("-")

    def _send_error(self, connection: Connection, error: BaseException) -> None:
        status, request_id, response = error_response(error)
        self._request_id.set(request_id)
        if status == 500:
            self.log.error("500: unexpected error", exc_info=error)
        else:
            client = connection.client[0] if connection.client else "-"
            self.log.warning("%d: invalid request from %s: %s", status, client, error)
        connection.sendall(response)

    def _respond(self, request: HttpRequest, connection: Connection) -> None:
        response, environ = create(request, connection, connection.client, connection.server, self.cfg)
        environ["wsgi.multithread"] = True
        # The service supports no other protocol, so it ignores Upgrade (RFC 9110, 7.8). Werkzeug would look for a route
        # that accepts WebSockets.
        environ.pop("HTTP_UPGRADE", None)
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        body = self.wsgi(environ, response.start_response)
        if not self.alive or is_draining():
            # The client opens its next connection to an instance, or a worker, that does not stop. Checked here because
            # an import takes long enough for a stop to begin meanwhile.
            response.force_close()
        if request.body.failed or (connection.is_streamed and not connection.is_body_read):
            # Malformed chunks, or a body that was not read: it is unknown where the next request starts.
            response.force_close()
        try:
            is_stream = response.response_length is None
            if is_stream and not response.chunked and response.should_close():
                # In HTTP/1.0 the end of the connection ends the body. Only a reset tells the client that rows are
                # missing. It is set up before the body, so that it is sent even if the process is killed.
                connection.set_reset(True)
            for part in body:
                response.write(part)
                if is_stream:
                    connection.send_all()
            response.close()
            if is_stream:
                connection.send_all()
                connection.set_reset(False)
        finally:
            if hasattr(body, "close"):
                body.close()
        connection.keep = not response.should_close()

    def _next_request_arrives(self, connection: Connection) -> bool:
        """Whether the next request of the connection arrives within a few milliseconds.

        Returns early when other requests wait for a thread, also if the client has sent many requests at once.
        """
        if not connection.keep or not self.alive or connection.has_unsent or self._pool.queued:
            return False
        if connection.request.data:
            return connection.request.is_ready()
        if not self._polling_threads.acquire(blocking=False):
            return False
        try:
            poll = select.poll()
            poll.register(connection.socket, select.POLLIN)
            for _ in range(_MAX_POLLS):
                if poll.poll(_POLL_MILLISECONDS):
                    break
                if self._pool.queued or not self.alive:
                    return False
            else:
                return False
        finally:
            self._polling_threads.release()
        if not connection.receive():
            connection.close()
            return False
        return connection.request.is_ready()
