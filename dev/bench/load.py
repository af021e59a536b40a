"""The load generator: one process, one thread, plain sockets, so that little of the two cores goes to it.

Closed loop: each connection sends its next request when it has the answer. Open loop: requests are due at fixed
times, whether or not answers are late, and the latency counts from the due time, so that a stall is counted against
every request that fell into it.
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
    """What to send, and what must come back.

    :ivar requests: as they go over the wire, sent in turn.
    :ivar statuses: those that are right.
    :ivar rate: requests a second, in an open loop; None for a closed loop.
    :ivar rows: that each answer must hold; None where they are not counted.
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
    """All in seconds; latencies and times to the first row in the order in which answers were whole."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_rows: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def request(method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """A request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    if body or method in ("POST", "PATCH"):
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Answer:
    """One answer, as it comes in: with a length or in chunks."""

    def __init__(self, count_rows: bool) -> None:
        self.status = 0
        self.rows = 0
        self.first_row: float | None = None
        self.body = bytearray()
        self._count_rows = count_rows
        self._data = bytearray()
        self._left: int | None = None
        self._chunked = self._last = False
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Takes what came; True when the answer is whole.

        :raises BenchError: it is no HTTP that this client knows.
        """
        self._data += data
        if not self.status and not self._head():
            return False
        return self._chunks() if self._chunked else self._rest()

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
            self._left = int(head[at + 17 :].partition(b"\r\n")[0])
        elif self.status == 204:
            self._left = 0
        else:
            raise BenchError(f"an answer without a length: {head!r}")
        return True

    def _rest(self) -> bool:
        assert self._left is not None
        self._left -= len(self._data)
        self._take(bytes(self._data))
        self._data.clear()
        return self._left <= 0

    def _chunks(self) -> bool:
        while True:
            if not self._left and not self._last:
                # Before a chunk's size stands the line end of the chunk before, but for the first.
                end = self._data.find(b"\r\n", 2 if self._left == 0 else 0)
                if end < 0:
                    return False
                self._left = int(self._data[:end], 16)
                del self._data[: end + 2]
                if not self._left:
                    # The last chunk is empty, and an empty line ends it.
                    self._last = True
            if self._last:
                return self._data.startswith(b"\r\n")
            if not self._data:
                return False
            part = bytes(self._data[: self._left])
            del self._data[: len(part)]
            self._left -= len(part)
            self._take(part)

    def _take(self, data: bytes) -> None:
        if self._count_rows:
            if self.first_row is None and b"}" in data:
                self.first_row = time.perf_counter()
            text = self._tail + data
            self.rows += text.count(b'"id"')
            self._tail = text[-3:]
        elif self.status >= 400 and len(self.body) < 2000:
            self.body += data


class _Line:
    """A connection, and the request that is under way on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.answer: Answer | None = None
        self.began = 0.0
        self.out = memoryview(b"")

    def flush(self) -> bool:
        """Sends what it can; True when all is sent."""
        with suppress(BlockingIOError):
            while self.out:
                self.out = self.out[self.socket.send(self.out) :]
        return not self.out


class _Run:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._outcome = Outcome()
        self._selector = selectors.DefaultSelector()
        self._idle: deque[_Line] = deque()
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
                raise BenchError(f"{len(self._outcome.latencies)} of {job.count} answers within {job.timeout:.0f} s")
            wait = min(1.0, self._send_what_is_due(began, now))
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
        line = _Line(self._job.port)
        self._selector.register(line.socket, selectors.EVENT_READ, line)
        self._idle.append(line)

    def _send_what_is_due(self, began: float, now: float) -> float:
        """Seconds until the next request is due."""
        job = self._job
        while self._idle and self._sent < job.count:
            due = now if job.rate is None else began + self._sent / job.rate
            if due > now:
                return due - now
            self._send(self._idle.popleft(), due)
        return 1.0

    def _send(self, line: _Line, due: float) -> None:
        requests = self._job.requests
        line.out = memoryview(requests[self._sent % len(requests)])
        self._sent += 1
        line.answer = Answer(self._job.rows is not None)
        line.began = due
        if not line.flush():
            self._selector.modify(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

    def _receive(self, line: _Line) -> None:
        try:
            data = line.socket.recv(262144)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._selector.unregister(line.socket)
            line.socket.close()
            if line.answer is not None:
                raise BenchError("the connection was closed before the answer was whole")
            self._idle.remove(line)
            self._open()
            return
        if line.answer is not None and line.answer.feed(data):
            self._finish(line, line.answer)

    def _finish(self, line: _Line, answer: Answer) -> None:
        outcome, job = self._outcome, self._job
        outcome.latencies.append(time.perf_counter() - line.began)
        outcome.statuses[answer.status] += 1
        if answer.status not in job.statuses:
            sent = bytes(job.requests[0][:200])
            raise BenchError(f"status {answer.status} and not {job.statuses} to {sent!r}: {bytes(answer.body)!r}")
        if job.rows is not None and answer.rows != job.rows:
            raise BenchError(f"{answer.rows} rows and not {job.rows}")
        if answer.first_row is not None:
            outcome.first_rows.append(answer.first_row - line.began)
        line.answer = None
        self._idle.append(line)


def _serve(pipe: Connection) -> None:
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            job = pipe.recv()
            try:
                pipe.send(_Run(job).run())
            except Exception as error:
                pipe.send(error)


class Child:
    """A process that takes jobs by a pipe, and answers each with its result or an exception.

    :param target: gets its end of the pipe, and ends when the other is closed.
    """

    def __init__(self, target: Any, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=target, args=(end, *arguments), daemon=True)
        self._process.start()
        end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, job: Any, timeout: float = 900.0) -> Any:
        """The result.

        :param timeout: seconds.
        :raises BenchError: it has none.
        """
        self._pipe.send(job)
        return self.answer(timeout)

    def answer(self, timeout: float) -> Any:
        """What comes next from the process; see :meth:`ask`."""
        if not self._pipe.poll(timeout):
            raise BenchError(f"no result within {timeout:.0f} s")
        try:
            result = self._pipe.recv()
        except EOFError:
            raise BenchError("the process has ended") from None
        if isinstance(result, Exception):
            raise BenchError(str(result)) from result
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(timeout=20)


def load_generator() -> Child:
    """A process that takes a :class:`Job` and gives an :class:`Outcome`."""
    return Child(_serve)
