"""A client's connection, and what `web/` may ask about it.

`web/` uses the functions `arrived_at`, `body_problem` and `is_too_slow`, so that it needs no private API of gunicorn.

| Private name of gunicorn | Used for |
|---|---|
| `environ["gunicorn.socket"]` | the :class:`Connection` of a request |
| `Request.unreader` (`.take_buffered`) and `.body` (`.read`, `.failed`); `SocketUnreader` | parse a request |
| `Request.force_close` | adds "Connection: close" to the response |
| `http.errors.LimitRequestHeaders`, `.LimitRequestLine` | the errors for a head that is too large |
| `Request.version` | the HTTP version of the response |
| the socket methods that gunicorn calls: `recv`, `send`, `sendall`, `gettimeout` | :class:`Connection` has them |
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import time
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from gunicorn.config import Config
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.http.unreader import SocketUnreader

from server.request import HttpRequest
from server.request_buffer import MAX_HEAD, RequestBuffer

_READ_SIZE = 65536

# Why the body of a request is not complete: the client stopped sending (`stalled`), was still sending at the request's
# deadline (`late`), closed the connection (`disconnected`), or the body is too large.
BodyProblem = Literal["stalled", "late", "disconnected", "too large"]

# What a connection in the event loop waits for: the first byte of a request, the rest of its head or of its body, the
# client to receive the response, or to close its end.
State = Literal["idle", "head", "body", "sending", "closing"]


class ClientDisconnected(Exception):
    """The client closed the connection, or receives too slowly, so that the response can't be sent."""


class BodyStopped(Exception):
    """The client of a body that is read while it arrives has stopped, or sends too slowly.

    :ivar problem: which of them.
    """

    def __init__(self, problem: Literal["stalled", "too slow", "disconnected"]) -> None:
        super().__init__(problem)
        self.problem = problem


class Limits(NamedTuple):
    """What a client may use.

    :ivar max_body: bytes of a request body.
    :ivar request_timeout: seconds for a request, unless the client sends `X-Request-Timeout`.
    :ivar max_request_timeout: seconds that the client may ask for.
    :ivar idle_timeout: seconds without progress in the middle of a request body; also the time to receive a response
        with a length, in addition to its size / `min_rate`.
    :ivar min_rate: bytes per second that a client must receive, or send as a body that is read while it arrives.
    :ivar rate_window: seconds of waiting for the client over which that rate is averaged.
    :ivar streamed_paths: the application reads the body of a POST to these paths while it arrives.
    """

    max_body: int = 1024 * 1024
    request_timeout: float = 10.0
    max_request_timeout: float = 60.0
    idle_timeout: float = 30.0
    min_rate: int = 10_000
    rate_window: float = 10.0
    streamed_paths: frozenset[bytes] = frozenset()


