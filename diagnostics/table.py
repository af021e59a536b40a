"""Rows that the probes write, and statements that fail on purpose.

Each run of a probe has one partition.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4

from cassandra.cluster import Session

from storage.cql import (
    Page,
    QueryOptions,
    Statement,
    Stream,
    bind,
    execute,
    execute_batch,
    execute_concurrently,
    stream,
)
from storage.cql.execution import execute_bound, execute_unprepared
from storage.db_io.idempotency import SELECT_KEY
from storage.errors import StorageError

log = logging.getLogger(__name__)

MISSING_TABLE = "non_existent_table_xyz"

# Scope of the idempotency keys that the probes read. No request uses this scope, so the keys do not exist.
_SCOPE = "diagnostics"


class DiagnosticRow(NamedTuple):
    """A row of a run."""

    number: int
    age: int
    name: str


# A probe deletes its partition. If its process was killed, the TTL deletes the rows after 600 seconds.
INSERT_DIAGNOSTIC = Statement(
    "insert_diagnostic",
    "INSERT INTO {keyspace}.diagnostics ({columns}) VALUES ({values}) USING TTL 600",
    ("run", *DiagnosticRow._fields),
    kind="write",
)
SELECT_DIAGNOSTICS = Statement(
    "select_diagnostics",
    "SELECT {columns} FROM {keyspace}.diagnostics WHERE run = ?",
    DiagnosticRow._fields,
)
SELECT_DIAGNOSTICS_BY_AGE = Statement(
    "select_diagnostics_by_age",
    "SELECT {columns} FROM {keyspace}.diagnostics WHERE run = ? AND age = ? ALLOW FILTERING",
    DiagnosticRow._fields,
)
# Division by zero in row 15 fails the page with that row; earlier pages succeed.
SELECT_DIAGNOSTICS_FAILING = Statement(
    "select_diagnostics_failing",
    "SELECT number, 100 / (number - 15) FROM {keyspace}.diagnostics WHERE run = ?",
)
DELETE_DIAGNOSTICS = Statement("delete_diagnostics", "DELETE FROM {keyspace}.diagnostics WHERE run = ?", kind="write")
SELECT_MISSING_TABLE = Statement("select_missing_table", f"SELECT * FROM {{keyspace}}.{MISSING_TABLE}")


@contextmanager
def diagnostic_rows(session: Session, rows: Sequence[DiagnosticRow], options: QueryOptions) -> Iterator[UUID]:
    """Store rows, all or none, for the duration of the block. Yields the id of their run.

    If the block fails, the rows are deleted without waiting. If the session is shut down in the block, their TTL
    deletes them.

    :raises StorageError: the rows can't be stored or deleted.
    """
    run_id = uuid4()
    # Bound, and so prepared, before any row is stored: the delete then needs only one response from Cassandra.
    delete = bind(session, DELETE_DIAGNOSTICS, (run_id,), options)
    try:
        inserts = [(run_id, *row) for row in rows]
        execute_batch(session, INSERT_DIAGNOSTIC, inserts, options, name=INSERT_DIAGNOSTIC.name)
        yield run_id
    except BaseException:
        # The deadline may have passed: do not wait for the response.
        session.execute_async(delete).add_errback(partial(_log_failed_delete, run_id))
        raise
    if not session.is_shutdown:
        execute_bound(session, delete, options, DELETE_DIAGNOSTICS.name, "write")


def _log_failed_delete(run_id: UUID, error: Exception) -> None:
    log.warning("The rows of run %s stay until their TTL expires: %s", run_id, error)


def stream_diagnostics(session: Session, run_id: UUID, fetch_size: int, options: QueryOptions) -> Stream:
    """Stream all rows of a run, as tuples in the order of :class:`DiagnosticRow`."""
    return stream(session, SELECT_DIAGNOSTICS, (run_id,), options, fetch_size=fetch_size)


def stream_diagnostics_by_age(
    session: Session, run_id: UUID, age: int, fetch_size: int, options: QueryOptions
) -> Stream:
    """Stream the rows of a run with this age, as tuples in the order of :class:`DiagnosticRow`."""
    return stream(session, SELECT_DIAGNOSTICS_BY_AGE, (run_id, age), options, fetch_size=fetch_size)


def stream_diagnostics_failing(session: Session, run_id: UUID, fetch_size: int, options: QueryOptions) -> Stream:
    """Stream the rows of a run until the server divides by zero, in row 15.

    :raises StorageError: from the first `next()`, if the server does not support arithmetic.
    """
    return stream(session, SELECT_DIAGNOSTICS_FAILING, (run_id,), options, fetch_size=fetch_size)


def read_keys_concurrently(session: Session, keys: Sequence[UUID], options: QueryOptions) -> list[Page | StorageError]:
    """Read idempotency keys, all at once. Every deployment has their table.

    :returns: for each key the page with its row, if it exists, or the error.
    :raises StorageTimeout: the deadline has passed.
    """
    return execute_concurrently(session, SELECT_KEY, [(_SCOPE, str(key)) for key in keys], options)


def read_key(session: Session, key: UUID, options: QueryOptions) -> None:
    """Read one idempotency key."""
    execute(session, SELECT_KEY, (_SCOPE, str(key)), options)


def query_missing_table(session: Session, options: QueryOptions) -> None:
    """Query a table that does not exist.

    :raises StorageError: names the table.
    """
    # Not prepared: the driver logs an error with a traceback for a statement that it can't prepare.
    execute_unprepared(session, SELECT_MISSING_TABLE, options)
