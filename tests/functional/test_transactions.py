"""No lost update, no resurrection, no shadowed write: what docs/transactions.md promises, under races and faults."""

from __future__ import annotations

import threading
import time
from collections import UserDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.db_io import users
from storage.errors import RowNotFound, StorageTimeout, StorageUnavailable, VersionConflict
from tests.support import USER, Service, TcpProxy


@pytest.fixture
def skewed(settings: Settings) -> Iterator[Callable[[float], Session]]:
    """Makes a session whose timestamps are some seconds from the server's clock: `skewed(+5)`."""
    sessions = []

    def open_skewed(seconds: float) -> Session:
        session = db_connect.open_session(settings, settings.cassandra_keyspace)
        session.cluster.timestamp_generator = lambda: int((time.time() + seconds) * 1_000_000)
        sessions.append(session)
        return session

    yield open_skewed
    for session in sessions:
        session.cluster.shutdown()


@pytest.mark.parametrize("batch", [False, True])
def test_a_clock_ahead_does_not_shadow_later_transactions(skewed: Callable[[float], Session], batch: bool) -> None:
    """A user written under a fast clock takes a change and a deletion that come at once after it.

    A plain write is ordered by the client's clock, a transaction by the server's.
    """
    options = QueryOptions()
    session_ahead = skewed(+5)
    user = users.new_user(USER)
    if batch:
        users.create_users(session_ahead, [user, users.new_user(USER)], options)
    else:
        users.create_users(session_ahead, [user], options)
    changed = users.update_user(session_ahead, user.id, {"age": 99}, None, options)
    stored = users.retrieve_user(session_ahead, user.id, options)
    assert stored is not None
    assert (stored.age, stored.version) == (99, changed.version)
    users.delete_user(session_ahead, user.id, None, options)
    with pytest.raises(RowNotFound):
        users.retrieve_user(session_ahead, user.id, options)


@pytest.mark.parametrize("condition", [False, True])
def test_a_clock_behind_deletes_all_the_same(skewed: Callable[[float], Session], condition: bool) -> None:
    """A deletion under a slow clock is not older than the change before it."""
    options = QueryOptions()
    session_behind = skewed(-5)
    user = users.new_user(USER)
    users.create_users(session_behind, [user], options)
    changed = users.update_user(session_behind, user.id, {"age": 99}, None, options)
    users.delete_user(session_behind, user.id, {changed.version} if condition else None, options)
    with pytest.raises(RowNotFound):
        users.retrieve_user(session_behind, user.id, options)


def test_fifty_writers_lose_no_update(live: Service) -> None:
    """Fifty clients each add one to the same number, by If-Match: every acknowledged one is in the result."""
    url = live.client.post("/users", json=USER | {"age": 0}).headers["Location"]
    unknown = []

    def add_one(number: int) -> int:
        refusals = 0
        with httpx.Client(base_url=live.client.base_url, timeout=60) as client:
            while True:
                read = client.get(url)
                if read.status_code == 503:
                    # All fifty may have come to the same worker.
                    continue
                response = client.patch(
                    url,
                    json={"age": read.json()["age"] + 1},
                    headers={"If-Match": read.headers["ETag"], "X-Request-Timeout": "30"},
                )
                if response.status_code == 200:
                    return refusals
                if response.status_code == 504:
                    unknown.append(number)
                    return refusals
                assert response.status_code in (412, 503), response.text
                refusals += response.status_code == 412

    with ThreadPoolExecutor(50) as pool:
        refusals = sum(pool.map(add_one, range(50)))
    age = live.client.get(url).json()["age"]
    assert 50 - len(unknown) <= age <= 50
    assert refusals > 0, "the writers never met"
    assert len(unknown) < 25


def test_writers_without_conditions_all_get_through(live: Service) -> None:
    """PATCHes of different fields at the same time are all in the result, and every one is answered with 200."""
    url = live.client.post("/users", json=USER).headers["Location"]
    changes: list[dict[str, Any]] = [{"name": "Together"}, {"email": "together@example.org"}, {"age": 77}] * 4
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda change: live.client.patch(url, json=change).status_code, changes))
    assert statuses == [200] * 12
    user = live.client.get(url).json()
    assert (user["name"], user["email"], user["age"]) == ("Together", "together@example.org", 77)


