"""Rows of `idempotency_keys`: those of earlier and later versions of the service, and those that have only marks."""

from __future__ import annotations

import time
import uuid
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage.cql import QueryOptions, bind
from storage.db_io import idempotency
from storage.db_io.idempotency import FORMAT, LIFETIME, IdempotencyKey, RowValues
from tests.support import Service
from tests.testbed.db_io import observers
from web.idempotency import fingerprint

SCOPE = "anonymous POST /observers"
ZOE = {"name": "Zoë 🐢", "email": "zoe@example.org", "age": 36}
BO = {"name": "Bo", "email": "bo@example.org", "age": 7}
# Digests of the validated values of [ZOE] and of [ZOE, BO].
ONE = "e4e91c518a45f856a355d3062c7aeb1f236c600a9bc53cefa02a62ec884f767d"
BOTH = "fa7fa7b4025ff6764f36fb2c673692c6d9b0c348dcdde6d22068feee820164f9"


class Stored(NamedTuple):
    """A row that an earlier version of the service stored, and its response to that request.

    :ivar etag: of a single observer.
    """

    body: Any
    fingerprint: str
    answer: str
    created: list[dict[str, Any]]
    etag: str | None = None


def document(body: dict[str, Any], observer_id: str, created_at: str) -> dict[str, Any]:
    return body | {"id": observer_id, "created_at": created_at, "updated_at": created_at}


# Written by these versions: format 1 is that of version 0.2.0, format 2 that of the commit before format 3.
EARLIER = {
    "format 1": Stored(
        ZOE,
        ONE,
        '[["0ea20713-03b0-44d3-aa8c-1e04fd5173f7","Zoë 🐢","zoe@example.org",36,"2026-11-24T19:43:23.896000+00:00",'
        '"2026-11-24T19:43:23.896000+00:00","49009221-11fc-42f5-b8a1-7bd3b311c457"]]',
        [document(ZOE, "0ea20713-03b0-44d3-aa8c-1e04fd5173f7", "2026-11-24T19:43:23.896Z")],
        '"4900922111fc42f5b8a17bd3b311c457"',
    ),
    "format 1, batch": Stored(
        [ZOE, BO],
        BOTH,
        '[["0aa1a706-0ce9-4cee-8cdd-e50b3eb61056","Zoë 🐢","zoe@example.org",36,"2026-11-24T19:43:23.908000+00:00",'
        '"2026-11-24T19:43:23.908000+00:00","939fb92c-032b-45f4-9a0c-1f842ad37644"],'
        '["bacc90e1-363d-43ff-a2b2-66a58a34e369","Bo","bo@example.org",7,"2026-11-24T19:43:23.908000+00:00",'
        '"2026-11-24T19:43:23.908000+00:00","3cc089c2-502c-4097-a28a-1fa8b61bd972"]]',
        [
            document(ZOE, "0aa1a706-0ce9-4cee-8cdd-e50b3eb61056", "2026-11-24T19:43:23.908Z"),
            document(BO, "bacc90e1-363d-43ff-a2b2-66a58a34e369", "2026-11-24T19:43:23.908Z"),
        ],
    ),
    "format 2": Stored(
        ZOE,
        ONE,
        '[{"id":"DCClx2MYT1+iw1IT3EXIvg==","name":"Wm/DqyDwn5Ci","email":"em9lQGV4YW1wbGUub3Jn","age":"AAAAJA==",'
        '"created_at":"AAABog8VhYk=","updated_at":"AAABog8VhYk=","version":"Q5EuFE87RlOfR1tYgUBW/Q=="}]',
        [document(ZOE, "0c20a5c7-6318-4f5f-a2c3-5213dc45c8be", "2026-11-24T19:43:18.409Z")],
        '"43912e144f3b46539f475b58814056fd"',
    ),
    "format 2, batch": Stored(
        [ZOE, BO],
        BOTH,
        '[{"id":"d9MaFs4kQBat96Gkv0E6Dw==","name":"Wm/DqyDwn5Ci","email":"em9lQGV4YW1wbGUub3Jn","age":"AAAAJA==",'
        '"created_at":"AAABog8Vhao=","updated_at":"AAABog8Vhao=","version":"DMQSKZLpRk6MMGAkdYYEhw=="},'
        '{"id":"8wse1BW6Sfi7DvbFLZzWiA==","name":"Qm8=","email":"Ym9AZXhhbXBsZS5vcmc=","age":"AAAABw==",'
        '"created_at":"AAABog8Vhao=","updated_at":"AAABog8Vhao=","version":"AHbX58osTdyRTwf/X07gXw=="}]',
        [
            document(ZOE, "77d31a16-ce24-4016-adf7-a1a4bf413a0f", "2026-11-24T19:43:18.442Z"),
            document(BO, "f30b1ed4-15ba-49f8-bb0e-f6c52d9cd688", "2026-11-24T19:43:18.442Z"),
        ],
    ),
}

