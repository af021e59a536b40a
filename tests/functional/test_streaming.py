"""Streaming: formats, memory use, prefetching, aborted streams and disconnected clients."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from tests.support import Service, TcpProxy, raw_request, wait_for
from tests.testbed import database
from tests.testbed.db_io import observers

pytestmark = pytest.mark.timeout(300)

ROWS = 100_000


@pytest.fixture(scope="module")
def large_keyspace(settings: Settings, session: Session, add_observers: Callable[[str, int], None]) -> Iterator[str]:
    """A keyspace with 100,000 observers."""
    with database.new_keyspace(session, settings) as name:
        add_observers(name, ROWS)
        yield name


def peak_memory(pid: int) -> float:
    """Return the peak resident memory of a process so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("/proc/PID/status has no VmHWM")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_rows(start: Callable[..., Service], large_keyspace: str) -> None:
    """A stream of 100,000 rows needs at most 15 MB more peak memory than a stream of 2,000 rows."""
    running = start({"CASSANDRA_KEYSPACE": large_keyspace, "WEB_CONCURRENCY": "1"})
    (worker,) = running.workers()

    def stream(limit: int) -> int:
        lines = 0
        with running.client.stream(
            "GET", f"/observers/stream?limit={limit}", headers={"Accept": "application/x-ndjson"}
        ) as response:
            for chunk in response.iter_bytes():
                lines += chunk.count(b"\n")
        return lines

    assert stream(2_000) == 2_000
    peak_before = peak_memory(worker)
    assert stream(ROWS * 2) == ROWS
    assert peak_memory(worker) - peak_before <= 15


