"""Rows of imports in unlogged batches, written to a real Cassandra."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from cassandra.cluster import ResponseFuture, Session
from cassandra.query import BatchStatement, BatchType

from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions, Statement, bulk_write
from storage.cql.bulk_write import PackedRows, row_binder, write_rows
from storage.errors import BatchTooLarge, StorageError, StorageTimeout
from tests.support import TcpProxy, wait_for
from tests.testbed.db_io.finds import INSERT_FIND
from tests.testbed.db_io.finds import TABLE as FINDS

# Cassandra's own default is 50 KiB.
BATCH_BYTES, SMALL_BATCH_BYTES, REFUSED_BATCH_BYTES = 40_000, 4_000, 200_000
# Batches in flight.
WINDOW = 8
COLUMNS = ("id", "name", "email")
INSERT = Statement(
    "insert_bulk", "INSERT INTO {keyspace}.observers ({columns}) VALUES ({values})", COLUMNS, kind="write"
)


class Bulk:
    """Writes observers, and records the batches of its session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.mark = uuid4().hex
        self.batches: list[BatchStatement] = []
        session.add_request_init_listener(self._record)

    def _record(self, future: ResponseFuture) -> None:
        if isinstance(future.query, BatchStatement):
            self.batches.append(future.query)

    def close(self) -> None:
        self.session.remove_request_init_listener(self._record)

    def observers(self, count: int, size: int = 100) -> list[tuple[UUID, str, str]]:
        """Return new observers, each with a name of this size."""
        return [(uuid4(), "n" * size, self.mark) for _ in range(count)]

    def packed(self, rows: Sequence[Sequence[Any]], statement: Statement = INSERT) -> PackedRows:
        bind = row_binder(self.session, statement, QueryOptions())
        return PackedRows(statement.columns, [bind(row) for row in rows])

    def write(self, rows: Sequence[Sequence[Any]], options: QueryOptions | None = None) -> None:
        write_rows(self.session, INSERT, self.packed(rows), options or QueryOptions())

    def stored(self, rows: Sequence[tuple[UUID, str, str]]) -> list[tuple[UUID, str, str]]:
        """Return those of the rows that are stored."""
        select = self.session.prepare("SELECT id, name, email FROM observers WHERE id = ?")
        futures = [self.session.execute_async(select, (row[0],)) for row in rows]
        return [tuple(row) for future in futures for row in future.result()]

    def counts(self) -> list[int]:
        """Return the number of rows in each batch."""
        return [len(values(batch)) for batch in self.batches]

    def sizes(self) -> list[int]:
        """Return the bytes of each batch, as Cassandra counts them at most."""
        return [sum(len(value) + 24 for row in values(batch) for value in row) for batch in self.batches]


def values(batch: BatchStatement) -> list[list[bytes]]:
    """Return the values of the rows in a batch."""
    return [row for _, _, row in batch._statements_and_parameters]


