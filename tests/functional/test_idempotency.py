"""Idempotency-Key: retries of a request create its observers once and return the first response."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage.cql import QueryOptions, Statement
from storage.db_io import idempotency
from storage.db_io.versioned import VersionedTable
from storage.errors import StorageTimeout
from tests.support import Service, TcpProxy, wait_for
from tests.testbed.db_io import observers
from web.idempotency import fingerprint

Count = Callable[[str], int]


def new_body() -> dict[str, Any]:
    return {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.org", "age": 36}


def post(live: Service, body: Any, key: str, path: str = "/observers", **headers: str) -> httpx.Response:
    return live.client.post(path, json=body, headers={"Idempotency-Key": key} | headers)


def key_of(key: str, digest: bytes = b"") -> idempotency.IdempotencyKey:
    """The key of a request to POST /observers whose body has this digest."""
    return idempotency.IdempotencyKey("anonymous POST /observers", key, digest, earlier_fingerprint=lambda: digest)


@pytest.fixture
def count(session: Session, settings: Settings) -> Count:
    """Count the observers with this email address, directly in Cassandra: `count(email)`."""

    def observers_with(email: str) -> int:
        cql = f"SELECT COUNT(*) FROM {settings.cassandra_keyspace}.observers WHERE email = %s ALLOW FILTERING"
        return int(session.execute(cql, (email,)).one()[0])

    return observers_with


def test_retry_returns_the_first_response(live: Service, count: Count) -> None:
    """Status, body, Location and ETag equal those of the first response, and one observer exists."""
    body, key = new_body(), uuid.uuid4().hex
    first = post(live, body, key)
    assert first.status_code == 201
    reordered = live.client.post(
        "/observers",
        content=json.dumps(dict(reversed(body.items())), indent=4),
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )
    for retry in (post(live, body, key), reordered):
        assert (retry.status_code, retry.json()) == (201, first.json())
        for header in ("Location", "ETag"):
            assert retry.headers[header] == first.headers[header]
    assert live.client.get(first.headers["Location"]).headers["ETag"] == first.headers["ETag"]
    assert count(body["email"]) == 1


def test_retried_batch_creates_its_observers_once(live: Service, count: Count) -> None:
    """Each observer of the batch is created once, and the retry returns the same observers."""
    body, key = [new_body() for _ in range(20)], uuid.uuid4().hex
    first, second = (post(live, body, key, "/observers/batch") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert [count(observer["email"]) for observer in body] == [1] * 20


def test_key_with_another_body_is_rejected(live: Service, count: Count) -> None:
    """The error names the header, no observer is created, and the first response stays stored."""
    body, other, key = new_body(), new_body(), uuid.uuid4().hex
    first = post(live, body, key)
    rejected = post(live, other, key)
    assert rejected.status_code == 422
    assert rejected.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert count(other["email"]) == 0
    assert post(live, body, key).json() == first.json()


def test_keys_are_scoped_to_a_route(live: Service) -> None:
    """The same key can be used on two routes independently."""
    body, key = new_body(), uuid.uuid4().hex
    assert post(live, body, key).status_code == 201
    assert post(live, [body], key, "/observers/batch").status_code == 201


def test_concurrent_requests_with_one_key_create_one_observer(live: Service, count: Count) -> None:
    """One of the requests creates the observer; the others return its response, or 409 with Retry-After."""
    for _ in range(5):
        body, key = new_body(), uuid.uuid4().hex
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda _: post(live, body, key), range(8)))  # noqa: B023
        assert {response.status_code for response in responses} <= {201, 409}
        created = [response.json() for response in responses if response.status_code == 201]
        assert created
        assert all(observer == created[0] for observer in created)
        assert all("Retry-After" in response.headers for response in responses if response.status_code == 409)
        assert count(body["email"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "caf\u00e9", "a,a"])
def test_invalid_idempotency_keys_are_rejected(live: Service, count: Count, key: str) -> None:
    """An invalid key returns 422, and no observer is created."""
    body = new_body()
    response = live.client.post("/observers", json=body, headers={"Idempotency-Key": key.encode()})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert count(body["email"]) == 0


def test_key_can_be_reused_after_an_invalid_body(live: Service) -> None:
    """A request that fails validation does not store its key; the corrected request can use the same key."""
    key = uuid.uuid4().hex
    assert post(live, new_body() | {"age": 151}, key).status_code == 422
    assert post(live, new_body(), key).status_code == 201


class Crash(BaseException):
    """Simulates the end of the process: no handler of Exception catches it."""


@pytest.fixture
def crash(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[..., observers.Observer]:
    """Simulate a first request to POST /observers that crashes before or after its observer is stored."""

    def crashing_request(body: dict[str, Any], key: str, *, stored: bool) -> observers.Observer:
        idempotency_key = key_of(key, fingerprint(body))
        observer = observers.TABLE.new(body)
        options = QueryOptions(deadline=time.monotonic() + 2.0)
        create_observers = observers.TABLE.create

        def create_and_crash(session: Session, new: Sequence[observers.Observer], options: QueryOptions) -> None:
            if stored:
                create_observers(session, new, options)
            raise Crash

        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(observers.TABLE, "create", create_and_crash)
            observers.TABLE.create_once(session, idempotency_key, [observer], options)
        return observer

    return crashing_request


def test_retry_completes_a_crashed_request_after_its_deadline(
    live: Service, count: Count, crash: Callable[..., observers.Observer], session: Session, settings: Settings
) -> None:
    """A retry returns 409 until the crashed request's deadline.

    A later retry creates the observer of the stored response.
    """
    body, key = new_body(), uuid.uuid4().hex
    expected = crash(body, key, stored=False)
    before_deadline = post(live, body, key)
    assert (before_deadline.status_code, before_deadline.headers["Retry-After"]) == (409, "1")
    assert count(body["email"]) == 0

    def response_after_deadline() -> httpx.Response | None:
        response = post(live, body, key)
        return response if response.status_code != 409 else None

    response = wait_for(response_after_deadline, description="a status other than 409")
    assert (response.status_code, response.json()["id"]) == (201, str(expected.id))
    table = f"{settings.cassandra_keyspace}.idempotency_keys"
    cql = f"SELECT TTL(answer), TTL(finished) FROM {table} WHERE scope = %s AND key = %s"
    answer_ttl, finished_ttl = session.execute(cql, ("anonymous POST /observers", key)).one()
    assert finished_ttl < answer_ttl - 30
    assert live.client.get(response.headers["Location"]).status_code == 200
    assert count(body["email"]) == 1


@pytest.mark.parametrize("change", ["PATCH", "DELETE"])
def test_retry_after_a_crash_keeps_later_changes(
    live: Service, count: Count, crash: Callable[..., observers.Observer], session: Session, change: str
) -> None:
    """If the crashed request had stored its observer, a retry does not undo a later change or deletion."""
    body, key = new_body(), uuid.uuid4().hex
    expected = crash(body, key, stored=True)
    url = f"/observers/{expected.id}"
    live.client.request(change, url, json={"age": 99} if change == "PATCH" else None)
    response = wait_for(lambda: (r := post(live, body, key)).status_code == 201 and r, description="201")
    assert response.json()["age"] == 36
    after = live.client.get(url)
    if change == "PATCH":
        assert after.json()["age"] == 99
    else:
        assert after.status_code == 404
        assert count(body["email"]) == 0


def test_failed_request_releases_its_key(live: Service, count: Count) -> None:
    """The retry of a failed request does not have to wait for the deadline of that request."""
    body, key = new_body(), uuid.uuid4().hex
    assert post(live, body, key, **{"X-Consistency-Level": "THREE"}).status_code == 422
    assert post(live, body, key).status_code == 201
    assert count(body["email"]) == 1


@pytest.mark.slow
def test_retries_after_a_network_failure_create_one_observer(
    start: Callable[..., Service], proxy: TcpProxy, count: Count
) -> None:
    """A network failure at any moment of the request, followed by a retry, creates exactly one observer."""
    running = start({"CASSANDRA_PORT": str(proxy.port)})
    assert post(running, new_body(), uuid.uuid4().hex).status_code == 201
    unknown_outcomes = 0
    for delay in (0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012):
        body, key = new_body(), uuid.uuid4().hex
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, running, body, key, **{"X-Request-Timeout": "1"})
            time.sleep(delay)
            proxy.pause(1.2)
            unknown_outcomes += first.result().status_code == 504
        response = wait_for(lambda: (r := post(running, body, key)).status_code == 201 and r, description="201")  # noqa: B023
        assert running.client.get(response.headers["Location"]).status_code == 200
        assert count(body["email"]) == 1
    assert unknown_outcomes


def test_key_can_be_reused_after_a_rejected_request(live: Service, count: Count) -> None:
    """A rejected request does not store its key; the corrected request can use the same key."""
    body, other, key = new_body(), new_body(), uuid.uuid4().hex
    assert post(live, body, key, **{"X-Consistency-Level": "THREE"}).status_code == 422
    assert post(live, other, key).status_code == 201
    assert (count(body["email"]), count(other["email"])) == (0, 1)
    batch = [new_body() | {"name": "\U0001f98a" * 100} for _ in range(100)]
    key = uuid.uuid4().hex
    assert post(live, batch, key, "/observers/batch").status_code == 413
    assert post(live, batch[:10], key, "/observers/batch").status_code == 201


def test_keys_expire_after_24_hours(live: Service, session: Session, settings: Settings) -> None:
    """The stored response expires after 24 hours, the mark `finished` a little earlier.

    A mark that expired later would apply to a later use of the same key.
    """
    key = uuid.uuid4().hex
    post(live, new_body(), key)
    table = f"{settings.cassandra_keyspace}.idempotency_keys"
    cql = f"SELECT TTL(answer), TTL(finished) FROM {table} WHERE scope = %s AND key = %s"
    answer_ttl, finished_ttl = session.execute(cql, ("anonymous POST /observers", key)).one()
    assert 24 * 3600 - 60 < answer_ttl <= 24 * 3600
    assert 24 * 3600 - 180 < finished_ttl < answer_ttl


def test_no_observer_is_created_if_it_is_unknown_whether_the_key_is_stored(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Cassandra's response to the write of the key is lost, the key may not be stored: create no observer."""

    def lose_response(*arguments: Any) -> Any:
        raise StorageTimeout("response lost", may_have_applied=True)

    monkeypatch.setattr(idempotency, "execute", lose_response)
    monkeypatch.setattr(observers.TABLE, "create", lambda *arguments: pytest.fail("an observer was created"))
    key = key_of(uuid.uuid4().hex)
    with pytest.raises(StorageTimeout):
        observers.TABLE.create_once(session, key, [observers.TABLE.new(new_body())], QueryOptions())


