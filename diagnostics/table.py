"""The diagnostics' own rows: one partition a run of a probe; and the statements that fail on purpose."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from settings import get_settings
from storage.cql.execution import Page, QueryOptions, Stream, execute, execute_concurrently, logged_batch
from storage.cql.statements import Statement, bound, stream
from storage.db_io.users import SELECT_USER
from storage.errors import StorageError

log = logging.getLogger(__name__)

MISSING_TABLE = "non_existent_table_xyz"

# The time to live is for a process that dies midway; a probe deletes its partition itself.
INSERT_DIAGNOSTIC = Statement(
    "insert_diagnostic",
    "INSERT INTO {keyspace}.diagnostics (run, number, age, name) VALUES (?, ?, ?, ?) USING TTL 600",
    "write",
)
SELECT_DIAGNOSTICS = Statement(
    "select_diagnostics", "SELECT number, age, name FROM {keyspace}.diagnostics WHERE run = ?"
)
SELECT_DIAGNOSTICS_BY_AGE = Statement(
    "select_diagnostics_by_age",
    "SELECT number, age, name FROM {keyspace}.diagnostics WHERE run = ? AND age = ? ALLOW FILTERING",
)
# Fails at row 15, and with it its page; the pages before are good.
SELECT_DIAGNOSTICS_FAILING = Statement(
    "select_diagnostics_failing",
    "SELECT number, 100 / (number - 15) FROM {keyspace}.diagnostics WHERE run = ?",
)
DELETE_DIAGNOSTICS = Statement("delete_diagnostics", "DELETE FROM {keyspace}.diagnostics WHERE run = ?", "write")
SELECT_MISSING = Statement("select_missing", f"SELECT * FROM {{keyspace}}.{MISSING_TABLE}")


class DiagnosticRow(NamedTuple):
    """A row of a run."""

    number: int
    age: int
    name: str


@contextmanager
def diagnostic_rows(session: Session, rows: Sequence[DiagnosticRow], options: QueryOptions) -> Iterator[UUID]:
    """Stores rows for the length of the block, all or none. Gives the id of their run.

    Where the block fails they are deleted without waiting for it; where the session is shut down in the block, their
    time to live ends them.

    :raises StorageError: they can't be stored, or not be deleted.
    """
    run_id = uuid4()
    # Before there is anything to delete, so that deleting needs no answer but its own.
    delete = bound(session, DELETE_DIAGNOSTICS, (run_id,), options)
    inserts = [bound(session, INSERT_DIAGNOSTIC, (run_id, *row), options) for row in rows]
    try:
        execute(session, logged_batch(inserts), options, name=INSERT_DIAGNOSTIC.name, kind="write")
        yield run_id
    except BaseException:
        # What failed may be the deadline: nobody waits for this.
        session.execute_async(delete).add_errback(partial(_stay, run_id))
        raise
    if not session.is_shutdown:
        execute(session, delete, options, name=DELETE_DIAGNOSTICS.name, kind="write")


def _stay(run_id: UUID, error: Exception) -> None:
    log.warning("The rows of run %s stay until their time is over: %s", run_id, error)


def stream_diagnostics(session: Session, run_id: UUID, fetch_size: int, options: QueryOptions) -> Stream:
    """Pages of all rows of a run, in the order of :class:`DiagnosticRow`."""
    return stream(session, SELECT_DIAGNOSTICS, (run_id,), options, fetch_size=fetch_size)


def stream_diagnostics_by_age(
    session: Session, run_id: UUID, age: int, fetch_size: int, options: QueryOptions
) -> Stream:
    """Pages of the rows of a run with this age, in the order of :class:`DiagnosticRow`."""
    return stream(session, SELECT_DIAGNOSTICS_BY_AGE, (run_id, age), options, fetch_size=fetch_size)


def stream_diagnostics_failing(session: Session, run_id: UUID, fetch_size: int, options: QueryOptions) -> Stream:
    """Pages of a run until the server fails to divide by zero, at row 15.

    :raises StorageError: from the first `next()`, where the server knows no arithmetic.
    """
    return stream(session, SELECT_DIAGNOSTICS_FAILING, (run_id,), options, fetch_size=fetch_size)


def retrieve_users_concurrently(
    session: Session, user_ids: Sequence[UUID], options: QueryOptions
) -> list[Page | StorageError]:
    """For each id the page with its user, if there is one, or what went wrong; all are asked for at once.

    :raises StorageTimeout: the deadline has passed.
    """
    queries = [bound(session, SELECT_USER, (user_id,), options) for user_id in user_ids]
    return execute_concurrently(session, queries, options, name=SELECT_USER.name)


def query_missing_table(session: Session, options: QueryOptions) -> None:
    """Asks for a table that does not exist.

    :raises StorageError: naming it.
    """
    # Not prepared: the driver logs what it can't prepare as an error, with a traceback.
    keyspace = session.keyspace or get_settings().cassandra_keyspace
    query = SimpleStatement(SELECT_MISSING.cql.format(keyspace=keyspace), is_idempotent=True)
    execute(session, query, options, name=SELECT_MISSING.name)