@pytest.fixture
def bulk(own_session: Session) -> Iterator[Bulk]:
    bulk = Bulk(own_session)
    yield bulk
    bulk.close()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send 14 rows in a batch, so that few rows fill many batches."""
    monkeypatch.setattr(bulk_write, "_BATCH_BYTES", (SMALL_BATCH_BYTES, SMALL_BATCH_BYTES))


# --- packing ---------------------------------------------------------------------------------------------------


def test_rows_of_many_partitions_share_batches_of_at_most_40_kb(bulk: Bulk) -> None:
    """On one node, all rows have the same replicas."""
    rows = bulk.observers(1000)
    bulk.write(rows)
    assert bulk.stored(rows) == rows
    assert sum(bulk.counts()) == 1000
    size = sum(bulk.sizes()) // 1000
    assert all(BATCH_BYTES - size < each <= BATCH_BYTES for each in bulk.sizes()[:-1])
    assert {(batch.batch_type, batch.is_idempotent) for batch in bulk.batches} == {(BatchType.UNLOGGED, True)}


def test_row_larger_than_a_batch_is_written_alone(bulk: Bulk) -> None:
    """Cassandra accepts a batch with one row of any size."""
    rows = [row for count, size in ((1, 50_000), (3, 100), (1, 300_000)) for row in bulk.observers(count, size)] * 2
    bulk.write(rows)
    assert bulk.stored(rows) == rows
    assert bulk.counts() == [1, 3, 1, 1, 3, 1]


def test_no_rows_need_no_batch(bulk: Bulk) -> None:
    bulk.write([])
    assert bulk.batches == []


def test_rows_are_sent_again_in_small_batches_if_cassandra_refuses_large_ones(
    bulk: Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator may have set batch_size_fail_threshold to less than the size of our batches."""
    monkeypatch.setattr(bulk_write, "_BATCH_BYTES", (REFUSED_BATCH_BYTES, SMALL_BATCH_BYTES))
    rows = bulk.observers(2000)
    bulk.write(rows)
    assert bulk.stored(rows) == rows
    small = [count for count, size in zip(bulk.counts(), bulk.sizes(), strict=True) if size <= SMALL_BATCH_BYTES]
    assert sum(small) == 2000
    assert max(bulk.sizes()) > SMALL_BATCH_BYTES


def test_refusal_of_small_batches_is_an_error(bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_write, "_BATCH_BYTES", (REFUSED_BATCH_BYTES, REFUSED_BATCH_BYTES))
    rows = bulk.observers(700)
    with pytest.raises(BatchTooLarge):
        bulk.write(rows)
    assert bulk.stored(rows) == []


# --- rows ------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name(bulk: Bulk) -> None:
    """Another version of the service may have packed the rows: without a column, or with one that is not known."""
    ((observer, name, email),) = bulk.observers(1)
    bind = row_binder(bulk.session, INSERT, QueryOptions())
    encoded = dict(zip(COLUMNS, bind((observer, name, email)), strict=True))
    packed = PackedRows(("email", "color", "id"), [[encoded["email"], b"red", encoded["id"]]])
    write_rows(bulk.session, INSERT, packed, QueryOptions())
    assert bulk.stored([(observer, name, email)]) == [(observer, None, email)]


def test_later_row_with_the_same_key_wins_with_all_columns(bulk: Bulk) -> None:
    """Null replaces a value, and a value null. Without a timestamp for each row, the greatest value would win."""
    statement = FINDS.import_statement
    genus = bulk.mark
    rows = [(genus, f"s{number % 500}", -number) for number in range(4000)]
    rows[3998 - 500] = (genus, "s498", None)
    rows[3999] = (genus, "s499", None)
    packed = bulk.packed(rows, INSERT_FIND)
    first = 1_000_000 * int(time.time()) - len(rows)
    write_rows(bulk.session, statement, packed, QueryOptions(), first_timestamp=first)
    assert len(bulk.batches) > 1

    def stored() -> dict[str, int | None]:
        return dict(bulk.session.execute("SELECT species, sightings FROM finds WHERE genus = %s", (genus,)).all())

    expected = {f"s{number % 500}": -number for number in range(3500, 4000)} | {"s499": None}
    assert stored() == expected
    # A late attempt with the first rows changes nothing.
    late = PackedRows(packed.columns, packed.rows[:500])
    write_rows(bulk.session, statement, late, QueryOptions(), first_timestamp=first)
    assert stored() == expected


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 500, 999])
def test_error_of_any_batch_is_raised(bulk: Bulk, position: int) -> None:
    """Cassandra rejects a batch with a malformed key. Other batches may be stored, so the same rows are sent again."""
    rows = bulk.observers(1000)
    packed = bulk.packed(rows)
    good = packed.rows[position]
    packed.rows[position] = [b"short", *good[1:]]
    with pytest.raises(StorageError, match="UUID should be 16 or 0 bytes"):
        write_rows(bulk.session, INSERT, packed, QueryOptions())
    packed.rows[position] = good
    write_rows(bulk.session, INSERT, packed, QueryOptions())
    assert bulk.stored(rows) == rows


