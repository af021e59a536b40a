"""Clients that hold connections, threads or memory for as long as they can.

Every attack is bounded in connections and time. While it lasts, other clients get their responses within five seconds;
when it ends, the service works as before.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.sockets import RawClient, Swarm, open_file_limit, probe, probe_for
from tests.support import LARGE, OBSERVER, Service, TcpProxy, in_flight, metric, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

# The smallest receive buffer that Linux allows is about 2 kB.
SMALL_BUFFER = 4096
STREAM = f"/observers/stream?limit={LARGE}"
BUNDLE = "/docs/swagger-ui-bundle.js"
# Arguments of gunicorn: fewer connections for each worker than the attacks open.
CONNECTIONS = ("--worker-connections", "1000")
ROUTES = ("/health/live", "/find/Quercus/robur")


def get(path: str, *headers: str) -> bytes:
    """The bytes of a GET request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers]).encode() + b"\r\n\r\n"


def ended_streams(running: Service, outcome: str) -> float:
    return metric(running, f'fieldbook_streams_ended_total{{outcome="{outcome}",route="/observers/stream"}}')


def assert_recovered(running: Service) -> None:
    """Check that the service answers at once, that no request is in flight, and that the log has no traceback."""
    probe_for(0.5, running.port, *ROUTES)
    wait_for(lambda: in_flight(running) == 0, description="no request in flight")
    assert "Traceback" not in running.log_text()


# --- clients that do not read --------------------------------------------------------------------------------


@pytest.mark.slow
def test_clients_that_never_read_a_file_do_not_delay_others(start: Callable[..., Service]) -> None:
    """70 clients request a file of 1.7 MB three times and read nothing.

    Others are answered, and get the complete file.
    """
    running = start({"WEB_CONCURRENCY": "1"})
    content = running.client.get(BUNDLE).content
    with Swarm(running.port, 70, 3 * get(BUNDLE), reads=False, receive_buffer=SMALL_BUFFER) as swarm:
        wait_for(lambda: swarm.is_complete, description="the requests to be sent")
        probe_for(3, running.port, *ROUTES)
        assert running.client.get(BUNDLE).content == content
    assert_recovered(running)
    assert running.client.get(BUNDLE).content == content


@pytest.mark.slow
@pytest.mark.parametrize("reads", [False, True], ids=["no reads", "one byte a second"])
def test_streams_to_slow_readers_leave_other_routes_available(
    start: Callable[..., Service], large_keyspace: str, reads: bool
) -> None:
    """90 clients request streams that they do not read.

    Routes that are not streams work meanwhile. The streams are aborted, and then new streams are served.
    """
    running = start(
        {
            "WEB_CONCURRENCY": "1",
            "CASSANDRA_KEYSPACE": large_keyspace,
            "MIN_TRANSFER_RATE": "10000",
            "TRANSFER_RATE_WINDOW": "1",
        }
    )
    with Swarm(
        running.port,
        90,
        get(STREAM),
        reads=False,
        each_second=(lambda connection: connection.recv(1)) if reads else None,
        receive_buffer=SMALL_BUFFER,
    ) as swarm:
        wait_for(lambda: swarm.is_complete, description="the requests to be sent")
        probe_for(3, running.port, *ROUTES)
        wait_for(
            lambda: (
                ended_streams(running, "too_slow")
                == metric(running, 'fieldbook_streams_opened_total{route="/observers/stream"}')
                > 0
            ),
            description="the streams to be aborted",
        )
        log = running.log_text()
        assert "stream /observers/stream: aborted after" in log
        assert "the client received less than MIN_TRANSFER_RATE" in log
        assert len(running.client.get("/observers/stream?limit=1000").json()) == 1000
    assert_recovered(running)


@pytest.mark.slow
def test_stream_that_waits_for_cassandra_is_not_too_slow(
    start: Callable[..., Service], proxy: TcpProxy, large_keyspace: str
) -> None:
    """Only the time in which the client does not read counts: Cassandra sends nothing for three windows."""
    running = start(
        {
            "WEB_CONCURRENCY": "1",
            "CASSANDRA_KEYSPACE": large_keyspace,
            "CASSANDRA_PORT": str(proxy.port),
            "TRANSFER_RATE_WINDOW": "1",
        }
    )
    body = b""
    with running.client.stream("GET", STREAM) as response:
        for chunk in response.iter_raw():
            if not body:
                proxy.pause(3)
            body += chunk
    assert len(json.loads(body)) == LARGE
    assert ended_streams(running, "finished") == 1