def test_all_formats_have_the_same_rows(live: Service) -> None:
    """JSON, NDJSON and CSV have the same observers in the same order, in a chunked response of several pages."""
    url = "/observers/stream?limit=45&fetch_size=10"
    as_json = live.client.get(url)
    assert as_json.headers["Transfer-Encoding"] == "chunked"
    assert as_json.headers["Content-Type"] == "application/json"
    rows = as_json.json()
    assert len(rows) == 45
    ndjson = live.client.get(url, headers={"Accept": "application/x-ndjson"})
    assert ndjson.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line) for line in ndjson.text.splitlines()] == rows
    as_csv = live.client.get(url, headers={"Accept": "text/csv"})
    assert as_csv.headers["Content-Type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert [row | {"age": int(row["age"])} for row in table] == rows


def test_every_route_and_format_encodes_a_row_identically(live: Service) -> None:
    """Rows that Cassandra encodes as JSON equal those that the service encodes.

    The observer has special characters in its name, and times.
    """
    name = r""""created_at": "2020-01-01 00:00:00.000Z" \\ 'é' 🦊 {"id": 1}, ],"""
    posted = live.client.post("/observers", json={"name": name, "email": "alike@example.org", "age": 150})
    assert posted.status_code == 201, posted.text
    observer = posted.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", observer["created_at"])
    assert live.client.get(f"/observers/{observer['id']}").json() == observer

    def streamed(accept: str) -> str:
        return live.client.get("/observers/stream?limit=100000", headers={"Accept": accept}).text

    csv_rows = [row | {"age": int(row["age"])} for row in csv.DictReader(io.StringIO(streamed("text/csv")))]
    ndjson_rows = [json.loads(line) for line in streamed("application/x-ndjson").splitlines()]
    listed = live.client.get("/observers?limit=100")
    list_rows = listed.json()
    while observer not in list_rows and "next" in listed.links:
        listed = live.client.get(listed.links["next"]["url"])
        list_rows += listed.json()
    for rows_found in (csv_rows, ndjson_rows, json.loads(streamed("application/json")), list_rows):
        assert observer in rows_found


@pytest.mark.parametrize(
    ("accept", "empty"),
    [("application/json", "[]"), ("application/x-ndjson", ""), ("text/csv", "genus,species,sightings\r\n")],
)
def test_empty_stream_is_a_valid_document(live: Service, accept: str, empty: str) -> None:
    """Without rows, the response is a complete, empty document of the format."""
    response = live.client.get("/find/Nothing", headers={"Accept": accept})
    assert (response.status_code, response.text) == (200, empty)


@pytest.mark.parametrize(("limit", "fetch_size"), [(0, 10), (1, 10), (10, 10), (30, 10), (49, 50), (10**12, 10)])
def test_limit_applies_to_the_total_number_of_rows(
    live: Service, observer_count: int, limit: int, fetch_size: int
) -> None:
    """The limit can be below the page size, a multiple of it, or above the number of observers."""
    rows = live.client.get(f"/observers/stream?limit={limit}&fetch_size={fetch_size}").json()
    assert len(rows) == min(limit, observer_count)
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.fixture
def observer_count(session: Session, settings: Settings) -> int:
    return int(session.execute(f"SELECT COUNT(*) FROM {settings.cassandra_keyspace}.observers").one()[0])


def test_head_response_has_no_body(live: Service) -> None:
    response = live.client.head("/observers/stream")
    assert (response.status_code, response.content) == (200, b"")


# --- aborted streams and disconnected clients --------------------------------------------------------------


@pytest.fixture
def proxied_service(start: Callable[..., Service], proxy: TcpProxy, large_keyspace: str) -> Service:
    """A service with one worker, connected through the proxy to the keyspace with 100,000 observers."""
    running = start({"CASSANDRA_KEYSPACE": large_keyspace, "CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})
    assert len(running.client.get("/observers/stream?limit=10").json()) == 10
    return running


@pytest.mark.slow
def test_error_before_the_first_page_returns_503_or_504(proxied_service: Service, proxy: TcpProxy) -> None:
    """The status line is sent with the first page, so an earlier error returns 503 or 504."""
    proxy.pause()
    late = proxied_service.client.get("/observers/stream", headers={"X-Request-Timeout": "0.5"})
    assert (late.status_code, late.headers["Content-Type"]) == (504, "application/problem+json")
    proxy.disconnect()
    wait_for(lambda: proxied_service.client.get("/observers/stream").status_code == 503, description="503")


@pytest.mark.slow
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
def test_error_after_the_first_page_aborts_the_stream(proxied_service: Service, proxy: TcpProxy, accept: str) -> None:
    """The final chunk and, in JSON, the closing bracket are missing.

    The log names the aborted stream.
    """
    body = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        proxied_service.client.stream("GET", f"/observers/stream?limit={ROWS}", headers={"Accept": accept}) as response,
    ):
        assert response.status_code == 200
        for chunk in response.iter_raw():
            if not body:
                proxy.disconnect()
            body += chunk
    assert body
    assert not body.endswith(b"]")
    proxied_service.wait_for_log("stream /observers/stream aborted after")


@pytest.mark.slow
def test_http_1_0_aborted_stream_ends_with_a_reset(proxied_service: Service, proxy: TcpProxy) -> None:
    """HTTP/1.0 has no chunks: a complete body ends with a normal close, an incomplete body with a reset."""
    with raw_request(proxied_service.port, "1.0", "/observers/stream?limit=5000") as connection:
        data = b""
        while part := connection.recv(65536):
            data += part
        assert len(json.loads(data.partition(b"\r\n\r\n")[2])) == 5000
    with raw_request(proxied_service.port, "1.0", f"/observers/stream?limit={ROWS}") as connection:
        assert connection.recv(1000)
        proxy.disconnect()
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass


@pytest.mark.slow
def test_http_1_0_stream_of_a_killed_worker_ends_with_a_reset(proxied_service: Service) -> None:
    """If the worker is killed during a stream, the kernel resets the connection."""
    with raw_request(proxied_service.port, "1.0", f"/observers/stream?limit={ROWS}") as connection:
        assert connection.recv(1000)
        (worker,) = proxied_service.workers()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass


@pytest.mark.slow
def test_fetching_stops_when_the_client_disconnects(proxied_service: Service, proxy: TcpProxy) -> None:
    """After the client disconnects, Cassandra sends at most the two pages that were already requested."""
    before = proxy.bytes_to_client
    assert len(proxied_service.client.get("/observers/stream?limit=1000&fetch_size=1000").json()) == 1000
    page_bytes = proxy.bytes_to_client - before
    before = proxy.bytes_to_client
    with raw_request(proxied_service.port, "1.1", f"/observers/stream?limit={ROWS}&fetch_size=1000") as connection:
        connection.recv(1000)
    wait_for(lambda: "client disconnected after" in proxied_service.log_text(), description="the log line")
    at_disconnect = proxy.bytes_to_client
    assert at_disconnect - before < ROWS / 1000 / 2 * page_bytes
    wait_until_idle(proxy)
    # A tenth of a page is for the driver's heartbeats, and for rows of different length.
    assert proxy.bytes_to_client - at_disconnect < 2.1 * page_bytes


def wait_until_idle(proxy: TcpProxy) -> None:
    """Wait until Cassandra sends less than a page in half a second."""

    def is_idle() -> bool:
        count = proxy.bytes_to_client
        time.sleep(0.5)
        return proxy.bytes_to_client - count < 10_000

    wait_for(is_idle, description="Cassandra to stop sending")


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "pages_ahead"), [(2000, 1.0), (ROWS, 1.8)])
def test_next_pages_are_prefetched(
    settings: Settings, proxy: TcpProxy, large_keyspace: str, limit: int, pages_ahead: float
) -> None:
    """While the client reads one page, the driver fetches one more page, or two token ranges of 0.9 pages."""
    proxied_settings = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1",), "cassandra_port": proxy.port})
    session = db_connect.open_session(proxied_settings, large_keyspace)
    try:
        observers.retrieve_observers_page(session, 10, None, QueryOptions())
        before = proxy.bytes_to_client
        observers.retrieve_observers_page(session, 1000, None, QueryOptions())
        page_bytes = proxy.bytes_to_client - before
        before = proxy.bytes_to_client
        pages = observers.stream_observers(session, limit, 1000, QueryOptions())
        next(pages)
        wait_for(
            lambda: proxy.bytes_to_client - before > (0.8 + pages_ahead) * page_bytes,
            description="the prefetched pages",
        )
        time.sleep(0.5)
        assert proxy.bytes_to_client - before < (1.2 + pages_ahead) * page_bytes
        pages.close()
    finally:
        session.cluster.shutdown()