def test_no_update_brings_a_deleted_user_back(live: Service, session: Session, settings: Settings) -> None:
    """300 races of PATCH and PUT with DELETE: the user is gone after each, and no row without a name is left."""

    def race(number: int) -> tuple[int, int]:
        url = live.client.post("/users", json=USER).headers["Location"]
        barrier = threading.Barrier(2)
        update: list[httpx.Response] = []

        def write() -> None:
            barrier.wait(timeout=30)
            if number % 2:
                update.append(live.client.patch(url, json={"age": 1}))
            else:
                update.append(live.client.put(url, json=USER))

        writer = threading.Thread(target=write)
        writer.start()
        barrier.wait(timeout=30)
        # Now before, now after the update's own read.
        time.sleep((number % 10) * 0.0005)
        deleted = live.client.delete(url)
        writer.join()
        assert deleted.status_code == 204, deleted.text
        return update[0].status_code, live.client.get(url).status_code

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(race, range(300)))
    assert {after for _, after in results} == {404}
    updates = {update for update, _ in results}
    assert updates <= {200, 404}
    assert updates == {200, 404}, "the races were all won by the same side"
    rows = session.execute(f"SELECT id, name, email, age, version FROM {settings.cassandra_keyspace}.users")
    assert [row for row in rows if None in row] == []


class _Trigger(UserDict[str, Any]):
    """Changes that do something when they are first looked at: between the read and the transaction."""

    def __init__(self, changes: dict[str, Any], action: Callable[[], Any]) -> None:
        super().__init__(changes)
        self._actions = [action]

    def keys(self) -> Any:
        if self._actions:
            self._actions.pop()()
        return super().keys()


@pytest.fixture
def wired(settings: Settings, proxy: TcpProxy) -> Iterator[Session]:
    """A session through the proxy, with all statements of the users prepared."""
    through = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1",), "cassandra_port": proxy.port})
    session = db_connect.open_session(through, settings.cassandra_keyspace)
    user = users.new_user(USER)
    users.create_users(session, [user], QueryOptions())
    users.update_user(session, user.id, {"age": 1}, None, QueryOptions())
    users.delete_user(session, user.id, None, QueryOptions())
    yield session
    session.cluster.shutdown()


def test_a_lost_answer_is_found_out_by_a_serial_read(wired: Session, proxy: TcpProxy) -> None:
    """The transaction is applied and its answer does not come: the version tells that this write won."""
    options = QueryOptions(timeout=1.0)
    user = users.new_user(USER)
    users.create_users(wired, [user], options)

    changed = users.update_user(wired, user.id, _Trigger({"age": 99}, lambda: proxy.pause(1.3)), None, options)
    stored = users.retrieve_user(wired, user.id, options)
    assert stored is not None
    assert (stored.age, stored.version) == (99, changed.version)


def test_an_unknown_outcome_is_reported_as_unknown(wired: Session, proxy: TcpProxy) -> None:
    """When nothing can be found out, the caller is told that the write may have been applied."""
    options = QueryOptions(deadline=time.monotonic() + 1.0)
    user = users.new_user(USER)
    users.create_users(wired, [user], QueryOptions())
    with pytest.raises(StorageTimeout) as failure:
        users.update_user(wired, user.id, _Trigger({"age": 99}, proxy.pause), None, options)
    assert failure.value.may_have_applied


def test_a_transaction_is_not_sent_twice(wired: Session, proxy: TcpProxy) -> None:
    """A connection lost in the middle of a transaction is an unknown outcome, and never a second attempt."""
    options = QueryOptions(timeout=5.0)
    user = users.new_user(USER)
    users.create_users(wired, [user], options)

    def cut_soon() -> None:
        proxy.pause()
        threading.Timer(0.3, proxy.disconnect).start()

    with pytest.raises(StorageTimeout) as failure:
        users.update_user(wired, user.id, _Trigger({"age": 99}, cut_soon), None, options)
    assert failure.value.may_have_applied


