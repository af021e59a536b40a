"""Clients on raw sockets: one that sends exact bytes, and many connections that a single thread serves."""

from __future__ import annotations

import re
import resource
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pytest

# Seconds that a client waits for a response or for the end of a connection.
LIMIT = 15.0
_STATUS_LINE = re.compile(r"HTTP/1\.[01] [1-5]\d\d [ -~]*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
# Bytes that the service of the fixture `target` accepts as a body.
MAX_BODY_BYTES = 4096


@dataclass(frozen=True)
class RawResponse:
    """A parsed response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the response announces that the connection ends."""
        return self.headers.get("connection", "").lower() == "close"


class Incomplete(Exception):
    """More bytes are needed for a complete response."""


def parse_responses(data: bytes, methods: Sequence[str] = ()) -> list[RawResponse]:
    """Parse all responses of a connection.

    :param methods: the methods of the first requests; all others are GET. A response to HEAD has no body.
    :raises AssertionError: the last response is incomplete, or some bytes belong to no response.
    """
    responses: list[RawResponse] = []
    received, answered = data, 0
    while data:
        method = methods[answered] if answered < len(methods) else "GET"
        try:
            response, data = take_response(data, method, at_end=True)
        except Incomplete:
            raise AssertionError(f"no complete response in {data!r} of {received!r}") from None
        responses.append(response)
        answered += response.status >= 200
    return responses


def take_response(data: bytes, method: str = "GET", at_end: bool = False) -> tuple[RawResponse, bytes]:
    """Parse the first response. Return it with the bytes that follow it.

    :param at_end: the connection has ended, which completes a body without a length.
    :raises Incomplete: the response is not complete.
    :raises AssertionError: the response is not well-formed HTTP.
    """
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        raise Incomplete
    status_line, *lines = head.decode("latin-1").split("\r\n")
    assert _STATUS_LINE.fullmatch(status_line), status_line
    status = int(status_line.split()[1])
    headers = {}
    for line in lines:
        assert _HEADER.fullmatch(line), line
        name, _, value = line.partition(":")
        assert name.lower() not in headers, f"{name} appears twice in {head!r}"
        headers[name.lower()] = value.strip()
    assert not {"content-length", "transfer-encoding"} <= headers.keys(), head
    if method == "HEAD" or status < 200 or status in (204, 304):
        return RawResponse(status, headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        body, rest = _take_chunks(rest)
    elif "content-length" in headers:
        length = int(headers["content-length"])
        if len(rest) < length:
            raise Incomplete
        body, rest = rest[:length], rest[length:]
    elif at_end:
        body, rest = rest, b""
    else:
        raise Incomplete
    return RawResponse(status, headers, body), rest


def _take_chunks(data: bytes) -> tuple[bytes, bytes]:
    chunks = []
    while True:
        line, separator, data = data.partition(b"\r\n")
        size = int(line, 16) if separator else 0
        if not separator or len(data) < size + 2:
            raise Incomplete
        assert data[size : size + 2] == b"\r\n", "a chunk does not end with CRLF"
        chunks.append(data[:size])
        data = data[size + 2 :]
        if size == 0:
            return b"".join(chunks), data


def new_socket(receive_buffer: int | None = None) -> socket.socket:
    """Create a socket that sends each segment at once.

    :param receive_buffer: bytes of the kernel's receive buffer; set before the connection, so that the server's kernel
        never learns of a larger window.
    """
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    return connection


class RawClient:
    """One connection. Every wait has a limit, so that a service that hangs fails the test."""

    def __init__(self, port: int, receive_buffer: int | None = None, limit: float = LIMIT) -> None:
        self.socket = new_socket(receive_buffer)
        self.socket.settimeout(limit)
        self._received = b""
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *segments: bytes, pause: float = 0.0) -> None:
        """Send each segment by itself. A connection that the service has closed takes the rest without an error.

        :param pause: seconds between two segments, so that the service reads each by itself.
        """
        with suppress(ConnectionError):
            for number, segment in enumerate(segments):
                if number and pause:
                    time.sleep(pause)
                self.socket.sendall(segment)

    def half_close(self) -> None:
        """Send the end of the stream; responses can still be read."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def wait_for_response(self, limit: float = LIMIT) -> None:
        """Wait until the next response has begun.

        :raises AssertionError: it has not within `limit` seconds.
        """
        if not self._received:
            self._received = self._receive(time.monotonic() + limit)

    def read_response(self, method: str = "GET", limit: float = LIMIT) -> RawResponse:
        """Read the next response.

        :raises AssertionError: the connection ended first, or the response is not complete within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while True:
            with suppress(Incomplete):
                response, self._received = take_response(self._received, method)
                return response
            part = self._receive(deadline)
            assert part, f"the connection ended after {self._received!r}"
            self._received += part

    def read_to_end(self, methods: Sequence[str] = (), limit: float = LIMIT) -> list[RawResponse]:
        """Read all responses until the service ends the connection.

        :raises AssertionError: the connection is still open after `limit` seconds, or the last response is incomplete.
        """
        deadline = time.monotonic() + limit
        while part := self._receive(deadline):
            self._received += part
        return parse_responses(self._received, methods)

    def _receive(self, deadline: float) -> bytes:
        """The next bytes, or none when the connection has ended; a reset ends it too."""
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            return self.socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"no response and no close; received {self._received[-500:]!r}") from None
        except ConnectionError:
            return b""


