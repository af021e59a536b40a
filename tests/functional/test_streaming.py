"""Streams: whole in every format, flat in memory, and never a part that passes for the whole."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage import db_connect, db_initialize
from storage.cql import QueryOptions
from storage.cql.row_encoding import JsonRows
from storage.db_io import users
from storage.db_io.users import SELECT_USERS_BY_AGE
from tests.support import Service, TcpProxy, raw_request, wait_for

pytestmark = pytest.mark.timeout(300)

ROWS = 200_000


@pytest.fixture(scope="module")
def many(settings: Settings, session: Session, add_users: Callable[[str, int], None]) -> Iterator[str]:
    """A keyspace with 200,000 users."""
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    own = settings.model_copy(update={"cassandra_keyspace": name})
    db_initialize.initialize(own, samples=False, say=lambda line: None)
    add_users(name, ROWS)
    yield name
    session.execute(f"DROP KEYSPACE {name}", timeout=60)


def peak_memory(pid: int) -> float:
    """MB; Linux's own account of the largest resident size so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_rows(start: Callable[..., Service], many: str) -> None:
    """A worker that streams 200,000 rows peaks at most 15 MB above one that streamed 2,000."""
    running = start({"CASSANDRA_KEYSPACE": many, "WEB_CONCURRENCY": "1"})
    (worker,) = running.workers()

    def stream(limit: int) -> int:
        lines = 0
        with running.client.stream(
            "GET", f"/users/stream?limit={limit}", headers={"Accept": "application/x-ndjson"}
        ) as response:
            for chunk in response.iter_bytes():
                lines += chunk.count(b"\n")
        return lines

    assert stream(2_000) == 2_000
    small = peak_memory(worker)
    assert stream(ROWS * 2) == ROWS
    assert peak_memory(worker) - small <= 15


def test_formats_carry_the_same_rows(live: Service) -> None:
    """JSON, NDJSON and CSV hold the same users in the same order, chunked, over several pages."""
    url = "/users/stream?limit=45&fetch_size=10"
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


def test_lists_and_nulls_in_csv(live: Service) -> None:
    """A list is JSON in its cell, a missing value an empty one, and a comma or a quote changes no cell."""
    genus = f"Vulpes {uuid.uuid4().hex[:8]}"
    live.client.post("/animal", json={"genus": genus, "species": 'a "b", c', "taxonomy": ["x", "y,z"]})
    response = live.client.get(f"/animal/{genus}", headers={"Accept": "text/csv"})
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert row["species"] == 'a "b", c'
    assert json.loads(row["taxonomy"]) == ["x", "y,z"]
    assert row["size_cm"] == ""


def test_all_ways_write_a_user_alike(live: Service) -> None:
    """What the server writes as JSON is what the service writes: text with everything awkward in it, and times."""
    name = r""""created_at": "2020-01-01 00:00:00.000Z" \\ 'é' 🦊 {"id": 1}, ],"""
    posted = live.client.post("/users", json={"name": name, "email": "alike@example.org", "age": 150})
    assert posted.status_code == 201, posted.text
    user = posted.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", user["created_at"])
    assert live.client.get(f"/users/{user['id']}").json() == user

    def streamed(accept: str) -> str:
        return live.client.get("/users/stream?limit=100000&age_filter=150", headers={"Accept": accept}).text

    pages = live.client.get("/users/stream/pages?fetch_size=5000&age_filter=150").json()["users"]
    of_csv = [row | {"age": int(row["age"])} for row in csv.DictReader(io.StringIO(streamed("text/csv")))]
    of_ndjson = [json.loads(line) for line in streamed("application/x-ndjson").splitlines()]
    listed = live.client.get("/users?limit=100")
    in_list = listed.json()
    while user not in in_list and "next" in listed.links:
        listed = live.client.get(listed.links["next"]["url"])
        in_list += listed.json()
    for found in (pages, of_csv, of_ndjson, json.loads(streamed("application/json")), in_list):
        assert user in found


@pytest.mark.parametrize(
    "moment", ["2026-11-21 06:50:04.610Z", "2026-11-21T06:50:04.610+0000", "2026-11-21T06:50:04.61"]
)
def test_times_of_a_server_that_writes_them_in_another_way(moment: str) -> None:
    """Also where the first row has none to tell the way by."""
    encoded = JsonRows(SELECT_USERS_BY_AGE, ("created_at",))
    rows = [(json.dumps({"id": number, "created_at": at}),) for number, at in enumerate([None, moment])]
    for some in (rows, rows[1:]):
        found = [json.loads(text) for text in encoded.decode(some)]
        assert found[-1] == {"id": 1, "created_at": "2026-11-21T06:50:04.610Z"}