class Connection:
    """A client's connection. At any time either the event loop or one thread uses it.

    gunicorn uses it in place of a socket. Bytes that gunicorn sends are collected first; :meth:`send_all` or
    :meth:`flush` sends them.

    :ivar client: the client's address, as `socket.accept()` returns it.
    :ivar server: the address of the listening socket.
    :ivar request: the bytes of the next request that have arrived.
    :ivar keep: the client may send another request.
    :ivar closed: the socket is closed.
    :ivar arrived: when the head of the current request arrived, by `time.monotonic()`.
    :ivar problem: why the body of the current request is not complete.
    :ivar has_begun: a part of the response was sent.
    :ivar too_slow: the client received less than the minimum transfer rate.
    :ivar is_streamed: the body of the current request is read while it arrives.
    :ivar is_body_read: such a body was read to its end, so that another request may follow.
    :ivar body_ended: the client has closed its end while such a body was read.
    :ivar discarded: bytes that have arrived after the last response.
    :ivar state: what the connection waits for in the event loop.
    :ivar deadline: when that wait ends, by `time.monotonic()`.
    :ivar request_deadline: when the request has to be complete, while its body arrives.
    :ivar held: bytes that the event loop has counted for this connection.
    """

    def __init__(self, sock: socket.socket, client: Any, server: Any, config: Config, limits: Limits) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.client, self.server = client, server
        self.request = RequestBuffer(limits.max_body, limits.streamed_paths)
        self.keep = True
        self.closed = False
        self.arrived = 0.0
        self.problem: BodyProblem | None = None
        self.has_begun = False
        self.too_slow = False
        self.is_streamed = False
        self.is_body_read = False
        self.body_ended = False
        self.discarded = 0
        self._expects_continue = False
        # Bytes of such a body since the current window began, and seconds of waiting for them.
        self._body_bytes, self._body_waited = 0, 0.0
        self.state: State = "idle"
        self.deadline = self.request_deadline = 0.0
        self.held = 0
        self._config = config
        self._limits = limits
        # What gunicorn has not read of the request, and of requests behind it.
        self._unread = memoryview(b"")
        self._resets = False
        self._collected: list[bytes] = []
        # The response, of which the kernel has taken the bytes before the position.
        self._response, self._position = b"", 0
        # Bytes that the kernel has taken.
        self._sent = 0
        # Bytes that the client had received when the current window began, and seconds of blocked sending since then.
        self._received, self._blocked = 0, 0.0

    def receive(self) -> bool:
        """Receive what has arrived, without waiting.

        :returns: false if the client has closed the connection.
        """
        try:
            data = self.socket.recv(_READ_SIZE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.request.data += data
        return bool(data)

    def size(self) -> int:
        """Bytes of the request and of the response that are in memory."""
        return len(self.request.data) + len(self._response)

    def start_request(self, problem: BodyProblem | None = None) -> None:
        """Note how the request has arrived, before a thread handles it.

        :param problem: why its body is not complete.
        """
        self.arrived = self.request.head_arrived or time.monotonic()
        self.problem = "too large" if self.request.is_too_large else problem
        self.has_begun = False
        self._received, self._blocked = self._sent, 0.0

    def parse_request(self) -> HttpRequest:
        """Parse the request that has arrived.

        :raises Exception: RequestRefused or an exception of gunicorn, for an invalid request.
        """
        if not self.request.has_head:
            if b"\r\n" not in self.request.data:
                raise LimitRequestLine(len(self.request.data), self._config.limit_request_line)
            raise LimitRequestHeaders(f"more than {MAX_HEAD} bytes")
        is_complete = self.request.is_complete
        self.is_streamed, self._expects_continue = self.request.is_streamed, self.request.expects_continue
        self.is_body_read = self.body_ended = False
        self._body_bytes, self._body_waited = 0, 0.0
        self._unread = memoryview(self.request.take())
        request = HttpRequest(self._config, SocketUnreader(self), self.client)
        if not is_complete and not self.is_streamed:
            # It is unknown where the next request starts.
            request.force_close()
        # gunicorn repeats the version in the response, which must not be above that of the server (RFC 9110, 2.5).
        request.version = min(request.version, (1, 1))
        return request

    def finish_request(self, request: HttpRequest) -> None:
        """Skip the rest of the body that the application did not read, and keep the bytes of the next request."""
        if self.keep:
            with suppress(Exception):
                request.body.read()
            # After a malformed body, it is unknown where the next request starts.
            self.keep = not request.body.failed
        if self.keep:
            self.request.data += request.unreader.take_buffered() + self._unread
        self._unread = memoryview(b"")

    # The methods that gunicorn calls in place of a socket's.

    def recv(self, size: int) -> bytes:
        """Return the next bytes that have arrived, at most `size`; none at their end.

        gunicorn copies the rest of what it has received for each chunk of a body, so it must not receive all at once:
        a body of 1 MB in chunks of one byte would take more than a minute.
        """
        if self.is_streamed and not self._unread:
            return self._receive_body(size)
        part, self._unread = bytes(self._unread[:size]), self._unread[size:]
        return part

    def _receive_body(self, size: int) -> bytes:
        """Wait for the next bytes of a body that is read while it arrives.

        :raises BodyStopped: the client sends nothing, or too slowly.
        """
        if self._expects_continue:
            self._expects_continue = False
            self.send_continue()
        waited = 0.0
        while True:
            try:
                data = self.socket.recv(size)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.socket, select.POLLIN)
                began = time.monotonic()
                poll.poll(max(0.0, self._limits.idle_timeout - waited) * 1000 + 1)
                waited += time.monotonic() - began
                if waited < self._limits.idle_timeout:
                    continue
                raise BodyStopped("stalled") from None
            except OSError:
                raise BodyStopped("disconnected") from None
            self.body_ended = not data
            self._body_bytes += len(data)
            self._body_waited += waited
            if self._body_waited >= self._limits.rate_window:
                if self._body_bytes < self._limits.min_rate * self._body_waited:
                    raise BodyStopped("too slow")
                self._body_bytes, self._body_waited = 0, 0.0
            return data

    def sendall(self, data: bytes) -> None:
        """Collect bytes of the response."""
        self._collected.append(data)

    def send(self, data: bytes) -> int:
        """Drop "100 Continue": the event loop sends it when it is needed."""
        return len(data)

    def gettimeout(self) -> float:
        """Zero: no method of a connection blocks, except :meth:`send_all`."""
        return 0.0

    # Sending.

    @property
    def has_unsent(self) -> bool:
        """Whether a part of the response waits for the client."""
        return self._position < len(self._response)

    def discard(self) -> None:
        """Drop the response; none of it was sent."""
        self._collected.clear()

    def flush(self) -> bool:
        """Send as many bytes as the kernel takes, without waiting.

        :returns: whether everything was sent.
        :raises ClientDisconnected: the connection is closed.
        """
        if self._collected:
            # Nothing is unsent here: a stream sends each part before the next, and other responses are sent once.
            self._response, self._position = b"".join(self._collected), 0
            self._collected.clear()
        try:
            while self.has_unsent:
                count = self.socket.send(memoryview(self._response)[self._position :])
                self._position += count
                self._sent += count
                self.has_begun = True
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClientDisconnected from error
        # An idle connection must not keep its last response in memory.
        self._response, self._position = b"", 0
        return True

    def send_all(self) -> None:
        """Send everything, and wait while the client does not receive it.

        :raises ClientDisconnected: the connection is closed, or the client is too slow (`too_slow` is then true).
        """
        while not self.flush():
            poll = select.poll()
            poll.register(self.socket, select.POLLOUT)
            began = time.monotonic()
            poll.poll((self._limits.rate_window - self._blocked) * 1000 + 1)
            self._blocked += time.monotonic() - began
            if self._blocked >= self._limits.rate_window:
                received = self._sent - _unacknowledged(self.socket)
                if received - self._received < self._limits.min_rate * self._blocked:
                    self.too_slow = True
                    # Without a reset, the kernel would keep the unsent bytes.
                    self.set_reset(True)
                    raise ClientDisconnected
                self._received, self._blocked = received, 0.0

    def send_continue(self) -> None:
        """Tell the client to send the body of its request."""
        with suppress(OSError):
            self.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def shut_down(self) -> None:
        """Tell the client that the response is complete, or that no more of it follows. No request follows either."""
        self._drop_request()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def set_reset(self, resets: bool) -> None:
        """Whether the connection is reset when it is closed (SO_LINGER), even if the process is killed."""
        if resets != self._resets:
            self._resets = resets
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", resets, 0))

    def abort(self) -> None:
        """End the connection in the middle of a response, so that the client knows that the response is incomplete."""
        if self._resets:
            self.close()

    def close(self) -> None:
        """Close the socket."""
        self.closed = True
        self.keep = False
        self._collected.clear()
        self._response, self._position = b"", 0
        self._drop_request()
        self.socket.close()

    def _drop_request(self) -> None:
        self.request.take()
        self._unread = memoryview(b"")


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes that the kernel has taken, but the client has not received; 0 if the system can't tell.

    A socket becomes writable only when a third of the kernel's buffer, which can have several megabytes, is free. The
    bytes that `send()` takes therefore say little about a slow client (Linux, tcp(7): SIOCOUTQ).
    """
    with suppress(OSError):
        return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return 0


def _connection(environ: dict[str, Any]) -> Connection | None:
    connection = environ.get("gunicorn.socket")
    return connection if isinstance(connection, Connection) else None


def arrived_at(environ: dict[str, Any]) -> float:
    """When the head of the request arrived, by `time.monotonic()`; now under another server."""
    connection = _connection(environ)
    return connection.arrived if connection else time.monotonic()


def body_problem(environ: dict[str, Any]) -> BodyProblem | None:
    """Why the body of the request is not complete; None if it is, or if the server does not know."""
    connection = _connection(environ)
    return connection.problem if connection else None


def note_end_of_body(environ: dict[str, Any]) -> None:
    """Note that the body of the request was read to its end while it arrived."""
    connection = _connection(environ)
    if connection is not None:
        connection.is_body_read = True


def body_has_ended(environ: dict[str, Any]) -> bool:
    """Whether the client has closed its end while the body of the request was read."""
    connection = _connection(environ)
    return connection is not None and connection.body_ended


def is_too_slow(environ: dict[str, Any]) -> bool:
    """Whether the response was aborted because the client received less than the minimum transfer rate."""
    connection = _connection(environ)
    return connection is not None and connection.too_slow