def exchange(port: int, *segments: bytes, methods: Sequence[str] = (), pause: float = 0.0) -> list[RawResponse]:
    """Send segments on a new connection, and return all responses once the service has ended the connection."""
    with RawClient(port) as client:
        client.send(*segments, pause=pause)
        return client.read_to_end(methods)


def probe(port: int, path: str = "/health/live", limit: float = 5.0, status: int = 200) -> float:
    """Send a GET request on a new connection. Return how many seconds the response took.

    :raises AssertionError: no response within `limit` seconds, or another status.
    """
    began = time.monotonic()
    try:
        with RawClient(port, limit=limit) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            response = client.read_response(limit=began + limit - time.monotonic())
    except TimeoutError:
        raise AssertionError(f"no connection for GET {path} within {limit} s") from None
    assert response.status == status, f"GET {path}: {response}"
    return time.monotonic() - began


def probe_for(seconds: float, port: int, *paths: str) -> None:
    """Probe the paths, one after the other, for some seconds. Each response must take at most five seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in paths:
            probe(port, path)
        time.sleep(0.05)


@contextmanager
def open_file_limit(count: int) -> Iterator[None]:
    """Set the soft limit of open files of this process and of those that it starts; skip the test if it can't be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} open files; the hard limit (ulimit -Hn) is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Member:
    """A connection of a swarm."""

    def __init__(self, receive_buffer: int | None) -> None:
        self.socket = new_socket(receive_buffer)
        self.socket.setblocking(False)
        self.received = b""
        self.is_open = False
        # Whether the service, or the network, has ended the connection.
        self.has_ended = False


class Swarm:
    """Many connections, which one thread opens and serves while the block runs.

    :param data: what each connection sends first.
    :param reads: read what the service sends; otherwise leave it in the kernel's buffers.
    :param each_second: called once a second with the socket of each open connection; it must not block.
    :param reopens: replace each connection that the service ends.
    :param tls: use TLS, with this context and the host name that follows.
    """

    def __init__(
        self,
        port: int,
        count: int,
        data: bytes = b"",
        *,
        reads: bool = True,
        each_second: Callable[[socket.socket], object] | None = None,
        reopens: bool = False,
        receive_buffer: int | None = None,
        tls: tuple[ssl.SSLContext, str] | None = None,
    ) -> None:
        self.members: list[_Member] = []
        self.reopened = 0
        self._address = ("127.0.0.1", port)
        self._count = count
        self._data = data
        self._reads = reads
        self._each_second = each_second
        self._reopens = reopens
        self._receive_buffer = receive_buffer
        self._tls = tls
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._opened = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for member in self.members:
            member.socket.close()
        self._selector.close()

    @property
    def is_complete(self) -> bool:
        """Whether every connection has been opened and has sent its data."""
        return self._opened >= self._count

    def answered(self) -> int:
        """The number of connections that have received some bytes."""
        return sum(bool(member.received) for member in list(self.members))

    def ended(self) -> int:
        """The number of connections that the service has ended."""
        return sum(member.has_ended for member in list(self.members))

    def _run(self) -> None:
        next_second = time.monotonic() + 1
        while not self._stop.is_set():
            # A few at a time, so that those that are open already are served meanwhile.
            for _ in range(min(50, self._count - len(self.members))):
                self.members.append(self._open())
            for key, _ in self._selector.select(0 if len(self.members) < self._count else 0.05):
                self._serve(key.data)
            if self._each_second is not None and time.monotonic() >= next_second:
                next_second += 1
                for member in self.members:
                    if member.is_open and not member.has_ended:
                        with suppress(OSError):
                            self._each_second(member.socket)

    def _open(self) -> _Member:
        member = _Member(self._receive_buffer)
        member.socket.connect_ex(self._address)
        self._selector.register(member.socket, selectors.EVENT_WRITE, member)
        return member

    def _shake_hands(self, member: _Member, context: ssl.SSLContext, host: str) -> None:
        """Continue the TLS handshake; SSLWantReadError means that it has not ended."""
        if not isinstance(member.socket, ssl.SSLSocket):
            self._selector.unregister(member.socket)
            member.socket = context.wrap_socket(member.socket, server_hostname=host, do_handshake_on_connect=False)
            self._selector.register(member.socket, selectors.EVENT_READ, member)
        member.socket.do_handshake()

    def _serve(self, member: _Member) -> None:
        try:
            if not member.is_open:
                if self._tls:
                    self._shake_hands(member, *self._tls)
                member.is_open = True
                self._opened += 1
                # The data is short, so the kernel takes it at once.
                member.socket.send(self._data)
                if self._reads:
                    self._selector.modify(member.socket, selectors.EVENT_READ, member)
                else:
                    self._selector.unregister(member.socket)
                return
            part = member.socket.recv(65536)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            part = b""
        member.received += part
        if not part:
            self._selector.unregister(member.socket)
            member.socket.close()
            member.has_ended = True
            if self._reopens:
                # _run() opens another one.
                self.members.remove(member)
                self.reopened += 1