@pytest.mark.parametrize(
    ("accept", "empty"),
    [("application/json", "[]"), ("application/x-ndjson", ""), ("text/csv", "genus,species,sightings\r\n")],
)
def test_nothing_to_stream(live: Service, accept: str, empty: str) -> None:
    """No rows are still a whole document of the format."""
    response = live.client.get("/plant/Nothing", headers={"Accept": accept})
    assert (response.status_code, response.text) == (200, empty)


@pytest.mark.parametrize(("limit", "fetch_size"), [(0, 10), (1, 10), (10, 10), (30, 10), (49, 50), (10**12, 10)])
def test_limit_is_of_rows_in_all(live: Service, keyspace_size: int, limit: int, fetch_size: int) -> None:
    """The limit holds whatever the size of a page: below it, a multiple of it, above all there is."""
    rows = live.client.get(f"/users/stream?limit={limit}&fetch_size={fetch_size}").json()
    assert len(rows) == min(limit, keyspace_size)
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.fixture
def keyspace_size(session: Session, settings: Settings) -> int:
    return int(session.execute(f"SELECT COUNT(*) FROM {settings.cassandra_keyspace}.users").one()[0])


def test_age_filter(start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]) -> None:
    """A stream with age_filter holds every user of that age or more and nobody else."""
    add_users(keyspace, 1000)
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    ages = [row["age"] for row in running.client.get("/users/stream?limit=5000&fetch_size=10&age_filter=90").json()]
    assert sorted(ages) == [age for age in range(90, 100) for _ in range(10)]


def test_age_filter_uses_the_index(session: Session, settings: Settings) -> None:
    """On a server with storage-attached indexes the database looks the ages up; it does not filter all rows."""
    if int(session.execute("SELECT release_version FROM system.local").one()[0].split(".")[0]) < 5:
        pytest.skip("this server has no storage-attached indexes; it filters")
    cql = SELECT_USERS_BY_AGE.cql.replace("{keyspace}", settings.cassandra_keyspace)
    trace = session.execute(session.prepare(cql), (90,), trace=True).get_query_trace()
    assert any("users_age" in event.description for event in trace.events)


