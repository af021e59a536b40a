"""Users. Every change of an existing user is a lightweight transaction.

docs/transactions.md explains why.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from cassandra.cluster import Session

from storage.cql import Page, QueryOptions, Statement, Stream, execute, stream
from storage.db_io.idempotency import IdempotencyKey
from storage.db_io.versioned import VersionedTable, stream_by_id


class User(NamedTuple):
    """A row of `users`. Every write gives it a new `version`."""

    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime
    version: UUID


# The client receives the version as the ETag, not as a field.
_PUBLIC = tuple(name for name in User._fields if name != "version")
# A change sets all columns that can differ between two versions.
_CHANGING = tuple(name for name in User._fields if name not in ("id", "created_at"))

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
SELECT_USERS = Statement("select_users", "SELECT {columns} FROM {keyspace}.users", _PUBLIC, json_rows=True)
# With a storage-attached index on age the server uses it. ALLOW FILTERING is for servers that have no such index.
SELECT_USERS_BY_AGE = Statement(
    "select_users_by_age",
    "SELECT {columns} FROM {keyspace}.users WHERE age >= ? ALLOW FILTERING",
    _PUBLIC,
    json_rows=True,
)
UPDATE_USER = Statement(
    "update_user",
    "UPDATE {keyspace}.users SET {assignments} WHERE id = ? IF version = ?",
    _CHANGING,
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

USERS = VersionedTable(
    "users",
    User,
    noun="user",
    insert=INSERT_USER,
    select=SELECT_USER,
    update=UPDATE_USER,
    delete=DELETE_USER,
    delete_at_version=DELETE_USER_AT_VERSION,
)


def new_user(fields: Mapping[str, Any]) -> User:
    """A user that is not stored yet.

    :param fields: `name`, `email` and `age`.
    """
    return USERS.new(fields)


def create_users(session: Session, users: Sequence[User], options: QueryOptions) -> None:
    """Store users with new ids: all or none.

    :raises BatchTooLarge: the users exceed the server's limit; nothing is stored.
    """
    USERS.create(session, users, options)


def create_users_once(
    session: Session, key: IdempotencyKey, users: Sequence[User], options: QueryOptions
) -> Sequence[User]:
    """Store users under an idempotency key.

    :returns: the users, or those of the first request with this key.
    :raises KeyBusy: the first request is still being processed.
    :raises KeyReused: the first request had another body.
    """
    return USERS.create_once(session, key, users, options)


def retrieve_user(session: Session, user_id: UUID, options: QueryOptions) -> User:
    """Read one user.

    :raises RowNotFound: the user does not exist.
    """
    return USERS.retrieve(session, user_id, options)


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


def update_user(
    session: Session, user_id: UUID, changes: Mapping[str, Any], versions: Container[UUID] | None, options: QueryOptions
) -> User:
    """Change some or all of `name`, `email` and `age`. A deleted user stays deleted.

    :param versions: the versions that the caller accepts to change; None for any.
    :returns: the user as this call wrote it.
    :raises RowNotFound: the user does not exist.
    :raises VersionConflict: the user is at another version.
    """
    return USERS.update(session, user_id, changes, versions, options)


def delete_user(session: Session, user_id: UUID, versions: Container[UUID] | None, options: QueryOptions) -> None:
    """Delete a user, if it exists.

    :param versions: the versions that the caller accepts to delete; None for any.
    :raises VersionConflict: `versions` was given, and the user is at another version or does not exist.
    """
    USERS.delete(session, user_id, versions, options)
