"""The event loop without threads: the limits of connections and bytes, deadlines, and connections that fail."""

from __future__ import annotations

import errno
import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from gunicorn.config import Config

from server import event_loop
from server.connection import ClientDisconnected, Connection, Limits
from server.event_loop import EventLoop
from tests.support import wait_for

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Bench:
    """An event loop and its clients in one thread; `requests` are the connections that it would hand to threads."""

    def __init__(self, listener: socket.socket, max_connections: int = 10, limits: Limits | None = None) -> None:
        config = Config()
        config.set("worker_connections", max_connections)
        config.set("keepalive", 60)
        self._address = listener.getsockname()
        self.wakeup = os.pipe()
        for descriptor in self.wakeup:
            os.set_blocking(descriptor, False)
        self.requests: list[Connection] = []
        self.closed_early = 0
        self.loop = EventLoop(
            [listener], config, limits or Limits(), self.requests.append, self._count_closed_early, self.wakeup
        )
        self._clients = ExitStack()

    def _count_closed_early(self) -> None:
        self.closed_early += 1

    def close(self) -> None:
        self.loop.close()
        for connection in self.requests:
            connection.close()
        self._clients.close()
        for descriptor in self.wakeup:
            os.close(descriptor)

    def run_once(self) -> None:
        # The byte ends the wait of the loop.
        os.write(self.wakeup[1], b".")
        self.loop.run_once()

    def run_until(self, condition: Callable[[], bool], description: str) -> None:
        def is_met() -> bool:
            self.run_once()
            return condition()

        wait_for(is_met, description=description)

    def connect(self, data: bytes = b"") -> socket.socket:
        """Open a connection that the loop has accepted, and send some bytes, which the loop has received."""
        count = self.loop.count
        client = self._clients.enter_context(socket.create_connection(self._address))
        client.setblocking(False)
        closed = self.closed_early
        self.run_until(lambda: self.loop.count + self.closed_early > count + closed, "the connection")
        if data:
            self.send(client, data)
        return client

    def send(self, client: socket.socket, data: bytes) -> None:
        client.setblocking(True)
        client.sendall(data)
        client.setblocking(False)
        for _ in range(2 + len(data) // 65536):
            self.run_once()

    def answer(self, response: bytes, keep: bool = True) -> None:
        """Answer the oldest request, as a thread does."""
        connection = self.requests.pop(0)
        connection.finish_request(connection.parse_request())
        connection.keep = keep
        connection.sendall(response)
        try:
            connection.flush()
        except ClientDisconnected:
            connection.close()
        self.loop.take_back(connection)
        self.loop.run_once()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Creates a loop: `bench(max_connections=3)`."""
    with ExitStack() as stack:

        def create(listener: socket.socket | None = None, **options: object) -> Bench:
            if listener is None:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            bench = Bench(listener, **options)  # type: ignore[arg-type]
            stack.callback(bench.close)
            return bench

        yield create


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


# --- the number of connections ---------------------------------------------------------------------------------


def test_connection_that_has_waited_longest_is_closed_at_the_limit(bench: Callable[..., Bench]) -> None:
    running = bench(max_connections=3)
    first, second, third = (running.connect() for _ in range(3))
    fourth = running.connect()
    assert [is_closed(client) for client in (first, second, third, fourth)] == [True, False, False, False]
    # The second one has sent a request since: it is answered, and the third one has waited longest.
    second.sendall(GET)
    running.connect()
    assert is_closed(third)
    assert len(running.requests) == 1
    running.answer(OK)
    assert second.recv(100) == OK
    assert (running.loop.count, running.closed_early) == (3, 2)


def test_requests_without_a_pause_do_not_keep_new_connections_out(bench: Callable[..., Bench]) -> None:
    """At the limit, while threads use all connections, a connection is closed after its next response."""
    running = bench(max_connections=2)
    busy = [running.connect(GET * 10) for _ in range(2)]
    new = running.connect(GET)
    assert len(running.requests) == 3
    running.answer(OK)
    running.answer(OK)
    assert [client.recv(100) for client in busy] == [OK, OK]
    assert [is_closed(client) for client in busy] == [True, False]
    running.answer(OK)
    assert new.recv(100) == OK
    assert not is_closed(new)
    assert (running.loop.count, running.closed_early) == (2, 1)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ECONNABORTED, errno.EPROTO, errno.EMFILE, errno.ENOBUFS])
def test_errors_of_accept_do_not_end_the_loop(bench: Callable[..., Bench], code: int) -> None:
    """A firewall or a network error; or a lack of resources, for which the oldest connection is closed."""

    class Listener(socket.socket):
        errors: list[int] = []

        def accept(self) -> tuple[socket.socket, object]:
            if self.errors:
                raise OSError(self.errors.pop(), "accept failed")
            return super().accept()

    with Listener() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        running = bench(listener)
        oldest = running.connect()
        listener.errors.append(code)
        running.connect(GET)
        assert len(running.requests) == 1
        assert is_closed(oldest) == (code in (errno.EMFILE, errno.ENOBUFS))


def test_stop_accepts_the_connections_that_the_kernel_has_queued(bench: Callable[..., Bench]) -> None:
    running = bench()
    running.run_once()
    address = next(iter(running.loop._addresses.values()))
    with socket.create_connection(address) as client:
        client.sendall(GET)
        running.loop.stop_accepting()
        running.run_until(lambda: len(running.requests) == 1, "the request")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        running.answer(OK, keep=False)
        assert client.recv(100) == OK


# --- bytes in memory -------------------------------------------------------------------------------------------


def test_oldest_connections_with_bytes_are_closed_at_the_byte_limit(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if more than 300 have to be closed at once. Idle connections, which hold no bytes, stay."""
    monkeypatch.setattr(event_loop, "_MAX_HELD", 100_000)
    running = bench(max_connections=1000, limits=Limits(max_body=10_000))
    idle = running.connect()
    small = [running.connect(POST + b" " * 100) for _ in range(600)]
    assert not any(map(is_closed, small))
    chunk = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + b" " * 60_000
    large = running.connect(chunk)
    are_closed = [is_closed(client) for client in small]
    assert sum(are_closed) > 300
    assert are_closed == sorted(are_closed, reverse=True)
    assert not is_closed(idle)
    assert not is_closed(large)
    assert running.loop._held <= 100_000
    assert (running.closed_early, running.loop.count) == (sum(are_closed), 602 - sum(are_closed))
    for client in (idle, large, *small):
        client.close()
    running.run_until(lambda: running.loop.count == len(running.requests), "the end of the connections")
    # Threads get the requests with incomplete bodies.
    while running.requests:
        running.answer(OK, keep=False)
    running.run_until(lambda: running.loop.count == 0, "no connection")
    assert running.loop._held == 0


def test_idle_connection_does_not_hold_its_last_response(bench: Callable[..., Bench]) -> None:
    """Neither its bytes nor their count, after the client has received all of it slowly."""
    running = bench()
    client = running.connect()
    size = 20_000_000
    tracemalloc.start()
    try:
        running.send(client, GET)
        running.answer(b"x" * size)
        assert running.loop._held == size
        received = 0

        def is_received() -> bool:
            nonlocal received
            with suppress(BlockingIOError):
                received += len(client.recv(1_000_000))
            return received == size

        running.run_until(is_received, "the response")
        running.run_until(lambda: running.loop._held == 0, "no bytes")
        assert tracemalloc.get_traced_memory()[0] < size / 2
    finally:
        tracemalloc.stop()
    assert running.loop.count == 1


def test_kernel_does_not_take_much_more_than_the_client_can_receive(bench: Callable[..., Bench]) -> None:
    """The bytes in the kernel do not count, and it would take several megabytes."""
    running = bench()
    client = running.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
    for _ in range(2):
        # The window of the connection grows with what the client receives.
        running.send(client, GET)
        running.answer(b"x" * 5_000_000)
        received = 0
        while received < 5_000_000:
            running.run_once()
            with suppress(BlockingIOError):
                received += len(client.recv(5_000_000))
    running.send(client, GET)
    connection = running.requests[0]
    running.answer(b"x" * 5_000_000)
    assert connection._position < 1_500_000


def test_response_that_the_client_does_not_read_ends_with_a_reset(bench: Callable[..., Bench]) -> None:
    """Otherwise the kernel would keep the bytes that it has taken, for minutes."""
    running = bench(max_connections=1)
    client = running.connect(GET)
    running.answer(b"x" * 20_000_000)
    running.connect()
    assert running.closed_early == 1
    with pytest.raises(ConnectionResetError):
        while client.recv(1_000_000):
            pass


# --- deadlines -------------------------------------------------------------------------------------------------


def test_waits_end_at_their_deadlines(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete head ends in a close; an incomplete body in a request, so that the client gets an error."""
    monkeypatch.setattr(event_loop, "_HEAD_TIMEOUT", 0.1)
    running = bench(limits=Limits(request_timeout=0.2, idle_timeout=10))
    idle, head, late = running.connect(), running.connect(b"GET"), running.connect(POST)
    running.run_until(lambda: is_closed(head), "the close of the incomplete head")
    running.run_until(lambda: len(running.requests) == 1, "the incomplete body")
    assert running.requests[0].problem == "late"
    running.answer(OK, keep=False)
    assert late.recv(100) == OK
    assert not is_closed(idle)


def test_body_that_stalls_is_handed_to_a_thread(bench: Callable[..., Bench]) -> None:
    running = bench(limits=Limits(request_timeout=10, idle_timeout=0.1))
    running.connect(POST + b"{")
    running.run_until(lambda: len(running.requests) == 1, "the incomplete body")
    assert running.requests[0].problem == "stalled"


def test_client_that_does_not_close_its_end_is_disconnected(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last response, the loop waits for the client's close, but not for long."""
    monkeypatch.setattr(event_loop, "_LINGER_TIMEOUT", 0.1)
    running = bench()
    client = running.connect(GET)
    running.answer(OK, keep=False)
    assert client.recv(100) == OK
    running.run_until(lambda: running.loop.count == 0, "the close")


def test_request_that_arrives_at_the_deadline_of_an_idle_connection_is_handled(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the stop has begun, the loop closes idle connections, but not one whose request has already arrived."""
    running = bench()
    late, unused, other = running.connect(), running.connect(), running.connect()
    monkeypatch.setattr(event_loop, "_STOP_TIMEOUT", 0.1)
    running.loop.stop_accepting()
    stopped = time.monotonic()

    def handle(connection: Connection) -> None:
        # The loop has received its events, and is busy with a request until the deadline has passed.
        if not running.requests:
            late.sendall(GET)
            time.sleep(max(0.0, stopped + 0.2 - time.monotonic()))
        running.requests.append(connection)

    monkeypatch.setattr(running.loop, "_handle", handle)
    running.send(other, GET)
    assert len(running.requests) == 2
    running.answer(OK, keep=False)
    running.answer(OK, keep=False)
    assert late.recv(100) == OK
    assert unused.recv(100) == b""


# --- streamed bodies --------------------------------------------------------------------------------------------

STREAMED = Limits(max_body=100, streamed_paths=frozenset({b"/"}))


def test_request_with_a_streamed_body_is_handled_when_its_head_has_arrived(bench: Callable[..., Bench]) -> None:
    """The thread receives the body, and the loop does not send "100 Continue"."""
    running = bench(limits=STREAMED)
    client = running.connect(POST.replace(b"Host", b"Expect: 100-continue\r\nHost") + b"a" * 300)
    (connection,) = running.requests
    assert connection.problem is None
    with pytest.raises(BlockingIOError):
        client.recv(100)
    request = connection.parse_request()
    client.sendall(b"a" * 700)
    assert request.body.read() == b"a" * 1000
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_rest_of_a_streamed_body_is_dropped_up_to_a_limit(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than after other requests, so that the client can send it all and then receive the response."""
    monkeypatch.setattr(event_loop, "_MAX_DISCARDED_STREAMED", 1_000_000)
    running = bench(limits=STREAMED)
    client = running.connect(POST)
    (connection,) = running.requests
    connection.parse_request()
    connection.keep = False
    connection.sendall(OK)
    connection.flush()
    running.loop.take_back(connection)
    running.loop.run_once()
    assert client.recv(100) == OK
    for _ in range(9):
        running.send(client, b"a" * 100_000)
        assert connection.size() == 0
    assert running.loop.count == 1
    with suppress(ConnectionError):
        running.send(client, b"a" * 200_000)
    running.run_until(lambda: running.loop.count == 0, "the close")


# --- requests --------------------------------------------------------------------------------------------------


def test_pipelined_requests_take_turns_with_those_of_other_connections(bench: Callable[..., Bench]) -> None:
    """Each is handed to a thread only after the response before it is sent."""
    running = bench()
    many = running.connect(GET * 3)
    running.connect(GET)
    first, other = running.requests
    assert len(running.requests) == 2
    running.answer(OK)
    assert running.requests == [other, first]
    running.answer(OK)
    running.answer(OK)
    running.answer(OK)
    assert many.recv(1000) == 3 * OK
    assert running.requests == []


def test_client_that_does_not_read_gets_no_further_response(bench: Callable[..., Bench]) -> None:
    """The loop does not take its next request while the response before it waits to be received."""
    running = bench()
    running.connect(GET * 2)
    running.answer(b"x" * 20_000_000)
    running.run_once()
    assert running.requests == []


@pytest.mark.parametrize("data", [b"", b"GET", POST, POST + b"{", GET], ids=["idle", "head", "body", "part", "request"])
def test_reset_connections_are_not_counted_any_more(bench: Callable[..., Bench], data: bytes) -> None:
    running = bench()
    client = running.connect(data)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()

    def is_gone() -> bool:
        if running.requests:
            running.answer(OK)
        return running.loop.count == 0

    running.run_until(is_gone, "no connection")


# --- what gunicorn's parser reads ------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", [True, False])
def test_body_in_tiny_chunks_is_read_in_seconds(bench: Callable[..., Bench], reads: bool) -> None:
    """A body of 1 MB in chunks of one byte; gunicorn's parser would need more than a minute for it in one piece."""
    running = bench()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = running.connect()
    client.setblocking(True)
    body = b"1\r\n \r\n" * 170_000 + b"0\r\n\r\n"
    sent = 0
    client.setblocking(False)
    data = head + body + GET

    def is_sent() -> bool:
        nonlocal sent
        with suppress(BlockingIOError):
            sent += client.send(data[sent : sent + 1_000_000])
        return sent == len(data) and bool(running.requests)

    running.run_until(is_sent, "the request")
    request = running.requests[0].parse_request()
    if reads:
        assert len(request.body.read()) == 170_000
    running.requests[0].keep = True
    running.requests[0].finish_request(request)
    assert running.requests[0].request.data == GET
