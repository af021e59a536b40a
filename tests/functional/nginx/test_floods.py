"""Floods of connections to nginx. While they last, the service answers others within a second."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from tests.functional.nginx.conftest import ROWS
from tests.nginx import HOST, Nginx
from tests.sockets import Swarm, open_file_limit, probe
from tests.support import OBSERVER, Service, in_flight, metric, wait_for

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(180)]

# The smallest receive buffer that Linux allows is about 2 kB.
SMALL_BUFFER = 4096
# Seconds, demanded of the liveness probe and of a read of one row.
BOUND = 1.0
ROUNDS = 9


@pytest.fixture(autouse=True)
def _open_files() -> Iterator[None]:
    with open_file_limit(10_000):
        yield


def request(target: str, *headers: str) -> bytes:
    return "\r\n".join([target + " HTTP/1.1", f"Host: {HOST}", *headers, "", ""]).encode()


UPLOAD = request("POST /observers", "Content-Type: application/json", "Content-Length: 1000000")


@pytest.fixture(scope="module")
def row(nginx: Nginx) -> str:
    """The path of an observer."""
    with nginx.client() as client:
        return str(client.post("/observers", json=OBSERVER).headers["Location"])


def assert_available(nginx: Nginx, instances: list[Service], row: str) -> None:
    """Check the median time of responses to new clients, through nginx and of the instances themselves."""
    durations: dict[str, list[float]] = {}

    def measure(name: str, send: Callable[[], object]) -> None:
        began = time.monotonic()
        send()
        durations.setdefault(name, []).append(time.monotonic() - began)

    def get(path: str) -> None:
        with nginx.client() as client:
            assert client.get(path).status_code == 200

    for _ in range(ROUNDS):
        for path in ("/health/live", row):
            measure(f"nginx {path}", lambda path=path: get(path))
            for instance in instances:
                probe(instance.port, path, limit=10)
                measure(f"{instance.port} {path}", lambda port=instance.port, path=path: probe(port, path, limit=10))
    medians = {name: statistics.median(values) for name, values in durations.items()}
    assert max(medians.values()) <= BOUND, medians


def flood(nginx: Nginx, count: int, data: bytes, **options: object) -> Swarm:
    return Swarm(nginx.port, count, data, tls=(nginx.tls(), HOST), **options)


def wait_until_open(swarm: Swarm) -> None:
    wait_for(lambda: swarm.is_complete, timeout=60, description="the connections")


@pytest.fixture
def _untouched(instances: list[Service]) -> Iterator[None]:
    """Check that no worker has ended and no request stays in flight."""
    workers = [instance.workers() for instance in instances]
    logs = [instance.log_text() for instance in instances]
    yield
    assert [instance.workers() for instance in instances] == workers
    for instance, log in zip(instances, logs, strict=True):
        wait_for(lambda instance=instance: in_flight(instance) == 0, timeout=60, description="no request in flight")
        assert "Traceback" not in instance.log_text().removeprefix(log)


@pytest.fixture
def _no_connection_closed_early(instances: list[Service]) -> Iterator[None]:
    """Check that no instance has closed a connection to make room for others."""

    def closed_early() -> list[float]:
        return [metric(instance, "fieldbook_client_connections_closed_early_total") for instance in instances]

    before = closed_early()
    yield
    assert closed_early() == before


@pytest.mark.usefixtures("_untouched", "_no_connection_closed_early")
def test_idle_connections(nginx: Nginx, instances: list[Service], row: str) -> None:
    """2,000 connections send one request each and stay open. They are connections of nginx only."""
    with flood(nginx, 2000, request("GET /health/live")) as swarm:
        wait_until_open(swarm)
        wait_for(lambda: swarm.answered() == 2000, timeout=60, description="all responses")
        assert_available(nginx, instances, row)
        assert swarm.ended() == 0
        assert sum(metric(each, "fieldbook_client_connections") for each in instances) < 200


@pytest.mark.usefixtures("_untouched", "_no_connection_closed_early")
def test_slow_request_heads(nginx: Nginx, instances: list[Service], row: str) -> None:
    """1,000 connections send one byte of a header a second, and are replaced when nginx closes them."""

    def trickle(connection: socket.socket) -> None:
        connection.send(b"a")

    head = f"GET /observers HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ".encode()
    with flood(nginx, 1000, head, each_second=trickle, reopens=True) as swarm:
        wait_until_open(swarm)
        assert_available(nginx, instances, row)
        wait_for(lambda: swarm.reopened > 0, timeout=30, description="nginx to close connections")


@pytest.mark.usefixtures("_untouched")
@pytest.mark.parametrize("path", [f"/observers/stream?limit={ROWS}", "/docs/swagger-ui-bundle.js"])
def test_clients_that_never_read(nginx: Nginx, instances: list[Service], row: str, path: str) -> None:
    """500 clients request a stream of 8 MB, or a file of 1.7 MB, and read nothing.

    If the disk of nginx is slow, an instance has to hold more responses than its limit of memory, and closes some.
    """
    with flood(nginx, 500, request(f"GET {path}"), reads=False, receive_buffer=SMALL_BUFFER) as swarm:
        wait_until_open(swarm)
        assert_available(nginx, instances, row)


@pytest.mark.usefixtures("_untouched", "_no_connection_closed_early")
def test_slow_uploads(nginx: Nginx, instances: list[Service], row: str) -> None:
    """200 clients send one byte of their body a second. No instance sees these requests."""

    def trickle(connection: socket.socket) -> None:
        connection.send(b" ")

    with flood(nginx, 200, UPLOAD, each_second=trickle) as swarm:
        wait_until_open(swarm)
        assert_available(nginx, instances, row)
        assert swarm.ended() == 0
        assert sum(in_flight(instance) for instance in instances) == 0
