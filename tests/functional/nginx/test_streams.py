"""Streams through nginx: each page is forwarded at once, and a stream that fails is an error for the client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.functional.nginx.conftest import ROWS
from tests.nginx import HOST, Nginx
from tests.support import Service, TcpProxy, wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

PATH = "/observers/stream"


@pytest.fixture(params=[False, True], ids=["HTTP/1.1", "HTTP/2"])
def client(nginx: Nginx, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with nginx.client(http2=request.param) as client:
        assert client.get("/health/live").http_version == ("HTTP/2" if request.param else "HTTP/1.1")
        yield client


@pytest.fixture(params=["identity", "gzip"])
def headers(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"Accept": "application/x-ndjson", "Accept-Encoding": request.param}


def pause_after(cassandra: TcpProxy, count: int) -> threading.Thread:
    """Pause Cassandra as soon as it has sent `count` bytes more."""
    end = cassandra.bytes_to_client + count

    def watch() -> None:
        while cassandra.bytes_to_client < end:
            time.sleep(0.0005)
        cassandra.pause()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_rows_arrive_before_the_stream_has_ended(
    client: httpx.Client, headers: dict[str, str], instances: list[Service], cassandra: TcpProxy
) -> None:
    """Cassandra stops after a few pages. They are fewer bytes than a buffer of nginx, and the client has them."""
    # 200 pages of 10 rows, each about 2 kB.
    pausing = pause_after(cassandra, 3000)
    try:
        with client.stream("GET", f"{PATH}?limit=2000&fetch_size=10", headers=headers) as response:
            assert response.headers.get("Content-Encoding", "identity") == headers["Accept-Encoding"]
            lines = response.iter_lines()
            first = json.loads(next(lines))
            pausing.join()
            cassandra.resume()
            assert first["name"].startswith("Observer")
            assert sum(1 for _ in lines) == 1999
    finally:
        pausing.join()
        cassandra.resume()


@pytest.fixture
def _reconnect(cassandra: TcpProxy, instances: list[Service]) -> Iterator[None]:
    yield
    cassandra.reconnect()
    wait_for(lambda: all(instance.healthy() for instance in instances), description="the instances to be healthy")


@pytest.mark.usefixtures("_reconnect")
def test_failed_stream_is_an_error_for_the_client(
    client: httpx.Client, headers: dict[str, str], cassandra: TcpProxy
) -> None:
    received = 0
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("GET", f"{PATH}?limit={ROWS}&fetch_size=10", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers.get("Content-Encoding", "identity") == headers["Accept-Encoding"]
        for chunk in response.iter_raw():
            if not received:
                cassandra.disconnect()
            received += len(chunk)
    assert received


@pytest.mark.usefixtures("_reconnect")
def test_http_1_0_client_sees_a_failed_stream_in_json_only(nginx: Nginx, cassandra: TcpProxy) -> None:
    """HTTP/1.0 has no chunks, and nginx closes the connection as after a complete response."""
    with nginx.connect() as connection:
        connection.sendall(f"GET {PATH}?limit={ROWS}&fetch_size=10 HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
        data = connection.recv(65536)
        cassandra.disconnect()
        while part := connection.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 OK\r\n" in head
    assert body.startswith(b"[{")
    assert not body.endswith(b"]")