def test_a_write_that_could_not_be_sent_is_unavailable(wired: Session, proxy: TcpProxy) -> None:
    """Nothing was sent: the caller may try again."""
    proxy.disconnect()
    with pytest.raises(StorageUnavailable) as failure:
        for _ in range(50):
            # Until the driver has noticed.
            try:
                users.create_users(wired, [users.new_user(USER)], QueryOptions(timeout=1.0))
            except StorageTimeout:
                time.sleep(0.1)
    assert failure.value.safe_to_retry


def test_a_lost_answer_at_a_level_of_the_callers_own(wired: Session, proxy: TcpProxy) -> None:
    """That the write is applied does not say that it reached the replicas that the caller asked for."""
    options = QueryOptions(timeout=1.0, consistency_level="ALL")
    user = users.new_user(USER)
    users.create_users(wired, [user], options)

    with pytest.raises(StorageTimeout) as failure:
        users.update_user(wired, user.id, _Trigger({"age": 99}, lambda: proxy.pause(1.3)), None, options)
    assert failure.value.may_have_applied


def test_an_answer_that_stays_lost_is_never_a_refusal(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first attempt that lands late, under another client's write: the caller hears "unknown", not "conflict".

    Nor is the other client's write undone by a second attempt.
    """
    options = QueryOptions()
    user = users.new_user(USER)
    users.create_users(session, [user], options)
    send = users.execute
    late: list[Any] = []

    def lossy(session: Session, statement: Any, values: Any, options: QueryOptions, *rest: Any) -> Any:
        if statement is not users.UPDATE_USER:
            return send(session, statement, values, options, *rest)
        if not late:
            late.append(values)
            raise StorageTimeout("lost on the way", may_have_applied=True)
        monkeypatch.setattr(users, "execute", send)
        assert send(session, statement, late[0], options).rows[0][0]
        users.update_user(session, user.id, {"age": 77}, None, options)
        return send(session, statement, values, options)

    for versions in (None, {user.version}):
        monkeypatch.setattr(users, "execute", lossy)
        late.clear()
        accepted = versions if versions is None else {_version(session, user.id)}
        with pytest.raises(StorageTimeout) as failure:
            users.update_user(session, user.id, {"age": 99}, accepted, options)
        assert failure.value.may_have_applied
        stored = users.retrieve_user(session, user.id, options)
        assert stored is not None
        assert stored.age == 77


def _version(session: Session, user_id: Any) -> Any:
    stored = users.retrieve_user(session, user_id, QueryOptions())
    assert stored is not None
    return stored.version


@pytest.mark.parametrize("level", ["TWO", "THREE"])
@pytest.mark.parametrize(("method", "body"), [("PATCH", {"age": 99}), ("PUT", USER | {"age": 99}), ("DELETE", None)])
@pytest.mark.parametrize("condition", [False, True])
def test_a_refused_commit_level_leaves_nothing_behind(
    live: Service, level: str, method: str, body: Any, condition: bool
) -> None:
    """A level that the replication can't do is refused before the transaction begins: no later write finishes it."""
    created = live.client.post("/users", json=USER)
    headers = {"X-Consistency-Level": level} | ({"If-Match": created.headers["ETag"]} if condition else {})
    refused = live.client.request(method, created.headers["Location"], json=body, headers=headers)
    assert refused.status_code == 422
    after = live.client.patch(created.headers["Location"], json={"name": "Poke"})
    assert (after.status_code, after.json()["age"]) == (200, USER["age"])


def test_another_writer_between_read_and_transaction(session: Session) -> None:
    """With a condition the second writer is refused; without one its change is made to the newer user."""
    options = QueryOptions()
    user = users.new_user(USER)
    users.create_users(session, [user], options)

    def interfere() -> None:
        users.update_user(session, user.id, {"name": "First"}, None, options)

    changed = users.update_user(session, user.id, _Trigger({"age": 99}, interfere), None, options)
    assert (changed.name, changed.age) == ("First", 99)
    with pytest.raises(VersionConflict):
        users.update_user(session, user.id, _Trigger({"age": 1}, interfere), {changed.version}, options)
    stored = users.retrieve_user(session, user.id, options)
    assert stored is not None
    assert stored.age == 99
