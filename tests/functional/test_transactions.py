"""The guarantees in docs/transactions.md, under races and faults: no lost updates, no restored observers."""

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
from storage.db_io import versioned
from storage.errors import RowNotFound, StorageTimeout, StorageUnavailable, VersionConflict
from tests.support import OBSERVER, Service, TcpProxy
from tests.testbed.db_io import observers


@pytest.fixture
def skewed(settings: Settings) -> Iterator[Callable[[float], Session]]:
    """Open a session whose timestamps differ from the server's clock by some seconds: `skewed(+5)`."""
    sessions = []

    def open_skewed(seconds: float) -> Session:
        session = db_connect.open_session(settings, settings.cassandra_keyspace)
        session.cluster.timestamp_generator = lambda: int((time.time() + seconds) * 1_000_000)
        sessions.append(session)
        return session

    yield open_skewed
    for session in sessions:
        session.cluster.shutdown()


@pytest.mark.parametrize("batch", [False, True], ids=["single observer", "batch"])
def test_writes_with_a_fast_clock_do_not_hide_later_transactions(
    skewed: Callable[[float], Session], batch: bool
) -> None:
    """An observer created by a client with a fast clock can be updated and deleted immediately afterwards.

    Cassandra orders a plain write by the client's clock, and a transaction by the server's clock.
    """
    options = QueryOptions()
    session_ahead = skewed(+5)
    observer = observers.TABLE.new(OBSERVER)
    if batch:
        observers.TABLE.create(session_ahead, [observer, observers.TABLE.new(OBSERVER)], options)
    else:
        observers.TABLE.create(session_ahead, [observer], options)
    changed = observers.TABLE.update(session_ahead, observer.id, {"age": 99}, None, options)
    stored = observers.TABLE.retrieve(session_ahead, observer.id, options)
    assert stored is not None
    assert (stored.age, stored.version) == (99, changed.version)
    observers.TABLE.delete(session_ahead, observer.id, None, options)
    with pytest.raises(RowNotFound):
        observers.TABLE.retrieve(session_ahead, observer.id, options)


@pytest.mark.parametrize("condition", [False, True], ids=["unconditional", "conditional"])
def test_delete_with_a_slow_clock_takes_effect(skewed: Callable[[float], Session], condition: bool) -> None:
    """A client with a slow clock can delete an observer directly after an update."""
    options = QueryOptions()
    session_behind = skewed(-5)
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(session_behind, [observer], options)
    changed = observers.TABLE.update(session_behind, observer.id, {"age": 99}, None, options)
    observers.TABLE.delete(session_behind, observer.id, {changed.version} if condition else None, options)
    with pytest.raises(RowNotFound):
        observers.TABLE.retrieve(session_behind, observer.id, options)


def test_concurrent_conditional_updates_are_not_lost(live: Service) -> None:
    """Fifty clients each add 1 to the same age with If-Match; no acknowledged update is lost."""
    url = live.client.post("/observers", json=OBSERVER | {"age": 0}).headers["Location"]
    unknown_outcomes = []

    def add_one(number: int) -> int:
        conflicts = 0
        with httpx.Client(base_url=live.client.base_url, timeout=60) as client:
            while True:
                read = client.get(url)
                if read.status_code == 503:
                    # One worker may have accepted all fifty connections and be over its concurrency limit.
                    continue
                response = client.patch(
                    url,
                    json={"age": read.json()["age"] + 1},
                    headers={"If-Match": read.headers["ETag"], "X-Request-Timeout": "30"},
                )
                if response.status_code == 200:
                    return conflicts
                if response.status_code == 504:
                    unknown_outcomes.append(number)
                    return conflicts
                assert response.status_code in (412, 503), response.text
                conflicts += response.status_code == 412

    with ThreadPoolExecutor(50) as pool:
        conflicts = sum(pool.map(add_one, range(50)))
    age = live.client.get(url).json()["age"]
    assert 50 - len(unknown_outcomes) <= age <= 50
    assert conflicts > 0, "no two updates were concurrent"
    assert len(unknown_outcomes) < 25


def test_concurrent_unconditional_updates_all_succeed(live: Service) -> None:
    """Concurrent PATCH requests of different fields all return 200, and all changes are stored."""
    url = live.client.post("/observers", json=OBSERVER).headers["Location"]
    changes: list[dict[str, Any]] = [{"name": "Together"}, {"email": "together@example.org"}, {"age": 77}] * 4
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda change: live.client.patch(url, json=change).status_code, changes))
    assert statuses == [200] * 12
    observer = live.client.get(url).json()
    assert (observer["name"], observer["email"], observer["age"]) == ("Together", "together@example.org", 77)


