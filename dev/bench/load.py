"""The load generator: one process, one thread and plain sockets, so that it uses little CPU itself.

Closed loop: each connection sends its next request when it has received the response to the previous one. Open loop:
requests are due at fixed times, even when responses are late. The latency counts from the due time, so that a stall
delays every request that was due during the stall (no coordinated omission).
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from dev.bench.processes import BenchError


@dataclass(frozen=True)
class Job:
    """The requests to send, and the expected responses.

    :ivar requests: complete requests as bytes, sent in turn.
    :ivar statuses: statuses of correct responses.
    :ivar count: number of requests to send.
    :ivar rate: requests per second in an open loop; None for a closed loop.
    :ivar rows: number of rows that each response must have; None to count no rows.
    :ivar timeout: seconds for the whole job.
    """

    port: int
    requests: Sequence[bytes]
    statuses: tuple[int, ...]
    count: int
    connections: int
    rate: float | None = None
    rows: int | None = None
    timeout: float = 600.0


@dataclass
class Outcome:
    """Duration, latencies and times to the first row in seconds, in the order of completion, and statuses."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_rows: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """The bytes of an HTTP request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    if body or method in ("POST", "PATCH"):
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Response:
    """An incremental parser of one HTTP response, with Content-Length or chunked.

    :param count_rows: count the rows of the body, and record the time of the first row.
    """

    def __init__(self, count_rows: bool) -> None:
        self.status = 0
        self.rows = 0
        self.first_row: float | None = None
        self.body = bytearray()
        self._count_rows = count_rows
        self._data = bytearray()
        self._remaining: int | None = None
        self._chunked = self._last = False
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Parse received bytes. Return True when the response is complete.

        :raises BenchError: the response has neither a length nor chunks.
        """
        self._data += data
        if not self.status and not self._head():
            return False
        return self._chunked_body() if self._chunked else self._sized_body()

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._data[:end]).lower()
        del self._data[: end + 4]
        self.status = int(head[9:12])
        if b"\r\ntransfer-encoding: chunked" in head:
            self._chunked = True
        elif (at := head.find(b"\r\ncontent-length:")) >= 0:
            self._remaining = int(head[at + 17 :].partition(b"\r\n")[0])
        elif self.status == 204:
            self._remaining = 0
        else:
            raise BenchError(f"the response has neither Content-Length nor chunks: {head!r}")
        return True

    def _sized_body(self) -> bool:
        assert self._remaining is not None
        self._remaining -= len(self._data)
        self._consume(bytes(self._data))
        self._data.clear()
        return self._remaining <= 0

    def _chunked_body(self) -> bool:
        while True:
            if not self._remaining and not self._last:
                # Except for the first chunk, the line break that ends the previous chunk precedes the size.
                end = self._data.find(b"\r\n", 2 if self._remaining == 0 else 0)
                if end < 0:
                    return False
                self._remaining = int(self._data[:end], 16)
                del self._data[: end + 2]
                if not self._remaining:
                    # The last chunk has size 0; an empty line follows it.
                    self._last = True
            if self._last:
                return self._data.startswith(b"\r\n")
            if not self._data:
                return False
            part = bytes(self._data[: self._remaining])
            del self._data[: len(part)]
            self._remaining -= len(part)
            self._consume(part)

    def _consume(self, data: bytes) -> None:
        if self._count_rows:
            if self.first_row is None and b"}" in data:
                self.first_row = time.perf_counter()
            text = self._tail + data
            self.rows += text.count(b'"id"')
            self._tail = text[-3:]
        elif self.status >= 400 and len(self.body) < 2000:
            self.body += data


class _Client:
    """A connection to the server and its in-flight request.

    :ivar due: when the request was due; latencies count from here.
    :ivar unsent: the part of the request that is not sent yet.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.response: Response | None = None
        self.due = 0.0
        self.unsent = memoryview(b"")

    def flush(self) -> bool:
        """Send without blocking. Return True when the whole request is sent."""
        with suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        return not self.unsent


