"""The event loop of a worker: connections that wait for their client.

The loop accepts connections and collects requests. It also sends the rest of a response if the kernel did not take the
whole response at once. Threads get complete requests only, so slow and idle clients occupy no thread. Imports are the
exception: a thread gets the request when its head has arrived, and reads the body itself (server/streamed_body.py).

The number of connections is limited, and so are the bytes that they hold in memory. At a limit, the connection that has
waited longest for its client is closed.
"""

from __future__ import annotations

import errno
import math
import os
import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from gunicorn.config import Config

from server.connection import BodyProblem, ClientDisconnected, Connection, Limits, State

# Seconds for the head of a request, from its first byte.
_HEAD_TIMEOUT = 5.0
# Seconds that the client has to close its end (lingering close). If the service closed the connection at once, the
# client might not receive the whole response (RFC 9112, 9.6).
_LINGER_TIMEOUT = 2.0
# Seconds that an idle connection stays open after the stop has begun, because a request may be in transit.
_STOP_TIMEOUT = 2.0
# Seconds without accepting when the process has no resources, and no connection can be closed.
_ACCEPT_PAUSE = 0.1
# Bytes that all connections together may hold; more if MAX_BODY_BYTES is large.
_MAX_HELD = 64 * 1024 * 1024
# Bytes of a response that the kernel takes although the client can't receive them yet.
_MAX_NOT_SENT = 128 * 1024
# Bytes that are discarded after the last response of a connection.
_MAX_DISCARDED = 64 * 1024
# The same after a body that is read while it arrives. Its response may come before the body, such as 401 or 413. If the
# service closed the connection while the client sends, the client could lose the response. Many clients read it only
# when they have sent the whole body.
_MAX_DISCARDED_STREAMED = 64 * 1024 * 1024
# File descriptors for everything else: connections to Cassandra, files, logs.
_OTHER_DESCRIPTORS = 64
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _max_connections(configured: int) -> int:
    """The configured limit, or as many connections as the process may have file descriptors for.

    Raises the soft limit of file descriptors if it is too low.
    """
    needed = configured + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return configured if soft == resource.RLIM_INFINITY else max(1, min(configured, soft - _OTHER_DESCRIPTORS))