@pytest.mark.slow
def test_client_that_reads_slowly_gets_the_whole_stream(start: Callable[..., Service], large_keyspace: str) -> None:
    """For five windows the client reads about 20 times faster than MIN_TRANSFER_RATE, which is slow for a stream."""
    running = start({"WEB_CONCURRENCY": "1", "CASSANDRA_KEYSPACE": large_keyspace, "TRANSFER_RATE_WINDOW": "1"})
    with RawClient(running.port, receive_buffer=65536) as client:
        client.send(get(STREAM, "Connection: close"))
        received = bytearray()
        began = time.monotonic()
        while part := client.socket.recv(20_000 if time.monotonic() < began + 5 else 1_000_000):
            received += part
            if time.monotonic() < began + 5:
                time.sleep(0.1)
    assert received.endswith(b"]\r\n0\r\n\r\n")
    assert ended_streams(running, "finished") == 1


def test_only_streams_tell_the_proxy_not_to_buffer(live: Service) -> None:
    """nginx would otherwise read the stream into its own buffers, and hide a slow client from the service."""
    for path in ("/observers/stream", "/find/Quercus"):
        assert live.client.get(path).headers["X-Accel-Buffering"] == "no"
    for path in ("/observers", "/find/Quercus/robur", "/health/live", BUNDLE, "/observers/stream?limit=no"):
        assert "X-Accel-Buffering" not in live.client.get(path).headers


# --- idle, silent and slow connections -----------------------------------------------------------------------


def limit_open_files(running: Service, count: int) -> None:
    """Replace the workers by workers that may have at most `count` open files."""
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (count, count))
    old = set(running.workers())
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: running.workers() and not old & set(running.workers()), description="new workers")
    wait_for(running.healthy, description="the new workers to be healthy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "open_files", "count"),
    [(2, None, 2100), (1, 256, 400)],
    ids=["more than the connections", "more than the descriptors"],
)
def test_idle_connections_above_the_limit_do_not_keep_new_ones_out(
    start: Callable[..., Service], workers: int, open_files: int | None, count: int
) -> None:
    """Each connection sends one request and stays open; every request is answered.

    The service closes the oldest connections, because a worker may have 1,000 connections, or 256 descriptors.
    """
    running = start({"WEB_CONCURRENCY": str(workers)}, *CONNECTIONS)
    if open_files is not None:
        limit_open_files(running, open_files)
    with open_file_limit(10_000), Swarm(running.port, count, get("/health/live")) as swarm:
        probe_for(3, running.port, *ROUTES)
        wait_for(lambda: swarm.answered() == count, timeout=10, description="all responses")
        assert all(member.received.startswith(b"HTTP/1.1 200 OK") for member in swarm.members)
        probe_for(1, running.port, *ROUTES)
    assert metric(running, "fieldbook_client_connections_closed_early_total") > 0
    assert_recovered(running)


@pytest.mark.slow
def test_incomplete_headers_do_not_keep_new_connections_out(start: Callable[..., Service]) -> None:
    """1,000 connections send one byte each. When the service closes one, the client opens another."""
    running = start({"WEB_CONCURRENCY": "2"}, *CONNECTIONS)
    with open_file_limit(10_000), Swarm(running.port, 1000, b"G", reopens=True) as swarm:
        wait_for(lambda: swarm.is_complete, description="the connections")
        probe_for(4, running.port, *ROUTES)
        wait_for(lambda: swarm.reopened > 0, description="a connection that the service closes")
        probe_for(1, running.port, *ROUTES)
    assert_recovered(running)


@pytest.mark.slow
def test_silent_connections_do_not_keep_new_connections_out(start: Callable[..., Service]) -> None:
    """5,000 connections send nothing."""
    running = start({"WEB_CONCURRENCY": "2"}, *CONNECTIONS)
    with open_file_limit(10_000), Swarm(running.port, 5000) as swarm:
        probe_for(2, running.port, *ROUTES)
        wait_for(lambda: swarm.is_complete, description="the connections")
        probe_for(2, running.port, *ROUTES)
    assert_recovered(running)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framing", "byte"),
    [("Content-Length: 1000", b" "), ("Transfer-Encoding: chunked", b"1\r\n \r\n")],
    ids=["length", "chunks"],
)
def test_trickling_bodies_do_not_keep_other_requests_out(
    start: Callable[..., Service], framing: str, byte: bytes
) -> None:
    """200 clients send one byte of their body a second. Each gets an error or a close at its deadline."""
    running = start({"WEB_CONCURRENCY": "1", "REQUEST_TIMEOUT": "5"})
    head = (
        f"POST /observers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n".encode()
    )

    def trickle(connection: socket.socket) -> None:
        connection.send(byte)

    began = time.monotonic()
    with Swarm(running.port, 200, head, each_second=trickle) as swarm:
        wait_for(lambda: swarm.is_complete, description="the connections")
        probe_for(began + 4 - time.monotonic(), running.port, *ROUTES)
        wait_for(lambda: swarm.ended() == 200, timeout=10, description="the end of the connections")
        statuses = {member.received[9:12] for member in swarm.members}
    assert statuses <= {b"", b"408", b"504"}
    assert_recovered(running)


