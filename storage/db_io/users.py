"""Users. Every change of an existing user is a lightweight transaction.

docs/transactions.md explains why.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple
from uuid import UUID

from cassandra.cluster import Session

from storage.cql import Page, QueryOptions, Statement, Stream, execute, stream
from storage.db_io.versioned import VersionedTable, changing_columns, public_columns, stream_by_id


class User(NamedTuple):
    """A row of `users`. Every write gives it a new `version`."""

    id: Annotated[UUID, "uuid"]
    name: Annotated[str, "text"]
    email: Annotated[str, "text"]
    age: Annotated[int, "int"]
    created_at: Annotated[datetime, "timestamp"]
    updated_at: Annotated[datetime, "timestamp"]
    version: Annotated[UUID, "uuid"]


# Timestamp 1, the first microsecond of 1970, is older than every transaction, even if the clocks of nodes differ.
# Marked as not idempotent: a client that repeats its request gets another id, so it creates another user.
INSERT_USER = Statement(
    "insert_user",
    "INSERT INTO {keyspace}.users ({columns}) VALUES ({values}) USING TIMESTAMP 1",
    User._fields,
    kind="write",
    idempotent=False,
)
SELECT_USER = Statement("select_user", "SELECT {columns} FROM {keyspace}.users WHERE id = ?", User._fields)
SELECT_USERS = Statement("select_users", "SELECT {columns} FROM {keyspace}.users", public_columns(User), json_rows=True)
# With a storage-attached index on age the server uses it. ALLOW FILTERING is for servers that have no such index.
SELECT_USERS_BY_AGE = Statement(
    "select_users_by_age",
    "SELECT {columns} FROM {keyspace}.users WHERE age >= ? ALLOW FILTERING",
    public_columns(User),
    json_rows=True,
)
UPDATE_USER = Statement(
    "update_user",
    "UPDATE {keyspace}.users SET {assignments} WHERE id = ? IF version = ?",
    changing_columns(User),
    kind="lwt",
    idempotent=False,
)
DELETE_USER = Statement("delete_user", "DELETE FROM {keyspace}.users WHERE id = ? IF EXISTS", kind="lwt")
DELETE_USER_AT_VERSION = Statement(
    "delete_user_at_version",
    "DELETE FROM {keyspace}.users WHERE id = ? IF version = ?",
    kind="lwt",
    idempotent=False,
)

TABLE = VersionedTable(
    "users",
    User,
    noun="user",
    insert=INSERT_USER,
    select=SELECT_USER,
    update=UPDATE_USER,
    delete=DELETE_USER,
    delete_at_version=DELETE_USER_AT_VERSION,
)


def retrieve_users_page(
    session: Session, fetch_size: int, min_age: int | None, paging_state: bytes | None, options: QueryOptions
) -> Page:
    """Read one page of at most `fetch_size` users in token order, as JSON.

    :param min_age: minimum age in years; None for all users.
    :param paging_state: from the previous page.
    :raises PagingStateRefused: the server does not accept the paging state.
    """
    statement, values = (SELECT_USERS, ()) if min_age is None else (SELECT_USERS_BY_AGE, (min_age,))
    return execute(session, statement, values, options, fetch_size=fetch_size, paging_state=paging_state)


def stream_users(session: Session, limit: int, fetch_size: int, min_age: int | None, options: QueryOptions) -> Stream:
    """Stream at most `limit` users in token order, as JSON.

    :param min_age: minimum age in years; None for all users.
    """
    if min_age is None:
        return stream_by_id(session, SELECT_USERS, limit, fetch_size, options)
    return stream(session, SELECT_USERS_BY_AGE, (min_age,), options, limit=limit, fetch_size=fetch_size)