@pytest.mark.parametrize(
    "deleted", [pytest.param(0.0, marks=pytest.mark.slow), 0.5, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_token_ranges_cover_all_rows(
    settings: Settings, session: Session, add_observers: Callable[[str, int], None], deleted: float
) -> None:
    """A scan by token ranges returns every observer once, in token order, for every page size.

    Plain paging returns the same order. If half or all of the tokens have only tombstones, the scan's estimate of the
    row density is wrong.
    """
    with database.new_keyspace(session, settings) as name:
        add_observers(name, 2000)
        own_session = db_connect.open_session(settings, name)
        try:
            stored = [row[0] for row in session.execute(f"SELECT id FROM {name}.observers")]
            deleted_count = int(len(stored) * deleted)
            for observer_id in stored[:deleted_count]:
                session.execute(f"DELETE FROM {name}.observers WHERE id = %s", (observer_id,))
            remaining = list(map(str, stored[deleted_count:]))
            for fetch_size in (10, 100, 777):
                for limit in (3 * fetch_size, 1999, 10**9):
                    pages = list(observers.stream_observers(own_session, limit, fetch_size, QueryOptions()))
                    assert [json.loads(text)["id"] for page in pages for text in page] == remaining[:limit]
                    assert all(0 < len(page) <= fetch_size for page in pages)
        finally:
            own_session.cluster.shutdown()


@pytest.mark.slow
def test_deadline_applies_to_the_whole_stream(proxied_service: Service) -> None:
    """X-Request-Timeout limits the whole stream: after the deadline the stream is aborted."""
    began = time.monotonic()
    with (
        pytest.raises(httpx.RemoteProtocolError),
        proxied_service.client.stream(
            "GET", f"/observers/stream?limit={ROWS}&fetch_size=10", headers={"X-Request-Timeout": "0.5"}
        ) as response,
    ):
        for _ in response.iter_raw():
            pass
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_requests_are_served_during_a_stalled_stream(proxied_service: Service) -> None:
    """A client that does not read its stream occupies one thread; other requests are served."""
    with raw_request(proxied_service.port, "1.1", f"/observers/stream?limit={ROWS}") as stalled:
        stalled.recv(100)
        responses: list[Any] = [proxied_service.client.get("/observers?limit=1").status_code for _ in range(5)]
    assert responses == [200] * 5