# --- floods ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/find/Quercus/robur"])
def test_pipelined_requests_do_not_keep_others_out(start: Callable[..., Service], path: str) -> None:
    """250 connections send hundreds of requests at once. Overload may reject requests, but only with 503."""
    running = start({"WEB_CONCURRENCY": "1"})
    requests = 60_000 // len(get(path)) * get(path)
    with Swarm(running.port, 250, requests) as swarm:
        wait_for(lambda: swarm.is_complete, description="the requests to be sent")
        # The 250 clients share this machine with the service, so a response may take seconds.
        end = time.monotonic() + 4
        while time.monotonic() < end:
            probe(running.port, limit=10)
            with RawClient(running.port) as client:
                client.send(get("/find/Quercus/robur", "Connection: close"))
                assert client.read_response().status in (200, 503)
    # The service still answers what has arrived, until it notices that the clients have gone.
    wait_for(lambda: metric(running, "fieldbook_client_connections") <= 2, description="the end of the connections")
    assert_recovered(running)


@pytest.mark.slow
def test_bodies_above_the_byte_limit_do_not_end_the_worker(start: Callable[..., Service]) -> None:
    """700 clients send a small part of their body, and then 80 clients send nearly 1 MB each.

    The service closes those that have waited longest.
    """
    running = start({"WEB_CONCURRENCY": "1"})
    workers = running.workers()
    head = b"POST /find HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: 60\r\nContent-Length: 1000000\r\n\r\n"
    with Swarm(running.port, 700, head + b" ") as small, ExitStack() as stack:
        wait_for(lambda: small.is_complete, description="the small parts")
        for _ in range(80):
            stack.enter_context(RawClient(running.port)).send(head + 999_000 * b" ")
        wait_for(lambda: small.ended() == 700, description="the end of the connections that have waited longest")
        probe_for(0.5, running.port, *ROUTES)
        assert metric(running, "fieldbook_client_connections_closed_early_total") > 700
    assert_recovered(running)
    assert running.workers() == workers
    # The connection that reads the metrics, and the one that `running.client` keeps.
    wait_for(lambda: metric(running, "fieldbook_client_connections") <= 2, description="the end of the connections")


# --- random requests -----------------------------------------------------------------------------------------

BODY = json.dumps(OBSERVER).encode()
TYPE = b"Content-Type: application/json\r\n"
REQUESTS = (
    get("/health/live"),
    get("/observers?limit=3", "Accept: text/csv"),
    get("/observers/stream?limit=40&fetch_size=10", "X-Request-Timeout: 5"),
    get("/find/Quercus/robur", "Connection: keep-alive", "X-Request-ID: fuzz"),
    b"POST /observers HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (TYPE, len(BODY), BODY),
    b"POST /find HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (TYPE, len(BODY), BODY),
    b"DELETE /find/no/where HTTP/1.0\r\nHost: x\r\n\r\n",
)
TOKENS = (b"\r\n", b"\n", b"\r", b"\x00", b" ", b":", b"%", b"/", b"\xff", b"0", b"-1", b";", b"Content-Length: 3\r\n")


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change one to five places of the data: delete, repeat, overwrite or insert bytes."""
    for _ in range(chance.randint(1, 5)):
        first, last = sorted(chance.choices(range(len(data) + 1), k=2))
        last = min(last, first + 20)
        middle = chance.choice([b"", 2 * data[first:last], chance.randbytes(last - first), chance.choice(TOKENS)])
        data = data[:first] + middle + data[last:]
    return data


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_mutated_requests_end_in_a_response_or_a_close(start: Callable[..., Service], seed: int) -> None:
    """500 connections with one to three mutated requests each, in random segments; no response is a 500."""
    running = start({"WEB_CONCURRENCY": "1", "CLIENT_IDLE_TIMEOUT": "1"})
    chance = random.Random(seed)
    for _ in range(500):
        data = b"".join(mutate(chance.choice(REQUESTS), chance) for _ in range(chance.randint(1, 3)))
        cuts = sorted({0, len(data), *chance.choices(range(len(data) + 1), k=chance.randint(0, 4))})
        segments = [data[first:last] for first, last in itertools.pairwise(cuts)]
        with RawClient(running.port) as client:
            client.send(*segments, pause=chance.choice([0, 0.001]))
            end = chance.choice(["half-close", "half-close", "reset", "close"])
            if end == "half-close":
                client.half_close()
                assert all(response.status != 500 for response in client.read_to_end()), data
            elif end == "reset":
                client.reset()
    assert_recovered(running)
