"""Writes many rows of a table: unlogged batches of rows with the same replicas, several of them at a time.

A row in such a batch costs this process less than a tenth of a single INSERT, and a third of a row in batches of 5 KiB
(docs/decisions.md). All replicas of a batch hold all of its rows, so its coordinator, one of them, sends no more
messages than for one row. An unlogged batch is not atomic: after an error, some rows may be stored. Callers therefore
write the same rows again.

Rows are the values of a statement in the native protocol's encoding.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

from cassandra import InvalidRequest
from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from storage.cql.driver import value_encoders
from storage.cql.execution import send_write
from storage.cql.options import QueryOptions
from storage.cql.prepared_cache import prepared_cache
from storage.cql.statement import Statement
from storage.cql.translation import invalid_request_message, translate
from storage.errors import BatchTooLarge, RowsRefused, StorageError, StorageTimeout

Values = list[bytes | None]

# Bytes of a batch. Cassandra counts the values, and about 24 bytes for each of them. It rejects batches above 50 KiB
# (batch_size_fail_threshold), or another limit of its operator. The second size is for clusters that reject the first.
_BATCH_BYTES = (40_000, 4_000)
_VALUE_OVERHEAD = 24
# Batches in flight. More of them do not write more rows per second.
_WINDOW = 8

_SIZE = Struct(">i")
_TIMESTAMP = Struct(">q")
_HEAD = Struct(">BH")
_FORMAT = 1


class PackedRows(NamedTuple):
    """Rows with the names of their columns."""

    columns: tuple[str, ...]
    rows: list[Values]


def row_binder(session: Session, statement: Statement, options: QueryOptions) -> Callable[[Sequence[Any]], Values]:
    """The function that encodes the values of a row.

    :raises StorageError: the statement can't be prepared.
    """
    encoders = value_encoders(prepared_cache.get(session, statement, options))
    # The values of the previous row with their encoding. The times of imported rows, for example, are the same object.
    known: list[tuple[Any, bytes | None]] = [(None, None)] * len(encoders)

    def bind(row: Sequence[Any]) -> Values:
        for index, value in enumerate(row):
            if value is not known[index][0]:
                known[index] = (value, encoders[index](value))
        return [encoded for _, encoded in known]

    return bind


def pack_rows(columns: Sequence[str], rows: Sequence[Values]) -> bytes:
    """Rows as bytes: the format, the columns, then each value with its size, as in the native protocol."""
    names = ",".join(columns).encode()
    parts = [_HEAD.pack(_FORMAT, len(names)), names]
    pack = _SIZE.pack
    for row in rows:
        for value in row:
            if value is None:
                parts.append(b"\xff\xff\xff\xff")
            else:
                parts += (pack(len(value)), value)
    return b"".join(parts)


def unpack_rows(data: bytes) -> PackedRows:
    """The rows that :func:`pack_rows` has packed.

    :raises ValueError: a newer version of the service has packed them.
    """
    version, length = _HEAD.unpack_from(data)
    if version != _FORMAT:
        raise ValueError(f"rows of format {version} are not supported")
    position = _HEAD.size + length
    columns = tuple(data[_HEAD.size : position].decode().split(","))
    values: Values = []
    end, unpack = len(data), _SIZE.unpack_from
    while position < end:
        (size,) = unpack(data, position)
        position += 4
        if size < 0:
            values.append(None)
        else:
            values.append(data[position : position + size])
            position += size
    count = len(columns)
    return PackedRows(columns, [values[first : first + count] for first in range(0, len(values), count)])


def write_rows(
    session: Session,
    statement: Statement,
    packed: PackedRows,
    options: QueryOptions,
    *,
    first_timestamp: int | None = None,
) -> None:
    """Write rows and wait until all of them are acknowledged.

    :param statement: an idempotent write. It sets a column that `packed` does not have to null, and ignores columns
        that it does not know: another version of the service may have packed the rows.
    :param first_timestamp: the last value of the statement for the first row, in microseconds; each further row gets
        one more. Of two rows with the same key, the later one therefore wins, with all of its columns. None for a
        statement without this value.
    :raises RowsRefused: Cassandra does not accept the values of a row. Others may be written.
    :raises StorageError: at least one row was not written; others may be written.
    """
    prepared = prepared_cache.get(session, statement, options)
    rows = _in_order(packed, statement.columns)
    if first_timestamp is not None:
        rows = [[*row, _TIMESTAMP.pack(timestamp)] for timestamp, row in enumerate(rows, first_timestamp)]
    largest, small = _BATCH_BYTES
    try:
        _send_batches(session, prepared, rows, options, statement.name, largest)
    except BatchTooLarge:
        _send_batches(session, prepared, rows, options, statement.name, small)


def _send_batches(
    session: Session, prepared: PreparedStatement, rows: Sequence[Values], options: QueryOptions, name: str, size: int
) -> None:
    window = _Window(options)
    try:
        for batch in _batches(session, prepared, rows, size):
            window.send(session, batch, name)
        window.finish()
    except StorageTimeout as error:
        # Also if the deadline passed between two batches.
        error.may_have_applied = True
        raise


def _in_order(packed: PackedRows, columns: Sequence[str]) -> list[Values]:
    if packed.columns == tuple(columns):
        return packed.rows
    indexes = {column: index for index, column in enumerate(packed.columns)}
    known = [indexes.get(column) for column in columns]
    return [[None if index is None else row[index] for index in known] for row in packed.rows]


def _batches(
    session: Session, prepared: PreparedStatement, rows: Sequence[Values], largest: int
) -> Iterator[BatchStatement]:
    replica_of = _replica_function(session)
    groups: dict[Hashable, tuple[BatchStatement, list[int]]] = defaultdict(lambda: (_new_batch(session), [0]))
    for values in rows:
        bound = BoundStatement(prepared)
        bound.values = values
        key = replica_of(bound)
        size = sum(len(value) for value in values if value is not None) + _VALUE_OVERHEAD * len(values)
        batch, total = groups[key]
        if total[0] and total[0] + size > largest:
            yield batch
            batch, total = groups[key] = (_new_batch(session), [0])
        batch.add(bound)
        total[0] += size
    for batch, _ in groups.values():
        yield batch


def _new_batch(session: Session) -> BatchStatement:
    batch = BatchStatement(BatchType.UNLOGGED)
    batch.is_idempotent = True
    batch.keyspace = session.keyspace
    return batch


def _replica_function(session: Session) -> Callable[[BoundStatement], Hashable]:
    """The function that returns the same value for rows with the same replicas."""
    metadata, keyspace = session.cluster.metadata, session.keyspace
    if len(metadata.all_hosts()) == 1:
        return lambda bound: None
    return lambda bound: frozenset(metadata.get_replicas(keyspace, bound.routing_key))


class _Window:
    """Sends batches, a bounded number at a time."""

    def __init__(self, options: QueryOptions) -> None:
        self._options = options
        self._free = threading.Semaphore(_WINDOW)
        self._error: Exception | None = None

    def send(self, session: Session, batch: BatchStatement, name: str) -> None:
        """Send a batch; wait while too many are in flight.

        :raises StorageError: an earlier batch has failed.
        """
        self._acquire()
        if self._error is not None:
            self._free.release()
            self.finish()
        try:
            future = send_write(session, batch, self._options, name)
        except StorageError:
            self._free.release()
            raise
        future.add_callbacks(self._sent, self._failed)

    def finish(self) -> None:
        """Wait until no batch is in flight.

        :raises StorageError: a batch has failed.
        """
        for _ in range(_WINDOW):
            self._acquire()
        if self._error is not None:
            error = translate(self._error, "write")
            # Not one of the invalid requests that have a class of their own.
            if isinstance(self._error, InvalidRequest) and type(error) is StorageError:
                raise RowsRefused(invalid_request_message(self._error)) from self._error
            raise error from self._error

    def _acquire(self) -> None:
        if not self._free.acquire(timeout=self._options.remaining()):
            raise StorageTimeout("Cassandra did not answer before the deadline.", may_have_applied=True)

    def _sent(self, result: object) -> None:
        self._free.release()

    def _failed(self, error: Exception) -> None:
        self._error = error
        self._free.release()