Put = Callable[..., None]


class KeyRow(NamedTuple):
    """A row of `idempotency_keys`."""

    answer: str | None
    finished: bool | None
    answer_ttl: int | None
    finished_ttl: int | None


@pytest.fixture
def put(session: Session, settings: Settings) -> Put:
    """Store columns of a row with a plain write: `put(scope, key, answer="[]", timestamp=1)`."""

    def put_row(scope: str, key: str, timestamp: int | None = None, **columns: Any) -> None:
        using = f"USING TTL {LIFETIME - 60}" + (f" AND TIMESTAMP {timestamp}" if timestamp else "")
        assignments = ", ".join(f"{column} = %s" for column in columns)
        cql = f"UPDATE {settings.cassandra_keyspace}.idempotency_keys {using} SET {assignments}"
        session.execute(f"{cql} WHERE scope = %s AND key = %s", (*columns.values(), scope, key))

    return put_row


@pytest.fixture
def stored(session: Session, settings: Settings) -> Callable[..., KeyRow | None]:
    """Read the row of a key: `stored(key)`; None if it does not exist."""
    cql = (
        f"SELECT answer, finished, TTL(answer), TTL(finished) FROM {settings.cassandra_keyspace}.idempotency_keys "
        "WHERE scope = %s AND key = %s"
    )

    def read(key: str, scope: str = SCOPE) -> KeyRow | None:
        row = session.execute(cql, (scope, key)).one()
        return None if row is None else KeyRow._make(row)

    return read


def post(live: Service, body: Any, key: str) -> httpx.Response:
    path = "/observers/batch" if isinstance(body, list) else "/observers"
    return live.client.post(path, json=body, headers={"Idempotency-Key": key})


# --- versions of the service -------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "not finished"])
@pytest.mark.parametrize("name", EARLIER)
def test_retry_of_a_request_to_an_earlier_version_returns_its_response(
    live: Service, put: Put, stored: Any, name: str, finished: bool
) -> None:
    """A retry after an upgrade gets the first response, and completes the write if that is necessary."""
    row, key = EARLIER[name], uuid.uuid4().hex
    other_body = [BO] if isinstance(row.body, list) else BO
    scope = f"{SCOPE}/batch" if isinstance(row.body, list) else SCOPE
    put(scope, key, fingerprint=bytes.fromhex(row.fingerprint), answer=row.answer, busy_until=0)
    if finished:
        put(scope, key, finished=True)
    marked = stored(key, scope)
    rejected = post(live, other_body, key)
    assert rejected.status_code == 422
    assert rejected.json()["errors"][0]["msg"] == "This key was used with another body."
    for _ in range(2):
        retry = post(live, row.body, key)
        assert (retry.status_code, retry.headers.get("ETag")) == (201, row.etag)
        assert retry.json() == ({"created": 2, "observers": row.created} if row.etag is None else row.created[0])
    if not finished:
        assert [live.client.get(f"/observers/{created['id']}").json() for created in row.created] == row.created
        assert stored(key, scope).finished
        assert stored(key, scope).finished_ttl < marked.answer_ttl - 30


def test_response_of_a_later_version_is_not_available_yet(live: Service, put: Put, stored: Any) -> None:
    """During a rolling deployment a retry may reach an instance of the version before."""
    key, answer = uuid.uuid4().hex, f'{{"format":{FORMAT + 1},"pages":[]}}'
    put(SCOPE, key, fingerprint=b"another digest", answer=answer, busy_until=0)
    response = post(live, ZOE, key)
    assert (response.status_code, response.headers["Retry-After"]) == (409, "1")
    assert "newer version" in response.json()["detail"]
    assert (stored(key).answer, stored(key).finished) == (answer, None)