def test_concurrent_updates_do_not_restore_deleted_observers(
    live: Service, session: Session, settings: Settings
) -> None:
    """After each of 300 races of PATCH or PUT with DELETE, no observer and no incomplete row remains."""

    def race(number: int) -> tuple[int, int]:
        url = live.client.post("/observers", json=OBSERVER).headers["Location"]
        barrier = threading.Barrier(2)
        update: list[httpx.Response] = []

        def write() -> None:
            barrier.wait(timeout=30)
            if number % 2:
                update.append(live.client.patch(url, json={"age": 1}))
            else:
                update.append(live.client.put(url, json=OBSERVER))

        writer = threading.Thread(target=write)
        writer.start()
        barrier.wait(timeout=30)
        # Vary the delay, so that DELETE comes before the update's read in some races and after it in others.
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
    assert updates == {200, 404}, "every race had the same winner"
    rows = session.execute(f"SELECT id, name, email, age, version FROM {settings.cassandra_keyspace}.observers")
    assert [row for row in rows if None in row] == []


class _ChangesWithAction(UserDict[str, Any]):
    """Changes that run an action at their first access, between the read and the transaction."""

    def __init__(self, changes: dict[str, Any], action: Callable[[], Any]) -> None:
        super().__init__(changes)
        self._actions = [action]

    def keys(self) -> Any:
        if self._actions:
            self._actions.pop()()
        return super().keys()


@pytest.fixture
def proxied_session(settings: Settings, proxy: TcpProxy) -> Iterator[Session]:
    """A session through the proxy, with all statements of the observers table prepared."""
    proxied_settings = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1",), "cassandra_port": proxy.port})
    session = db_connect.open_session(proxied_settings, settings.cassandra_keyspace)
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(session, [observer], QueryOptions())
    observers.TABLE.update(session, observer.id, {"age": 1}, None, QueryOptions())
    observers.TABLE.delete(session, observer.id, None, QueryOptions())
    yield session
    session.cluster.shutdown()


def test_lost_response_is_resolved_by_a_serial_read(proxied_session: Session, proxy: TcpProxy) -> None:
    """If a transaction is applied but its response is lost, a serial read finds the version that it wrote."""
    options = QueryOptions(timeout=1.0)
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(proxied_session, [observer], options)

    changed = observers.TABLE.update(
        proxied_session, observer.id, _ChangesWithAction({"age": 99}, lambda: proxy.pause(1.3)), None, options
    )
    stored = observers.TABLE.retrieve(proxied_session, observer.id, options)
    assert stored is not None
    assert (stored.age, stored.version) == (99, changed.version)


def test_unknown_outcome_is_reported(proxied_session: Session, proxy: TcpProxy) -> None:
    """If the outcome cannot be determined, the error says that the write may have been applied."""
    options = QueryOptions(deadline=time.monotonic() + 1.0)
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(proxied_session, [observer], QueryOptions())
    with pytest.raises(StorageTimeout) as failure:
        observers.TABLE.update(
            proxied_session, observer.id, _ChangesWithAction({"age": 99}, proxy.pause), None, options
        )
    assert failure.value.may_have_applied


def test_transaction_is_not_retried_after_a_lost_connection(proxied_session: Session, proxy: TcpProxy) -> None:
    """A connection lost during a transaction is an unknown outcome; there is no second attempt."""
    options = QueryOptions(timeout=5.0)
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(proxied_session, [observer], options)

    def disconnect_soon() -> None:
        proxy.pause()
        threading.Timer(0.3, proxy.disconnect).start()

    with pytest.raises(StorageTimeout) as failure:
        observers.TABLE.update(
            proxied_session, observer.id, _ChangesWithAction({"age": 99}, disconnect_soon), None, options
        )
    assert failure.value.may_have_applied


def test_write_that_was_not_sent_is_safe_to_retry(proxied_session: Session, proxy: TcpProxy) -> None:
    """Without a connection nothing is sent, and the error says that a retry is safe."""
    proxy.disconnect()
    with pytest.raises(StorageUnavailable) as failure:
        for _ in range(50):
            # The first attempts may time out, until the driver notices the lost connections.
            try:
                observers.TABLE.create(proxied_session, [observers.TABLE.new(OBSERVER)], QueryOptions(timeout=1.0))
            except StorageTimeout:
                time.sleep(0.1)
    assert failure.value.safe_to_retry


def test_lost_response_at_a_requested_consistency_level_is_an_unknown_outcome(
    proxied_session: Session, proxy: TcpProxy
) -> None:
    """An applied write may not have reached the replicas that the requested consistency level requires."""
    options = QueryOptions(timeout=1.0, consistency_level="ALL")
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(proxied_session, [observer], options)

    with pytest.raises(StorageTimeout) as failure:
        observers.TABLE.update(
            proxied_session, observer.id, _ChangesWithAction({"age": 99}, lambda: proxy.pause(1.3)), None, options
        )
    assert failure.value.may_have_applied


