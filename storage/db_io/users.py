"""Users. Every change of an existing user is a lightweight transaction.

docs/transactions.md explains why.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
from cassandra.cluster import Session

from observability import metrics
from storage.cql import Page, QueryOptions, Statement, Stream, bind, execute, execute_batch, stream
from storage.cql.consistency import default_level, serial_level
from storage.cql.driver import murmur3_token
from storage.cql.token_scan import is_worth_scanning, scan
from storage.db_io.idempotency import IdempotencyKey, claim_key, finish_key, forget_key, release_key
from storage.errors import BatchTooLarge, RowNotFound, StorageError, StorageTimeout, VersionConflict


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
    "UPDATE {keyspace}.users SET name = ?, email = ?, age = ?, updated_at = ?, version = ? WHERE id = ? IF version = ?",
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


def new_user(fields: Mapping[str, Any]) -> User:
    """A user that is not stored yet.

    :param fields: `name`, `email` and `age`.
    """
    now = _now()
    return User(id=uuid4(), created_at=now, updated_at=now, version=uuid4(), **fields)


def create_users(session: Session, users: Sequence[User], options: QueryOptions) -> None:
    """Store users with new ids: all or none.

    :raises BatchTooLarge: the users exceed the server's limit; nothing is stored.
    """
    if len(users) == 1:
        execute(session, INSERT_USER, users[0], options)
    else:
        execute_batch(session, INSERT_USER, users, options, name="insert_users")


def create_users_once(
    session: Session, key: IdempotencyKey, users: Sequence[User], options: QueryOptions
) -> Sequence[User]:
    """Store users under an idempotency key.

    A repeated insert writes the same ids, versions and times, at timestamp 1. It therefore changes nothing, even if the
    users were changed or deleted in the meantime.

    :returns: the users, or those of the first request with this key.
    :raises KeyBusy: the first request is still being processed.
    :raises KeyReused: the first request had another body.
    """
    # Binding fails if the client's consistency level can't be reached. The key must not be claimed then.
    bind(session, INSERT_USER, users[0], options)
    claim = claim_key(session, key, orjson.dumps([list(user) for user in users]).decode(), options)
    claimed = [_from_json(fields) for fields in orjson.loads(claim.answer)]
    if not claim.finished:
        try:
            create_users(session, claimed, options)
        except StorageError as error:
            # Only the request that made the claim may delete it. For a retry, an earlier request with an unknown
            # outcome may have stored the users already.
            give_up = forget_key if isinstance(error, BatchTooLarge) and not claim.is_retry else release_key
            with suppress(StorageError):
                give_up(session, key, claim, options)
            raise
        with suppress(StorageError):
            finish_key(session, key, claim, options)
    if claim.is_retry:
        metrics.IDEMPOTENT_REPEATS.inc()
    return claimed


def _from_json(fields: list[Any]) -> User:
    user = User._make(fields)
    return user._replace(
        id=UUID(str(user.id)),
        created_at=datetime.fromisoformat(str(user.created_at)),
        updated_at=datetime.fromisoformat(str(user.updated_at)),
        version=UUID(str(user.version)),
    )


def retrieve_user(session: Session, user_id: UUID, options: QueryOptions) -> User:
    """Read one user.

    :raises RowNotFound: the user does not exist.
    """
    user = _read(session, user_id, options)
    if user is None:
        raise RowNotFound("User not found")
    return user


def retrieve_users_page(
    session: Session, fetch_size: int, min_age: int | None, paging_state: bytes | None, options: QueryOptions
) -> Page:
    """Read one page of at most `fetch_size` users in token order, as JSON.

    :param min_age: minimum age in years; None for all users.
    :param paging_state: from the previous page.
    :raises PagingStateRefused: the server does not accept the paging state.
    """
    statement, values = _select_users(min_age)
    return execute(session, statement, values, options, fetch_size=fetch_size, paging_state=paging_state)


def stream_users(session: Session, limit: int, fetch_size: int, min_age: int | None, options: QueryOptions) -> Stream:
    """Stream at most `limit` users in token order, as JSON.

    :param min_age: minimum age in years; None for all users.
    """
    if min_age is None and is_worth_scanning(session, limit, fetch_size):
        return scan(
            session, SELECT_USERS, options, partition_key="id", token=_token, limit=limit, fetch_size=fetch_size
        )
    statement, values = _select_users(min_age)
    return stream(session, statement, values, options, limit=limit, fetch_size=fetch_size)


def update_user(
    session: Session, user_id: UUID, changes: Mapping[str, Any], versions: Container[UUID] | None, options: QueryOptions
) -> User:
    """Change some or all of `name`, `email` and `age`. A deleted user stays deleted.

    :param versions: the versions that the caller accepts to change; None for any.
    :returns: the user as this call wrote it.
    :raises RowNotFound: the user does not exist.
    :raises VersionConflict: the user is at another version.
    """
    version = uuid4()
    now = _now()

    def values(user: User) -> Sequence[Any]:
        updated = user._replace(**changes)
        return (updated.name, updated.email, updated.age, now, version, user_id, user.version)

    before = _transact(session, user_id, versions, UPDATE_USER, values, version, options)
    if before is None:
        raise RowNotFound("User not found")
    return before._replace(**changes, updated_at=now, version=version)


def delete_user(session: Session, user_id: UUID, versions: Container[UUID] | None, options: QueryOptions) -> None:
    """Delete a user, if it exists.

    :param versions: the versions that the caller accepts to delete; None for any.
    :raises VersionConflict: `versions` was given, and the user is at another version or does not exist.
    """
    if versions is None:
        _delete_any_version(session, user_id, options)
        return

    def values(user: User) -> Sequence[Any]:
        return (user_id, user.version)

    if _transact(session, user_id, versions, DELETE_USER_AT_VERSION, values, None, options) is None:
        raise VersionConflict("The user does not exist.")


def _delete_any_version(session: Session, user_id: UUID, options: QueryOptions) -> None:
    try:
        execute(session, DELETE_USER, (user_id,), options)
    except StorageTimeout as error:
        # If a serial read finds no user, the delete has succeeded.
        with suppress(StorageError):
            if _can_be_settled(session, error, options) and _read_serially(session, user_id, options) is None:
                return
        raise


def _transact(
    session: Session,
    user_id: UUID,
    versions: Container[UUID] | None,
    statement: Statement,
    values: Callable[[User], Sequence[Any]],
    version: UUID | None,
    options: QueryOptions,
) -> User | None:
    """Run a lightweight transaction on the version that was read, until it is applied.

    :param values: returns the values of the statement, given the user that was read.
    :param version: the version that the statement writes. It identifies a transaction that was applied although its
        response was lost.
    :param options: the deadline in them ends the attempts.
    :returns: the user that the statement was applied to, or None if the user does not exist.
    :raises VersionConflict: the user is at none of `versions`.
    :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
    """
    # A plain read is cheaper than a serial one. If it is stale, the transaction's condition fails and we read again.
    user = _read(session, user_id, replace(options, consistency_level=None))
    if user is None or (versions is not None and user.version not in versions):
        user = _read_serially(session, user_id, options)
    # The error of an attempt whose outcome is unknown. After it, only our own version in the row proves success.
    unknown_outcome: StorageTimeout | None = None
    try:
        for attempt in itertools.count():
            if user is None:
                if unknown_outcome is not None:
                    raise unknown_outcome
                return None
            if versions is not None and user.version not in versions:
                raise VersionConflict("The user has changed since the given version. Read the user again, then retry.")
            try:
                if execute(session, statement, values(user), options).rows[0][0]:
                    return user
            except StorageTimeout as error:
                if not _can_be_settled(session, error, options):
                    raise
                unknown_outcome = error
            before, user = user, _read_serially(session, user_id, options)
            if user is not None and version is not None and user.version == version:
                return before
            if unknown_outcome is not None and (user is None or user.version != before.version):
                raise unknown_outcome
            # Another request writes the same user. Back off for a random time, so that one of them succeeds.
            time.sleep(min(random.uniform(0, 0.002 * 2 ** min(attempt, 9)), options.remaining()))
    except StorageError as error:
        if unknown_outcome is None or error is unknown_outcome:
            raise
        raise unknown_outcome from error
    raise AssertionError("the deadline ends the loop")


def _can_be_settled(session: Session, error: StorageTimeout, options: QueryOptions) -> bool:
    """Whether a serial read can prove that the transaction succeeded at its commit level.

    A serial read proves that a quorum has the write: a quorum of the local data center, or of all replicas with SERIAL.
    The commit level must not require more than that.
    """
    proven = ["ONE", "LOCAL_ONE", "LOCAL_QUORUM"]
    if serial_level(session) == "SERIAL":
        proven.append("QUORUM")
    return error.may_have_applied and (options.consistency_level or default_level(session)) in proven


def _read(session: Session, user_id: UUID, options: QueryOptions) -> User | None:
    rows = execute(session, SELECT_USER, (user_id,), options).rows
    return User._make(rows[0]) if rows else None


def _read_serially(session: Session, user_id: UUID, options: QueryOptions) -> User | None:
    """Read the user after all transactions so far.

    A serial read completes or cancels transactions that are pending.
    """
    return _read(session, user_id, replace(options, consistency_level=serial_level(session)))


def _select_users(min_age: int | None) -> tuple[Statement, Sequence[Any]]:
    return (SELECT_USERS, ()) if min_age is None else (SELECT_USERS_BY_AGE, (min_age,))


def _token(row: str) -> int:
    return murmur3_token(UUID(orjson.loads(row)["id"]).bytes)


def _now() -> datetime:
    # Cassandra stores milliseconds.
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
