"""Idempotency-Key: however often a creation is repeated, it is one creation with one answer."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage.cql import QueryOptions
from storage.db_io import idempotency, users
from storage.errors import StorageTimeout
from tests.support import Service, TcpProxy, wait_for

Count = Callable[[str], int]


def new_body() -> dict[str, Any]:
    return {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.org", "age": 36}


def post(live: Service, body: Any, key: str, path: str = "/users", **headers: str) -> httpx.Response:
    return live.client.post(path, json=body, headers={"Idempotency-Key": key} | headers)


@pytest.fixture
def count(session: Session, settings: Settings) -> Count:
    """How many users have an e-mail address: asked of Cassandra itself."""

    def users_with(email: str) -> int:
        cql = f"SELECT COUNT(*) FROM {settings.cassandra_keyspace}.users WHERE email = %s ALLOW FILTERING"
        return int(session.execute(cql, (email,)).one()[0])

    return users_with


def test_a_repeat_gets_the_first_answer(live: Service, count: Count) -> None:
    """Status, body, Location and ETag are those of the first, and there is one user."""
    body, key = new_body(), uuid.uuid4().hex
    first = post(live, body, key)
    assert first.status_code == 201
    again = live.client.post(
        "/users",
        content=json.dumps(dict(reversed(body.items())), indent=4),
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )
    for repeat in (post(live, body, key), again):
        assert (repeat.status_code, repeat.json()) == (201, first.json())
        for header in ("Location", "ETag"):
            assert repeat.headers[header] == first.headers[header]
    assert live.client.get(first.headers["Location"]).headers["ETag"] == first.headers["ETag"]
    assert count(body["email"]) == 1


def test_a_repeat_of_a_batch(live: Service, count: Count) -> None:
    """All of the batch is created once, and the repeat names the same users."""
    body, key = [new_body() for _ in range(20)], uuid.uuid4().hex
    first, second = (post(live, body, key, "/users/batch") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert [count(user["email"]) for user in body] == [1] * 20


def test_the_same_key_with_another_body(live: Service, count: Count) -> None:
    """It is refused, names the header, and creates nothing; the first answer stays."""
    body, other, key = new_body(), new_body(), uuid.uuid4().hex
    first = post(live, body, key)
    refused = post(live, other, key)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert count(other["email"]) == 0
    assert post(live, body, key).json() == first.json()


def test_a_key_belongs_to_its_route(live: Service) -> None:
    """The same key on the other route is another key."""
    body, key = new_body(), uuid.uuid4().hex
    assert post(live, body, key).status_code == 201
    assert post(live, [body], key, "/users/batch").status_code == 201


def test_repeats_at_once(live: Service, count: Count) -> None:
    """Of many at the same time one creates; the others hear its answer, or to come again."""
    for _ in range(5):
        body, key = new_body(), uuid.uuid4().hex
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(live, body, key), range(8)))  # noqa: B023
        assert {answer.status_code for answer in answers} <= {201, 409}
        created = [answer.json() for answer in answers if answer.status_code == 201]
        assert created
        assert all(user == created[0] for user in created)
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 409)
        assert count(body["email"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "caf\u00e9", "a,a"])
def test_keys_that_are_none(live: Service, count: Count, key: str) -> None:
    """A key that breaks the rule is refused before anything is created."""
    body = new_body()
    response = live.client.post("/users", json=body, headers={"Idempotency-Key": key.encode()})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert count(body["email"]) == 0


def test_an_invalid_body_takes_no_key(live: Service) -> None:
    """What is refused by its shape promises nothing: the corrected request may use the same key."""
    key = uuid.uuid4().hex
    assert post(live, new_body() | {"age": 151}, key).status_code == 422
    assert post(live, new_body(), key).status_code == 201


class Crash(BaseException):
    """The process ends here, and tells nobody."""


@pytest.fixture
def crash(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[..., users.User]:
    """A first request of the route that ends before, or after, its user is stored."""

    def first_request(body: dict[str, Any], key: str, *, stored: bool) -> users.User:
        from hashlib import sha256

        import orjson

        fingerprint = sha256(orjson.dumps([body], option=orjson.OPT_SORT_KEYS)).digest()
        promise = idempotency.IdempotencyKey("anonymous POST /users", key, fingerprint)
        user = users.new_user(body)
        options = QueryOptions(deadline=time.monotonic() + 2.0)
        create_users = users.create_users

        def create_and_crash(session: Session, new: Sequence[users.User], options: QueryOptions) -> None:
            if stored:
                create_users(session, new, options)
            raise Crash

        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(users, "create_users", create_and_crash)
            users.create_users_once(session, promise, [user], options)
        return user

    return first_request


def test_a_repeat_waits_and_then_finishes_the_first(
    live: Service, count: Count, crash: Callable[..., users.User], session: Session, settings: Settings
) -> None:
    """After a crash the repeat hears 409 until the first's deadline, then creates the very user that was promised."""
    body, key = new_body(), uuid.uuid4().hex
    promised = crash(body, key, stored=False)
    early = post(live, body, key)
    assert (early.status_code, early.headers["Retry-After"]) == (409, "1")
    assert count(body["email"]) == 0

    def finished() -> httpx.Response | None:
        response = post(live, body, key)
        return response if response.status_code != 409 else None

    response = wait_for(finished, what="an answer")
    assert (response.status_code, response.json()["id"]) == (201, str(promised.id))
    table = f"{settings.cassandra_keyspace}.idempotency_keys"
    cql = f"SELECT TTL(answer), TTL(finished) FROM {table} WHERE scope = %s AND key = %s"
    answer, mark = session.execute(cql, ("anonymous POST /users", key)).one()
    assert mark < answer - 30
    assert live.client.get(response.headers["Location"]).status_code == 200
    assert count(body["email"]) == 1


