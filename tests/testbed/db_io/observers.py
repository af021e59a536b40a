"""Observers. Every change of an existing observer is a lightweight transaction.

docs/transactions.md explains why.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple
from uuid import UUID

from cassandra.cluster import Session

from storage.cql import Page, QueryOptions, Statement, Stream, execute
from storage.db_io.versioned import VersionedTable, changing_columns, public_columns, stream_by_id


class Observer(NamedTuple):
    """A row of `observers`. Every write gives it a new `version`."""

    id: Annotated[UUID, "uuid"]
    name: Annotated[str, "text"]
    email: Annotated[str, "text"]
    age: Annotated[int, "int"]
    created_at: Annotated[datetime, "timestamp"]
    updated_at: Annotated[datetime, "timestamp"]
    version: Annotated[UUID, "uuid"]


# Timestamp 1, the first microsecond of 1970, is older than every transaction, even if the clocks of nodes differ.
# Marked as not idempotent: a client that repeats its request gets another id, so it creates another observer.
INSERT_OBSERVER = Statement(
    "insert_observer",
    "INSERT INTO {keyspace}.observers ({columns}) VALUES ({values}) USING TIMESTAMP 1",
    Observer._fields,
    kind="write",
    idempotent=False,
)
SELECT_OBSERVER = Statement(
    "select_observer", "SELECT {columns} FROM {keyspace}.observers WHERE id = ?", Observer._fields
)
SELECT_OBSERVERS = Statement(
    "select_observers", "SELECT {columns} FROM {keyspace}.observers", public_columns(Observer), json_rows=True
)
UPDATE_OBSERVER = Statement(
    "update_observer",
    "UPDATE {keyspace}.observers SET {assignments} WHERE id = ? IF version = ?",
    changing_columns(Observer),
    kind="lwt",
    idempotent=False,
)
DELETE_OBSERVER = Statement("delete_observer", "DELETE FROM {keyspace}.observers WHERE id = ? IF EXISTS", kind="lwt")
DELETE_OBSERVER_AT_VERSION = Statement(
    "delete_observer_at_version",
    "DELETE FROM {keyspace}.observers WHERE id = ? IF version = ?",
    kind="lwt",
    idempotent=False,
)

TABLE = VersionedTable(
    "observers",
    Observer,
    noun="observer",
    insert=INSERT_OBSERVER,
    select=SELECT_OBSERVER,
    update=UPDATE_OBSERVER,
    delete=DELETE_OBSERVER,
    delete_at_version=DELETE_OBSERVER_AT_VERSION,
)


def retrieve_observers_page(session: Session, limit: int, paging_state: bytes | None, options: QueryOptions) -> Page:
    """Read one page of at most `limit` observers in token order, as JSON.

    :param paging_state: from the previous page.
    :raises PagingStateRefused: the server does not accept the paging state.
    """
    return execute(session, SELECT_OBSERVERS, (), options, fetch_size=limit, paging_state=paging_state)


def stream_observers(session: Session, limit: int, fetch_size: int, options: QueryOptions) -> Stream:
    """Stream at most `limit` observers in token order, as JSON."""
    return stream_by_id(session, SELECT_OBSERVERS, limit, fetch_size, options)
