"""The concurrency limit and its queue.

Requests above MAX_REQUESTS_IN_FLIGHT wait in the queue for at most QUEUE_TIMEOUT and are rejected then. The health and
metrics routes stay available.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import FEW_THREADS, LARGE, OBSERVER, Service, TcpProxy, get, in_flight, metric, raw_request, wait_for

pytestmark = pytest.mark.alone


@contextmanager
def long_requests(running: Service, count: int) -> Iterator[list[Future[httpx.Response]]]:
    """Keep `count` requests of ten seconds each in flight."""
    with ThreadPoolExecutor(count) as pool:
        requests = [pool.submit(get, running, "/long_running_query") for _ in range(count)]
        wait_for(lambda: in_flight(running) == count, description=f"{count} requests in flight")
        yield requests


@pytest.mark.slow
def test_long_requests_do_not_delay_other_requests(start: Callable[..., Service]) -> None:
    """With ten long requests in flight, /health and a point read respond before any of them."""
    running = start()
    with long_requests(running, 10) as requests:
        for path in ("/health", "/find/Quercus/robur", "/health/live"):
            assert get(running, path).status_code == 200
        assert running.client.post("/observers", json=OBSERVER).status_code == 201
        assert not any(request.done() for request in requests)
    assert {request.result().status_code for request in requests} == {200}


def test_busy_keep_alive_connections_share_few_threads_fairly(start: Callable[..., Service]) -> None:
    """40 busy keep-alive clients share 18 threads evenly.

    A thread serves the next request of its connection only while no other connection waits for a thread.
    """
    running = start(FEW_THREADS)
    responses = [0] * 40
    stop = threading.Event()

    def send_requests(number: int) -> None:
        with httpx.Client(base_url=running.client.base_url, timeout=30) as client:
            while not stop.is_set():
                assert client.get("/health/live").status_code == 200
                responses[number] += 1

    with ThreadPoolExecutor(len(responses)) as pool:
        clients = [pool.submit(send_requests, number) for number in range(len(responses))]
        try:
            wait_for(lambda: min(responses) >= 50, description="50 responses for each client")
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert max(responses) < 5 * min(responses)


def test_pipelined_requests_in_one_segment_all_get_responses(start: Callable[..., Service]) -> None:
    """Four pipelined requests get four responses.

    The later requests are already in the thread's read buffer, so no socket event reports them.
    """
    running = start()
    with raw_request(running.port, "1.1", "/health/live") as connection:
        wait_for(lambda: connection.recv(65536, socket.MSG_PEEK).endswith(b"}"), description="the first response")
        head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(2 * (head + b"\r\n") + head + b"Connection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 4


def test_requests_are_rejected_at_once_without_a_queue(start: Callable[..., Service]) -> None:
    """At the limit, requests get 503 with Retry-After; probes and metrics stay available.

    Requests are accepted again as soon as the number in flight is below the limit.
    """
    running = start({"WEB_CONCURRENCY": "1", "MAX_REQUESTS_IN_FLIGHT": "4", "MAX_REQUESTS_QUEUED": "0"})
    with long_requests(running, 4) as requests:
        # All of this happens in the ten seconds of the long requests.
        for _ in range(5):
            rejected = get(running, "/find/Quercus/robur")
            assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "1")
            assert rejected.headers["Content-Type"] == "application/problem+json"
            for path in ("/health", "/health/live", "/metrics", "/", "/openapi.json"):
                assert get(running, path).status_code == 200, path
        assert get(running, "/observers").status_code == 503
        assert running.client.post("/observers", json=OBSERVER).status_code == 503
        assert not any(request.done() for request in requests)
    assert {request.result().status_code for request in requests} == {200}
    wait_for(lambda: in_flight(running) == 0, description="no requests in flight")
    assert get(running, "/find/Quercus/robur").status_code == 200
    assert metric(running, 'fieldbook_requests_refused_total{kind="data",reason="queue_full"}') == 7


def test_no_kind_of_request_stays_in_flight(start: Callable[..., Service], keyspace: str) -> None:
    """No request stays in flight after an error, a HEAD request, a stream or a client disconnect."""
    running = start(FEW_THREADS | {"CASSANDRA_KEYSPACE": keyspace})
    for _ in range(3):
        for request in (
            ("GET", "/observers/1"),
            ("GET", "/observers?limit=0"),
            ("HEAD", "/observers/stream"),
            ("GET", "/observers/stream"),
            ("PUT", "/observers"),
            ("OPTIONS", "/observers"),
            ("GET", "/nowhere"),
            ("DELETE", "/find/a/b"),
        ):
            running.client.request(*request)
        running.client.post("/observers", content=b"{", headers={"Content-Type": "application/json"})
        with raw_request(running.port, "1.1", "/observers/stream"):
            pass
    wait_for(lambda: in_flight(running) == 0, description="no requests in flight")


@pytest.mark.slow
def test_stream_is_in_flight_until_its_last_byte(start: Callable[..., Service], large_keyspace: str) -> None:
    """A stream is in flight until its last byte is sent or its client disconnects."""
    running = start(FEW_THREADS | {"CASSANDRA_KEYSPACE": large_keyspace})
    with raw_request(running.port, "1.1", f"/observers/stream?limit={LARGE}") as connection:
        connection.recv(1000)
        assert get(running, "/observers").status_code == 503
    wait_for(lambda: get(running, "/observers").status_code == 200, description="a request to be accepted")


@contextmanager
def stalled_requests(running: Service, proxy: TcpProxy, count: int) -> Iterator[list[Future[httpx.Response]]]:
    """Keep `count` requests in flight until the block ends, because Cassandra does not respond."""
    # The statement is prepared before Cassandra stops responding.
    assert get(running, "/find/Quercus/robur").status_code == 200
    proxy.pause()
    with ThreadPoolExecutor(count) as pool:
        requests = [pool.submit(get, running, "/find/Quercus/robur") for _ in range(count)]
        wait_for(lambda: in_flight(running) == count, description=f"{count} requests in flight")
        try:
            yield requests
        finally:
            proxy.resume()


def queue_settings(proxy: TcpProxy, **settings: str) -> dict[str, str]:
    """Return settings with one worker, two requests in flight, and Cassandra behind the proxy."""
    return {"WEB_CONCURRENCY": "1", "MAX_REQUESTS_IN_FLIGHT": "2", "CASSANDRA_PORT": str(proxy.port)} | settings


def test_requests_wait_in_the_queue_and_are_served(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """Requests at the limit wait and get 200; the metrics report the queue and the time in it."""
    running = start(queue_settings(proxy, QUEUE_TIMEOUT="30"))
    with ThreadPoolExecutor(4) as pool:
        with stalled_requests(running, proxy, 2) as requests:
            queued = [pool.submit(get, running, "/find/Quercus/robur") for _ in range(4)]
            wait_for(lambda: metric(running, 'fieldbook_requests_queued{kind="data"}') == 4, description="the queue")
            assert in_flight(running) == 2
        assert [request.result().status_code for request in requests + queued] == [200] * 6
    assert metric(running, 'fieldbook_queue_duration_seconds_count{kind="data"}') == 4
    wait_for(lambda: metric(running, 'fieldbook_requests_queued{kind="data"}') == 0, description="an empty queue")


def test_queue_timeout_and_deadline_end_the_wait(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """A request in the queue gets 503 after QUEUE_TIMEOUT, or 504 at its deadline if that is earlier."""
    running = start(queue_settings(proxy, QUEUE_TIMEOUT="1"))
    with stalled_requests(running, proxy, 2):
        late = get(running, "/find/Quercus/robur", **{"X-Request-Timeout": "0.1"})
        assert (late.status_code, "Retry-After" in late.headers) == (504, False)
        rejected = get(running, "/find/Quercus/robur")
        assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "1")
        assert rejected.headers["Content-Type"] == "application/problem+json"
    for reason in ("deadline", "queue_timeout"):
        assert metric(running, f'fieldbook_requests_refused_total{{kind="data",reason="{reason}"}}') == 1


def test_requests_are_rejected_at_once_if_the_queue_is_full(start: Callable[..., Service], proxy: TcpProxy) -> None:
    running = start(queue_settings(proxy, MAX_REQUESTS_QUEUED="1", QUEUE_TIMEOUT="60", REQUEST_TIMEOUT="60"))
    with ThreadPoolExecutor(1) as pool:
        with stalled_requests(running, proxy, 2):
            queued = pool.submit(get, running, "/find/Quercus/robur")
            wait_for(lambda: metric(running, 'fieldbook_requests_queued{kind="data"}') == 1, description="the queue")
            # The client waits less than QUEUE_TIMEOUT: a request that waits in the queue fails the test.
            assert get(running, "/find/Quercus/robur").status_code == 503
        assert queued.result().status_code == 200


@pytest.mark.slow
def test_unread_streams_leave_room_for_other_requests(start: Callable[..., Service], large_keyspace: str) -> None:
    """With 90 clients that request a stream and never read it, all other requests get 200."""
    running = start({"WEB_CONCURRENCY": "1", "CASSANDRA_KEYSPACE": large_keyspace})
    with ExitStack() as stack:
        for _ in range(90):
            stack.enter_context(raw_request(running.port, "1.1", f"/observers/stream?limit={LARGE}"))
        wait_for(lambda: metric(running, "fieldbook_streams_in_flight") == 24, description="24 streams in flight")
        for _ in range(20):
            assert get(running, "/observers?limit=1").status_code == 200
        # The streams above the limit wait for QUEUE_TIMEOUT.
        refused = 'fieldbook_requests_refused_total{kind="stream",reason="queue_timeout"}'
        wait_for(lambda: metric(running, refused) == 66, description="66 rejected streams")
        assert metric(running, "fieldbook_streams_in_flight") == 24
        assert get(running, "/observers/stream?limit=1").status_code == 503
        assert get(running, "/observers?limit=1").status_code == 200


class Client:
    """An HTTP client that keeps its connection until the server announces that it closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> int:
        """Send a request, read the whole response and return its status."""
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._connection
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length:")[2].partition("\r")[0]))
        if "connection: close" in head:
            self.close()
        return int(head.split()[1])

    def close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None