@pytest.mark.parametrize("change", ["PATCH", "DELETE"])
def test_finishing_undoes_nothing(
    live: Service, count: Count, crash: Callable[..., users.User], session: Session, change: str
) -> None:
    """A promise that was carried out already may be carried out again: later changes and deletions stay."""
    body, key = new_body(), uuid.uuid4().hex
    promised = crash(body, key, stored=True)
    url = f"/users/{promised.id}"
    live.client.request(change, url, json={"age": 99} if change == "PATCH" else None)
    response = wait_for(lambda: (r := post(live, body, key)).status_code == 201 and r, what="201")
    assert response.json()["age"] == 36
    after = live.client.get(url)
    if change == "PATCH":
        assert after.json()["age"] == 99
    else:
        assert after.status_code == 404
        assert count(body["email"]) == 0


def test_a_failed_attempt_lets_the_next_one_in(live: Service, count: Count) -> None:
    """A request that gave up is not at work any more: the repeat need not wait for its deadline."""
    body, key = new_body(), uuid.uuid4().hex
    assert post(live, body, key, **{"X-Consistency-Level": "THREE"}).status_code == 422
    assert post(live, body, key).status_code == 201
    assert count(body["email"]) == 1


def test_a_lost_answer_and_its_repeat(start: Callable[..., Service], proxy: TcpProxy, count: Count) -> None:
    """The network fails at some point of the request: whatever it had done by then, the repeats make one user."""
    running = start({"CASSANDRA_PORT": str(proxy.port)})
    assert post(running, new_body(), uuid.uuid4().hex).status_code == 201
    lost = 0
    for delay in (0.0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012):
        body, key = new_body(), uuid.uuid4().hex
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, running, body, key, **{"X-Request-Timeout": "1"})
            time.sleep(delay)
            proxy.pause(1.2)
            lost += first.result().status_code == 504
        response = wait_for(lambda: (r := post(running, body, key)).status_code == 201 and r, what="201")  # noqa: B023
        assert running.client.get(response.headers["Location"]).status_code == 200
        assert count(body["email"]) == 1
    assert lost


def test_what_was_refused_may_be_asked_again(live: Service, count: Count) -> None:
    """A refusal promises nothing: the same key is good for a request that is corrected."""
    body, other, key = new_body(), new_body(), uuid.uuid4().hex
    assert post(live, body, key, **{"X-Consistency-Level": "THREE"}).status_code == 422
    assert post(live, other, key).status_code == 201
    assert (count(body["email"]), count(other["email"])) == (0, 1)
    users = [new_body() | {"name": "\U0001f98a" * 100} for _ in range(100)]
    key = uuid.uuid4().hex
    assert post(live, users, key, "/users/batch").status_code == 413
    assert post(live, users[:10], key, "/users/batch").status_code == 201


def test_how_long_a_key_lives(live: Service, session: Session, settings: Settings) -> None:
    """24 hours; the mark that it is finished never outlives it, or it would answer for a later use of the key."""
    key = uuid.uuid4().hex
    post(live, new_body(), key)
    table = f"{settings.cassandra_keyspace}.idempotency_keys"
    cql = f"SELECT TTL(answer), TTL(finished) FROM {table} WHERE scope = %s AND key = %s"
    answer, finished = session.execute(cql, ("anonymous POST /users", key)).one()
    assert 24 * 3600 - 60 < answer <= 24 * 3600
    assert 24 * 3600 - 180 < finished < answer


def test_an_unknown_claim_is_unknown(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a claim that got no answer holds is not known, so nothing is created under it."""

    def lost(*arguments: Any) -> Any:
        raise StorageTimeout("lost on the way", may_have_applied=True)

    monkeypatch.setattr(idempotency, "execute", lost)
    monkeypatch.setattr(users, "create_users", lambda *arguments: pytest.fail("a user was created"))
    key = idempotency.IdempotencyKey("anonymous POST /users", uuid.uuid4().hex, b"")
    with pytest.raises(StorageTimeout):
        users.create_users_once(session, key, [users.new_user(new_body())], QueryOptions())