def test_age_filter_without_the_index(
    session: Session, settings: Settings, keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """Where a server has no such index, its own filtering gives the same rows, page by page."""
    add_users(keyspace, 300)
    session.execute(f"DROP INDEX {keyspace}.users_age", timeout=60)
    own = db_connect.open_session(settings, keyspace)
    try:
        pages = list(users.stream_users(own, 1000, 10, 95, QueryOptions()))
        assert sum(map(len, pages)) == 15
        first = users.retrieve_users_page(own, 10, 95, None, QueryOptions())
        second = users.retrieve_users_page(own, 10, 95, first.paging_state, QueryOptions())
        assert first.paging_state is not None
        assert len(set(first.rows + second.rows)) == 15
    finally:
        own.cluster.shutdown()


def test_head_has_no_body(live: Service) -> None:
    response = live.client.head("/users/stream")
    assert (response.status_code, response.content) == (200, b"")


# --- when something goes wrong -----------------------------------------------------------------------------


@pytest.fixture
def wired(start: Callable[..., Service], proxy: TcpProxy, many: str) -> Service:
    """A service on the 200,000 users, with Cassandra behind the proxy, one worker, and its connection made."""
    running = start({"CASSANDRA_KEYSPACE": many, "CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})
    assert len(running.client.get("/users/stream?limit=10").json()) == 10
    return running


def test_an_early_fault_has_its_own_status(wired: Service, proxy: TcpProxy) -> None:
    """Before the first page there is no status line: a fault then is an error like any other."""
    proxy.pause()
    late = wired.client.get("/users/stream", headers={"X-Request-Timeout": "0.5"})
    assert (late.status_code, late.headers["Content-Type"]) == (504, "application/problem+json")
    proxy.disconnect()
    wait_for(lambda: wired.client.get("/users/stream").status_code == 503, what="503")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
def test_a_fault_midway_cuts_the_connection(wired: Service, proxy: TcpProxy, accept: str) -> None:
    """The client can tell that rows are missing: no last chunk, in JSON no closing bracket; the log says so."""
    body = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        wired.client.stream("GET", f"/users/stream?limit={ROWS}", headers={"Accept": accept}) as response,
    ):
        assert response.status_code == 200
        for chunk in response.iter_raw():
            if not body:
                proxy.disconnect()
            body += chunk
    assert body
    assert not body.endswith(b"]")
    assert "stream /users/stream cut after" in wired.log_text()


def test_http_1_0_gets_a_whole_body_or_a_reset(wired: Service, proxy: TcpProxy) -> None:
    """Without chunks a body ends where the connection does: a part must end in a reset, not in a plain close."""
    with raw_request(wired.port, "1.0", "/users/stream?limit=5000") as connection:
        data = b""
        while part := connection.recv(65536):
            data += part
        assert len(json.loads(data.partition(b"\r\n\r\n")[2])) == 5000
    with raw_request(wired.port, "1.0", f"/users/stream?limit={ROWS}") as connection:
        assert connection.recv(1000)
        proxy.disconnect()
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass


def test_http_1_0_gets_a_reset_from_a_worker_that_is_killed(wired: Service) -> None:
    """Also when there is nobody left to say anything, a part does not end in a plain close."""
    with raw_request(wired.port, "1.0", f"/users/stream?limit={ROWS}") as connection:
        assert connection.recv(1000)
        (worker,) = wired.workers()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass


def test_a_client_that_leaves_stops_the_fetching(wired: Service, proxy: TcpProxy) -> None:
    """Nothing more is read from Cassandra for a client that is gone."""
    before = proxy.bytes_to_client
    whole = len(wired.client.get("/users/stream?limit=10000").content) * ROWS // 10000
    with raw_request(wired.port, "1.1", f"/users/stream?limit={ROWS}") as connection:
        connection.recv(1000)
    wait_for(lambda: "client disconnected" in wired.log_text(), what="the log line")
    left = proxy.bytes_to_client - before
    assert left < whole / 2
    wait_until_still(proxy)
    # What was on its way by then: one page, and the driver's heartbeats.
    assert proxy.bytes_to_client - before - left < 1.2 * whole / ROWS * 1000


def wait_until_still(proxy: TcpProxy) -> None:
    """Until less than a page has come for half a second."""

    def still() -> bool:
        count = proxy.bytes_to_client
        time.sleep(0.5)
        return proxy.bytes_to_client - count < 10_000

    wait_for(still, what="silence on the wire")


@pytest.mark.parametrize(("limit", "ahead"), [(2000, 1.0), (ROWS, 1.8)])
def test_the_next_pages_are_fetched_meanwhile(
    settings: Settings, proxy: TcpProxy, many: str, limit: int, ahead: float
) -> None:
    """While a page is with its consumer, one more is on its way, or two token ranges of nine tenths of a page."""
    through = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1",), "cassandra_port": proxy.port})
    session = db_connect.open_session(through, many)
    try:
        users.retrieve_users_page(session, 10, None, None, QueryOptions())
        before = proxy.bytes_to_client
        users.retrieve_users_page(session, 1000, None, None, QueryOptions())
        one = proxy.bytes_to_client - before
        before = proxy.bytes_to_client
        pages = users.stream_users(session, limit, 1000, None, QueryOptions())
        next(pages)
        wait_for(lambda: proxy.bytes_to_client - before > (0.8 + ahead) * one, what="what comes next")
        time.sleep(0.5)
        assert proxy.bytes_to_client - before < (1.2 + ahead) * one
        pages.close()
    finally:
        session.cluster.shutdown()


@pytest.mark.parametrize("deleted", [0.0, 0.5, 1.0])
def test_token_ranges_miss_nothing(
    settings: Settings, session: Session, add_users: Callable[[str, int], None], deleted: float
) -> None:
    """All users once and in the order of their tokens, as plain paging has them, whatever the size of a page.

    Also where the first half of the tokens, or all, has only tombstones: the density is then not what it seems.
    """
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    own = settings.model_copy(update={"cassandra_keyspace": name})
    db_initialize.initialize(own, samples=False, say=lambda line: None)
    try:
        add_users(name, 2000)
        opened = db_connect.open_session(own, name)
        try:
            stored = [row[0] for row in session.execute(f"SELECT id FROM {name}.users")]
            gone = int(len(stored) * deleted)
            for user_id in stored[:gone]:
                session.execute(f"DELETE FROM {name}.users WHERE id = %s", (user_id,))
            left = list(map(str, stored[gone:]))
            for fetch_size in (10, 100, 777):
                for limit in (3 * fetch_size, 1999, 10**9):
                    pages = list(users.stream_users(opened, limit, fetch_size, None, QueryOptions()))
                    assert [json.loads(text)["id"] for page in pages for text in page] == left[:limit]
                    assert all(0 < len(page) <= fetch_size for page in pages)
        finally:
            opened.cluster.shutdown()
    finally:
        session.execute(f"DROP KEYSPACE {name}", timeout=60)


def test_a_deadline_holds_for_the_whole_stream(wired: Service) -> None:
    """X-Request-Timeout bounds a stream too: past it the connection is cut."""
    began = time.monotonic()
    with (
        pytest.raises(httpx.RemoteProtocolError),
        wired.client.stream(
            "GET", f"/users/stream?limit={ROWS}&fetch_size=10", headers={"X-Request-Timeout": "0.5"}
        ) as response,
    ):
        for _ in response.iter_raw():
            pass
    assert time.monotonic() - began < 10


def test_requests_are_answered_beside_a_stream(wired: Service) -> None:
    """A client that does not read its stream takes one thread; others are served."""
    with raw_request(wired.port, "1.1", f"/users/stream?limit={ROWS}") as stalled:
        stalled.recv(100)
        responses: list[Any] = [wired.client.get("/users?limit=1").status_code for _ in range(5)]
    assert responses == [200] * 5