class Everything(NamedTuple):
    """A row with values that JSON has no type for."""

    id: Annotated[UUID, "uuid"]
    amount: Annotated[Decimal, "decimal"]
    big: Annotated[int, "varint"]
    ratio: Annotated[float, "double"]
    content: Annotated[bytes, "blob"]
    day: Annotated[date, "date"]
    at: Annotated[str, "time"]
    moments: Annotated[list[datetime], "list<timestamp>"]
    by_number: Annotated[dict[int, Decimal], "map<int, decimal>"]
    by_content: Annotated[dict[bytes, list[str]], "map<blob, frozen<set<text>>>"]
    note: Annotated[str | None, "text"]
    created_at: Annotated[datetime, "timestamp"]
    updated_at: Annotated[datetime, "timestamp"]
    version: Annotated[UUID, "uuid"]


def test_stored_response_keeps_values_of_every_type(session: Session, settings: Settings) -> None:
    """A retry returns rows equal to those of the first request, also for values that JSON has no type for."""
    insert = Statement(
        "insert_stored_row",
        "INSERT INTO {keyspace}.stored_rows ({columns}) VALUES ({values}) USING TIMESTAMP 1",
        Everything._fields,
        kind="write",
        idempotent=False,
    )
    table = VersionedTable(
        "stored_rows",
        Everything,
        noun="row",
        insert=insert,
        select=insert,
        update=insert,
        delete=insert,
        delete_at_version=insert,
    )
    session.execute(
        f"CREATE TABLE {settings.cassandra_keyspace}.stored_rows (id uuid PRIMARY KEY, amount decimal, big varint, "
        "ratio double, content blob, day date, at time, moments list<timestamp>, by_number map<int, decimal>, "
        "by_content map<blob, frozen<set<text>>>, note text, created_at timestamp, updated_at timestamp, version uuid)",
        timeout=60,
    )
    fields = {
        "amount": Decimal("1.10E+40"),
        "big": 2**100,
        "ratio": 0.1,
        "content": b"\xff\x00\n",
        "day": date(1, 1, 1),
        "at": "08:30:00.000000001",
        "moments": [datetime(2026, 1, 1, 12, tzinfo=UTC)],
        "by_number": {-1: Decimal("0.50")},
        "by_content": {b"\xfe": ["a, b", '"\u2028\n']},
        "note": None,
    }
    rows = [table.new(fields), table.new(fields)]
    key = key_of(uuid.uuid4().hex)
    first = table.create_once(session, key, rows, QueryOptions())
    retry = table.create_once(session, key, [table.new(fields)], QueryOptions())
    for created in (first, retry):
        assert created == rows
        assert str(created[0].amount) == "1.10E+40"