@pytest.mark.usefixtures("small_batches")
def test_no_more_batches_are_sent_after_an_error(bulk: Bulk) -> None:
    """Those in flight complete first."""
    rows = bulk.observers(1500)
    packed = bulk.packed(rows)
    packed.rows[0] = [b"short", *packed.rows[0][1:]]
    with pytest.raises(StorageError):
        write_rows(bulk.session, INSERT, packed, QueryOptions())
    sent = sum(bulk.counts())
    assert sent < 1500
    # The first batch is the one that was rejected.
    assert len(bulk.stored(rows)) == sent - bulk.counts()[0]


# --- concurrency and time --------------------------------------------------------------------------------------


@pytest.fixture
def behind_proxy(settings: Settings, own_session: Session, proxy: TcpProxy) -> Iterator[Bulk]:
    """Writes through the proxy. Its statement is prepared."""
    own = db_connect.open_session(
        settings.model_copy(update={"cassandra_port": proxy.port, "cassandra_speculative_delay": 0}),
        own_session.keyspace,
    )
    bulk = Bulk(own)
    row_binder(own, INSERT, QueryOptions())
    yield bulk
    proxy.resume()
    own.cluster.shutdown()


@pytest.mark.usefixtures("small_batches")
def test_a_limited_number_of_batches_is_in_flight(behind_proxy: Bulk, proxy: TcpProxy) -> None:
    """While Cassandra does not answer, eight batches are sent. Later ones follow only after a response."""
    lock = threading.Lock()
    in_flight: list[int] = [0]

    def count(change: int) -> None:
        with lock:
            in_flight.append(in_flight[-1] + change)

    def sent(future: ResponseFuture) -> None:
        if isinstance(future.query, BatchStatement):
            count(1)
            # Called before the callbacks of the bulk write, which let it send the next batch.
            future.add_callbacks(lambda result: count(-1), lambda error: count(-1))

    rows = behind_proxy.observers(1000)
    behind_proxy.session.add_request_init_listener(sent)
    proxy.pause()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(behind_proxy.write, rows, QueryOptions(timeout=30))
        wait_for(lambda: in_flight[-1] >= WINDOW, description="the batches in flight")
        proxy.resume()
        work.result()
    assert max(in_flight) == WINDOW
    assert in_flight[-1] == 0
    assert len(behind_proxy.batches) > 2 * WINDOW
    assert sum(behind_proxy.counts()) == 1000
    assert behind_proxy.stored(rows) == rows


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("count", [10, 1000])
def test_deadline_passes_while_cassandra_does_not_answer(behind_proxy: Bulk, proxy: TcpProxy, count: int) -> None:
    """The rows fill less than the batches in flight, or more. They may be stored."""
    packed = behind_proxy.packed(behind_proxy.observers(count))
    proxy.pause()
    with pytest.raises(StorageTimeout) as caught:
        write_rows(behind_proxy.session, INSERT, packed, QueryOptions(deadline=time.monotonic() + 0.5))
    assert caught.value.may_have_applied


def test_lost_connection_is_an_error_and_the_rows_can_be_sent_again(behind_proxy: Bulk, proxy: TcpProxy) -> None:
    rows = behind_proxy.observers(1000)
    proxy.pause()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(behind_proxy.write, rows, QueryOptions(timeout=30))
        wait_for(lambda: len(behind_proxy.batches) >= 3, description="the batches in flight")
        proxy.disconnect()
        with pytest.raises(StorageError) as caught:
            work.result()
    assert type(caught.value) is not StorageError
    proxy.reconnect()
    wait_for(lambda: behind_proxy.session.cluster.metadata.all_hosts()[0].is_up, description="the connection")

    def is_written() -> bool:
        try:
            behind_proxy.write(rows)
        except StorageError:
            return False
        return True

    wait_for(is_written, description="the rows")
    assert behind_proxy.stored(rows) == rows