def test_retry_succeeds_after_columns_were_added_and_removed(live: Service, put: Put, stored: Any) -> None:
    """A column that the stored row lacks reads as null; one that the table lacks is dropped."""
    first_key, key = uuid.uuid4().hex, uuid.uuid4().hex
    first = post(live, ZOE, first_key)
    answer = orjson.loads(stored(first_key).answer)
    (row,) = answer["rows"]
    new_id = uuid.uuid4()
    del row["age"]
    row |= {"id": b64encode(new_id.bytes).decode(), "nickname": "eA=="}
    put(
        SCOPE,
        key,
        fingerprint=fingerprint(ZOE),
        answer=orjson.dumps(answer).decode(),
        busy_until=0,
    )
    for _ in range(2):
        retry = post(live, ZOE, key)
        assert retry.status_code == 201
        assert retry.json() == first.json() | {"id": str(new_id), "age": None}
    assert live.client.get(f"/observers/{new_id}").json() == retry.json()
    # Other tests of this keyspace read all observers, and expect that each has an age.
    assert live.client.delete(f"/observers/{new_id}").status_code == 204


# --- marks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [
        {"busy_until": 0},
        {"finished": True},
        {"finished": True, "timestamp": 2_500_000_000_000_000},
        {"busy_until": 4_000_000_000_000, "timestamp": 2_500_000_000_000_000},
    ],
    ids=["released", "finished", "finished, clock ahead", "busy, clock ahead"],
)
def test_row_that_has_only_a_mark_is_claimed(live: Service, put: Put, stored: Any, mark: dict[str, Any]) -> None:
    """A mark that was stored after its claim was deleted does not make the key unusable."""
    key = uuid.uuid4().hex
    put(SCOPE, key, **mark)
    first = live.client.post("/observers", json=ZOE, headers={"Idempotency-Key": key, "X-Request-Timeout": "5"})
    assert first.status_code == 201, first.text
    assert live.client.get(first.headers["Location"]).json() == first.json()
    assert LIFETIME - 60 < stored(key).answer_ttl <= LIFETIME
    if "timestamp" not in mark:
        assert post(live, ZOE, key).json() == first.json()


def claim(session: Session, key: IdempotencyKey, observer: observers.Observer) -> idempotency.Claim:
    values = bind(session, observers.INSERT_OBSERVER, observer, QueryOptions()).values
    row: RowValues = dict(zip(observers.Observer._fields, values, strict=True))
    return idempotency.claim_key(session, key, [row], QueryOptions())


@pytest.mark.parametrize("mark", [idempotency.finish_key, idempotency.release_key])
@pytest.mark.parametrize("late", [False, True], ids=["before the next claim", "after the next claim"])
@pytest.mark.parametrize("seconds_ahead", [0, 3600])
def test_mark_of_a_deleted_claim_has_no_effect(
    live: Service, session: Session, mark: Callable[..., None], late: bool, seconds_ahead: int
) -> None:
    """A mark that lands after its claim was deleted does not mark the next claim as finished."""
    key = IdempotencyKey(SCOPE, uuid.uuid4().hex, fingerprint(ZOE), lambda: b"")
    options = QueryOptions()
    deleted = claim(session, key, observers.TABLE.new(ZOE))
    idempotency.forget_key(session, key, deleted, options)
    deleted = deleted._replace(mark=deleted.mark + seconds_ahead * 1_000_000)
    if not late:
        mark(session, key, deleted, options)
    observer = observers.TABLE.new(ZOE)
    current = claim(session, key, observer)
    if late:
        mark(session, key, deleted, options)
    assert post(live, ZOE, key.key).status_code == 409
    # The request with the current claim stops before it writes.
    idempotency.release_key(session, key, current, options)
    retry = post(live, ZOE, key.key)
    assert (retry.status_code, retry.json()["id"]) == (201, str(observer.id))
    assert live.client.get(retry.headers["Location"]).json() == retry.json()


def test_mark_counts_if_the_clock_is_behind(live: Service, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deletion of an earlier claim, by Cassandra's clock, does not hide the mark of the next claim."""
    key = IdempotencyKey(SCOPE, uuid.uuid4().hex, fingerprint(ZOE), lambda: b"")
    options = QueryOptions()
    idempotency.forget_key(session, key, claim(session, key, observers.TABLE.new(ZOE)), options)
    an_hour_ago = time.time_ns() - 3600 * 10**9
    observer = observers.TABLE.new(ZOE)
    with monkeypatch.context() as patch:
        patch.setattr(idempotency.time, "time_ns", lambda: an_hour_ago)
        current = claim(session, key, observer)
    idempotency.finish_key(session, key, current, options)
    retry = post(live, ZOE, key.key)
    assert (retry.status_code, retry.json().get("id")) == (201, str(observer.id))