class _LoadRun:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._outcome = Outcome()
        self._selector = selectors.DefaultSelector()
        self._idle: deque[_Client] = deque()
        self._sent = 0

    def run(self) -> Outcome:
        job = self._job
        for _ in range(job.connections):
            self._open()
        began = time.perf_counter()
        deadline = began + job.timeout
        while len(self._outcome.latencies) < job.count:
            now = time.perf_counter()
            if now > deadline:
                raise BenchError(f"{len(self._outcome.latencies)} of {job.count} responses within {job.timeout:.0f} s")
            wait = min(1.0, self._send_due_requests(began, now))
            for key, events in self._selector.select(wait):
                if events & selectors.EVENT_WRITE and key.data.flush():
                    self._selector.modify(key.data.socket, selectors.EVENT_READ, key.data)
                if events & selectors.EVENT_READ:
                    self._receive(key.data)
        self._outcome.seconds = time.perf_counter() - began
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()
        return self._outcome

    def _open(self) -> None:
        client = _Client(self._job.port)
        self._selector.register(client.socket, selectors.EVENT_READ, client)
        self._idle.append(client)

    def _send_due_requests(self, began: float, now: float) -> float:
        """Send all requests that are due. Return the seconds until the next one is due."""
        job = self._job
        while self._idle and self._sent < job.count:
            due = now if job.rate is None else began + self._sent / job.rate
            if due > now:
                return due - now
            self._send(self._idle.popleft(), due)
        return 1.0

    def _send(self, client: _Client, due: float) -> None:
        requests = self._job.requests
        client.unsent = memoryview(requests[self._sent % len(requests)])
        self._sent += 1
        client.response = Response(self._job.rows is not None)
        client.due = due
        if not client.flush():
            self._selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.socket.recv(262144)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._selector.unregister(client.socket)
            client.socket.close()
            if client.response is not None:
                raise BenchError("the server closed the connection before the response was complete")
            self._idle.remove(client)
            self._open()
            return
        if client.response is not None and client.response.feed(data):
            self._finish(client, client.response)

    def _finish(self, client: _Client, response: Response) -> None:
        outcome, job = self._outcome, self._job
        outcome.latencies.append(time.perf_counter() - client.due)
        outcome.statuses[response.status] += 1
        if response.status not in job.statuses:
            sent = bytes(job.requests[0][:200])
            raise BenchError(
                f"status {response.status} instead of {job.statuses} to {sent!r}: {bytes(response.body)!r}"
            )
        if job.rows is not None and response.rows != job.rows:
            raise BenchError(f"{response.rows} rows instead of {job.rows}")
        if response.first_row is not None:
            outcome.first_rows.append(response.first_row - client.due)
        client.response = None
        self._idle.append(client)


def _serve(pipe: Connection) -> None:
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            job = pipe.recv()
            try:
                pipe.send(_LoadRun(job).run())
            except Exception as error:
                pipe.send(error)


class ChildProcess:
    """A child process that receives jobs through a pipe and returns a result or an exception for each.

    :param target: a function that receives the child's end of the pipe. It returns when the parent closes its end.
    """

    def __init__(self, target: Any, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=target, args=(child_end, *arguments), daemon=True)
        self._process.start()
        child_end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def call(self, job: Any, timeout: float = 900.0) -> Any:
        """Send a job and return its result.

        :param timeout: seconds.
        :raises BenchError: the job failed, the process ended, or the timeout expired.
        """
        self._pipe.send(job)
        return self.receive(timeout)

    def receive(self, timeout: float) -> Any:
        """Return the next result; see :meth:`call`."""
        if not self._pipe.poll(timeout):
            raise BenchError(f"no result within {timeout:.0f} s")
        try:
            result = self._pipe.recv()
        except EOFError:
            raise BenchError("the child process has ended") from None
        if isinstance(result, Exception):
            raise BenchError(str(result)) from result
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(timeout=20)


def load_generator() -> ChildProcess:
    """Start a process that returns an :class:`Outcome` for each :class:`Job`."""
    return ChildProcess(_serve)