class EventLoop:
    """Accepts connections, and keeps those that wait for their client.

    All methods except :meth:`take_back` are called in the main thread.

    :ivar count: number of open connections, including those that a thread uses.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        config: Config,
        limits: Limits,
        handle: Callable[[Connection], None],
        count_closed_early: Callable[[], object],
        wakeup: tuple[int, int],
    ) -> None:
        """Create the loop. It accepts connections from the first :meth:`run_once` on.

        :param listeners: listening sockets.
        :param handle: hands a request to a thread, which calls :meth:`take_back` in the end.
        :param count_closed_early: called for each connection that is closed to make room for others.
        :param wakeup: the two ends of a non-blocking pipe. A byte in it ends the wait of the loop.
        """
        self.count = 0
        self._count_closed_early = count_closed_early
        self._addresses = {listener: listener.getsockname() for listener in listeners}
        self._config = config
        self._limits = limits
        self._handle = handle
        self._wakeup = wakeup
        self._max_count = _max_connections(config.worker_connections)
        self._max_held = max(_MAX_HELD, 8 * limits.max_body)
        self._held = 0
        # The connection that has waited longest comes first.
        self._waiting: dict[Connection, None] = {}
        # No connection has an earlier deadline.
        self._next_deadline = math.inf
        self._handed_back: deque[Connection] = deque()
        self._is_woken = False
        self._accepting = False
        self._accept_again_at = 0.0
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(wakeup[0], selectors.EVENT_READ)
        for listener in listeners:
            listener.setblocking(False)
            # Inherited by the connections. Responses wait here, where they count, and not in megabytes of the kernel.
            # A Unix socket has no such option.
            with suppress(OSError):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_NOT_SENT)

    def take_back(self, connection: Connection) -> None:
        """Take a connection back from a thread. Called in that thread."""
        self._handed_back.append(connection)
        if not self._is_woken:
            self._is_woken = True
            with suppress(BlockingIOError):
                os.write(self._wakeup[1], b".")

    def run_once(self) -> None:
        """Wait for events, up to a second, and handle them."""
        now = time.monotonic()
        has_room = self.count <= self._max_count or bool(self._waiting)
        self._set_accepting(has_room and not self._stopping and now >= self._accept_again_at)
        timeout = min(1.0, max(0.0, self._next_deadline - now))
        events = self._selector.select(timeout if self._accepting else min(timeout, _ACCEPT_PAUSE))
        for key, _ in events:
            if isinstance(key.data, Connection):
                # An earlier event may have closed the connection.
                if key.data in self._waiting:
                    self._on_event(key.data)
            elif key.fd != self._wakeup[0]:
                # Few, so that all workers get their share of a burst, but in proportion to what else a round has to do.
                for _ in range(1 + len(events) // 8):
                    if not self._accept(key.data):
                        break
            else:
                os.read(self._wakeup[0], 4096)
                # Only now: a thread that sees the flag set does not write, and its connection is taken below.
                self._is_woken = False
            self._limit_held()
        # Those that threads hand back meanwhile are taken next time, after new connections.
        for _ in range(len(self._handed_back)):
            connection = self._handed_back.popleft()
            if connection.closed:
                self._close(connection)
            else:
                self._send(connection)
            self._limit_held()
        now = time.monotonic()
        if now >= self._next_deadline:
            self._expire(now)

    def stop_accepting(self) -> None:
        """Accept the connections that the kernel has already queued, then close the listeners.

        Later connections are refused. Idle connections stay open for _STOP_TIMEOUT.
        """
        self._stopping = True
        self._set_accepting(False)
        for listener in self._addresses:
            for _ in range(self._max_count):
                if not self._accept(listener):
                    break
            # The master, and the new workers after SIGHUP, have descriptors of their own.
            listener.close()
        latest = time.monotonic() + _STOP_TIMEOUT
        for connection in self._waiting:
            if connection.state == "idle":
                self._set_deadline(connection, min(connection.deadline, latest))

    def close(self) -> None:
        """Close the connections that wait for their client."""
        for connection in list(self._waiting):
            self._close(connection)
        self._selector.close()

    # --- new connections ---------------------------------------------------------------------------------------

    def _set_accepting(self, accepting: bool) -> None:
        if accepting != self._accepting:
            self._accepting = accepting
            for listener in self._addresses:
                if accepting:
                    self._selector.register(listener, selectors.EVENT_READ, listener)
                else:
                    self._selector.unregister(listener)

    def _accept(self, listener: socket.socket) -> bool:
        """Accept a connection.

        :returns: whether there was one.
        """
        try:
            client, address = listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                # The connection stays in the kernel's queue, and is accepted next.
                if not self._make_room():
                    self._accept_again_at = time.monotonic() + _ACCEPT_PAUSE
                return False
            # The connection failed before it was accepted (Linux, accept(2)), or a firewall rejects it.
            return True
        self.count += 1
        if self.count > self._max_count:
            # Before the new connection waits, so that it is not the one that is closed.
            self._make_room()
        connection = Connection(client, address, self._addresses[listener], self._config, self._limits)
        if connection.receive():
            self._wait_for_request(connection)
        else:
            self._close(connection)
        return True

    def _make_room(self) -> bool:
        """Close the connection that has waited longest.

        :returns: false if threads use all of them.
        """
        while self._waiting:
            connection = next(iter(self._waiting))
            if connection.state == "idle":
                # Its next request may have arrived.
                self._on_event(connection)
            if connection in self._waiting:
                self._close_early(connection)
                return True
        return False

    # --- steps of a connection ---------------------------------------------------------------------------------

    def _on_event(self, connection: Connection) -> None:
        if connection.state == "sending":
            self._send(connection)
        elif not connection.receive():
            if connection.state == "body":
                self._dispatch(connection, "disconnected")
            else:
                self._close(connection)
        elif connection.state != "closing":
            self._on_data(connection)
        else:
            connection.discarded += len(connection.request.take())
            if connection.discarded > (_MAX_DISCARDED_STREAMED if connection.is_streamed else _MAX_DISCARDED):
                self._close(connection)

    def _on_data(self, connection: Connection) -> None:
        request = connection.request
        if request.is_ready():
            self._dispatch(connection)
            return
        now = time.monotonic()
        if request.has_head:
            if connection.state != "body":
                request.head_arrived = now
                connection.state = "body"
                seconds = self._limits.request_timeout if request.timeout is None else request.timeout
                connection.request_deadline = now + min(seconds, self._limits.max_request_timeout)
                if request.expects_continue:
                    connection.send_continue()
            self._set_deadline(connection, min(now + self._limits.idle_timeout, connection.request_deadline))
        elif request.data and connection.state == "idle":
            connection.state = "head"
            self._set_deadline(connection, now + _HEAD_TIMEOUT)
        self._count_held(connection)

    def _wait_for_request(self, connection: Connection) -> None:
        connection.state = "idle"
        if connection.request.is_ready():
            self._dispatch(connection)
            return
        self._add(connection, "idle", _STOP_TIMEOUT if self._stopping else self._config.keepalive)
        if connection.request.data:
            self._on_data(connection)

    def _dispatch(self, connection: Connection, problem: BodyProblem | None = None) -> None:
        """Hand a request to a thread.

        :param problem: why its body is not complete.
        """
        self._remove(connection)
        self._count_held(connection)
        connection.start_request(problem)
        self._handle(connection)

    def _send(self, connection: Connection) -> None:
        """Send the rest of a response, then continue with the connection."""
        try:
            is_sent = connection.flush()
        except ClientDisconnected:
            self._close(connection)
            return
        self._count_held(connection)
        if is_sent:
            self._remove(connection)
            if connection.keep and self.count > self._max_count:
                # Clients that send requests without a pause would otherwise keep new ones out.
                self._close_early(connection)
            elif connection.keep:
                self._wait_for_request(connection)
            else:
                connection.shut_down()
                self._add(connection, "closing", _LINGER_TIMEOUT)
        elif connection not in self._waiting:
            seconds = self._limits.idle_timeout + connection.size() / self._limits.min_rate
            self._add(connection, "sending", seconds)

    def _add(self, connection: Connection, state: State, seconds: float) -> None:
        connection.state = state
        self._waiting[connection] = None
        event = selectors.EVENT_WRITE if state == "sending" else selectors.EVENT_READ
        self._selector.register(connection.socket, event, connection)
        self._set_deadline(connection, time.monotonic() + seconds)

    def _remove(self, connection: Connection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._selector.unregister(connection.socket)

    def _close(self, connection: Connection) -> None:
        self._remove(connection)
        if connection.has_unsent:
            # Without a reset, the kernel would keep what the client has not received.
            connection.set_reset(True)
        connection.close()
        self.count -= 1
        self._count_held(connection)

    def _close_early(self, connection: Connection) -> None:
        self._count_closed_early()
        self._close(connection)

    # --- limits ------------------------------------------------------------------------------------------------

    def _set_deadline(self, connection: Connection, deadline: float) -> None:
        connection.deadline = deadline
        self._next_deadline = min(self._next_deadline, deadline)

    def _expire(self, now: float) -> None:
        """End the waits whose deadline has passed."""
        for connection in [each for each in self._waiting if each.deadline <= now]:
            if connection.state == "body":
                # The thread sends the client an error.
                self._dispatch(connection, "late" if now >= connection.request_deadline else "stalled")
                continue
            if connection.state == "idle":
                # Its next request may have arrived. A proxy does not resend a POST.
                self._on_event(connection)
            if connection in self._waiting and connection.deadline <= now:
                self._close(connection)
        self._next_deadline = min((each.deadline for each in self._waiting), default=math.inf)

    def _count_held(self, connection: Connection) -> None:
        size = connection.size()
        self._held += size - connection.held
        connection.held = size

    def _limit_held(self) -> None:
        """While the connections hold too many bytes, close the one that has waited longest.

        Called between the steps of connections, because a step must not find its connection closed.
        """
        if self._held > self._max_held:
            for each in [each for each in self._waiting if each.held]:
                self._close_early(each)
                if self._held <= self._max_held:
                    return