def test_repeated_lost_responses_are_not_reported_as_a_conflict(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update whose responses are lost returns an unknown outcome, not a conflict.

    Its first attempt is applied late, and another client overwrites it. Its second attempt does not undo the write of
    the other client.
    """
    options = QueryOptions()
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(session, [observer], options)
    execute = versioned.execute
    lost_attempts: list[Any] = []

    def lose_response(session: Session, statement: Any, values: Any, options: QueryOptions, *rest: Any) -> Any:
        if statement is not observers.UPDATE_OBSERVER:
            return execute(session, statement, values, options, *rest)
        if not lost_attempts:
            lost_attempts.append(values)
            raise StorageTimeout("response lost", may_have_applied=True)
        monkeypatch.setattr(versioned, "execute", execute)
        assert execute(session, statement, lost_attempts[0], options).rows[0][0]
        observers.TABLE.update(session, observer.id, {"age": 77}, None, options)
        return execute(session, statement, values, options)

    for versions in (None, {observer.version}):
        monkeypatch.setattr(versioned, "execute", lose_response)
        lost_attempts.clear()
        accepted = versions if versions is None else {stored_version(session, observer.id)}
        with pytest.raises(StorageTimeout) as failure:
            observers.TABLE.update(session, observer.id, {"age": 99}, accepted, options)
        assert failure.value.may_have_applied
        stored = observers.TABLE.retrieve(session, observer.id, options)
        assert stored is not None
        assert stored.age == 77


def stored_version(session: Session, observer_id: Any) -> Any:
    stored = observers.TABLE.retrieve(session, observer_id, QueryOptions())
    assert stored is not None
    return stored.version


@pytest.mark.parametrize("level", ["TWO", "THREE"])
@pytest.mark.parametrize(
    ("method", "body"), [("PATCH", {"age": 99}), ("PUT", OBSERVER | {"age": 99}), ("DELETE", None)]
)
@pytest.mark.parametrize("condition", [False, True], ids=["unconditional", "conditional"])
def test_rejected_consistency_level_does_not_start_a_transaction(
    live: Service, level: str, method: str, body: Any, condition: bool
) -> None:
    """An unreachable consistency level is rejected before the transaction starts.

    So no later write completes the transaction.
    """
    created = live.client.post("/observers", json=OBSERVER)
    headers = {"X-Consistency-Level": level} | ({"If-Match": created.headers["ETag"]} if condition else {})
    rejected = live.client.request(method, created.headers["Location"], json=body, headers=headers)
    assert rejected.status_code == 422
    after = live.client.patch(created.headers["Location"], json={"name": "Changed"})
    assert (after.status_code, after.json()["age"]) == (200, OBSERVER["age"])


def test_write_between_read_and_transaction_is_detected(session: Session) -> None:
    """A conditional update is rejected; an unconditional one is applied to the newer version."""
    options = QueryOptions()
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(session, [observer], options)

    def update_name() -> None:
        observers.TABLE.update(session, observer.id, {"name": "First"}, None, options)

    changed = observers.TABLE.update(session, observer.id, _ChangesWithAction({"age": 99}, update_name), None, options)
    assert (changed.name, changed.age) == ("First", 99)
    with pytest.raises(VersionConflict):
        observers.TABLE.update(
            session, observer.id, _ChangesWithAction({"age": 1}, update_name), {changed.version}, options
        )
    stored = observers.TABLE.retrieve(session, observer.id, options)
    assert stored is not None
    assert stored.age == 99


class _Versions:
    """All versions except the excluded ones, as If-None-Match accepts them."""

    def __init__(self) -> None:
        self.excluded: set[Any] = set()

    def __contains__(self, version: object) -> bool:
        return version not in self.excluded


def test_excluded_version_written_between_read_and_transaction_is_detected(session: Session) -> None:
    """The transaction is not applied to a version that If-None-Match excludes, even if the read found another one."""
    options = QueryOptions()
    observer = observers.TABLE.new(OBSERVER)
    observers.TABLE.create(session, [observer], options)
    versions = _Versions()

    def write_excluded_version() -> None:
        versions.excluded.add(observers.TABLE.update(session, observer.id, {"name": "First"}, None, options).version)

    with pytest.raises(VersionConflict):
        observers.TABLE.update(
            session, observer.id, _ChangesWithAction({"age": 99}, write_excluded_version), versions, options
        )
    stored = observers.TABLE.retrieve(session, observer.id, options)
    assert (stored.name, stored.age) == ("First", OBSERVER["age"])
