"""Clients on raw sockets: one that sends exact bytes, and many connections that a single thread serves."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

# Seconds that a client waits for a response or for the end of a connection.
LIMIT = 15.0


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

    :param methods: the methods of the requests, as far as they are not GET; a response to HEAD has no body.
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
    """
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        raise Incomplete
    status_line, *lines = head.decode("latin-1").split("\r\n")
    assert status_line.startswith(("HTTP/1.1 ", "HTTP/1.0 ")), data
    status = int(status_line.split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
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


def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection that sends each segment at once.

    :param receive_buffer: bytes of the kernel's receive buffer; set before the connection, so that the server's kernel
        never learns of a larger window.
    """
    connection = socket.socket()
    try:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(LIMIT)
        connection.connect(("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection


class RawClient:
    """One connection. Every wait has a limit, so that a service that hangs fails the test."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = connect(port, receive_buffer)
        self._received = b""

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