async def closed_loop(port: int, clients: int) -> tuple[Counter[int], int]:
    """Send 20 lists from each client, one after the other, and liveness probes meanwhile.

    Return the number of responses by status, and the number of probes that were answered.
    """
    statuses: Counter[int] = Counter()

    async def send_requests() -> None:
        with closing(Client(port)) as client:
            for _ in range(20):
                statuses[await client.get("/observers?limit=10")] += 1

    load = asyncio.gather(*(send_requests() for _ in range(clients)))
    probes = 0
    while not load.done():
        with closing(Client(port)) as probe:
            assert await probe.get("/health/live") == 200
        probes += 1
        await asyncio.sleep(0.05)
    await load
    return statuses, probes


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "share_of_200"), [(100, 0.99), (600, 0.0), (1000, 0.0)])
def test_overload_is_shed_with_503_only(start: Callable[..., Service], clients: int, share_of_200: float) -> None:
    """With 100 clients at least 99 % of the requests get 200; with more clients the others get 503.

    The memory is bounded, and /health/live responds throughout. The clients and Cassandra run on this machine too, so
    a time in the queue says nothing: 100 clients may wait there for 20 s.
    """
    patience = {"QUEUE_TIMEOUT": "20", "REQUEST_TIMEOUT": "30"} if clients == 100 else {}
    running = start({"WEB_CONCURRENCY": "1"} | patience)
    assert running.client.post("/observers", json=OBSERVER).status_code == 201
    statuses, probes = asyncio.run(asyncio.wait_for(closed_loop(running.port, clients), 100))
    assert statuses.total() == clients * 20
    assert statuses.keys() <= {200, 503}
    assert statuses[200] >= share_of_200 * statuses.total()
    peak = Path(f"/proc/{running.workers()[0]}/status").read_text().partition("VmHWM:")[2]
    assert int(peak.split()[0]) < 200 * 1024
    assert probes >= 4
