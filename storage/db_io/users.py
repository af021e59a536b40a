"""Users. Every change of one that exists is a lightweight transaction; why, and what it gives: docs/transactions.md."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
from cassandra.cluster import Session
from cassandra.metadata import Murmur3Token

from observability import metrics
from settings import get_settings
from storage.cql.execution import Page, QueryOptions, Stream, execute, logged_batch
from storage.cql.statements import Statement, bound, run, stream
from storage.cql.token_scan import is_worth_scanning, stream_scan
from storage.db_io.idempotency import IdempotencyKey, claim_key, finish_key, forget_key, release_key
from storage.errors import BatchTooLarge, StorageError, StorageTimeout, UserNotFound, VersionConflict

USER_COLUMNS = ("id", "name", "email", "age", "created_at", "updated_at")

# A new user is written at the first microsecond of 1970, so that no clock can put it after a later transaction.
# It is not idempotent for the caller: repeating the request makes another user.
INSERT_USER = Statement(
    "insert_user",
    "INSERT INTO {keyspace}.users (id, name, email, age, created_at, updated_at, version) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP 1",
    "write",
    idempotent=False,
)
SELECT_USER = Statement(
    "select_user", "SELECT id, name, email, age, created_at, updated_at, version FROM {keyspace}.users WHERE id = ?"
)
SELECT_USERS = Statement("select_users", "SELECT id, name, email, age, created_at, updated_at FROM {keyspace}.users")
# With a storage-attached index on age the server uses it; ALLOW FILTERING is for servers that have none.
SELECT_USERS_BY_AGE = Statement(
    "select_users_by_age",
    "SELECT id, name, email, age, created_at, updated_at FROM {keyspace}.users WHERE age >= ? ALLOW FILTERING",
)
UPDATE_USER = Statement(
    "update_user",
    "UPDATE {keyspace}.users SET name = ?, email = ?, age = ?, updated_at = ?, version = ? WHERE id = ? IF version = ?",
    "lwt",
    idempotent=False,
)
DELETE_USER = Statement("delete_user", "DELETE FROM {keyspace}.users WHERE id = ? IF EXISTS", "lwt")
DELETE_USER_AT_VERSION = Statement(
    "delete_user_at_version", "DELETE FROM {keyspace}.users WHERE id = ? IF version = ?", "lwt", idempotent=False
)


class User(NamedTuple):
    """A user as stored. `version` is new with every write."""

    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime
    version: UUID


def new_user(fields: Mapping[str, Any]) -> User:
    """A user that is not stored yet, from `name`, `email` and `age`."""
    now = _now()
    return User(id=uuid4(), created_at=now, updated_at=now, version=uuid4(), **fields)


def create_user(session: Session, user: User, options: QueryOptions) -> None:
    """Stores a user whose id is new."""
    run(session, INSERT_USER, user, options)


def create_users(session: Session, users: Iterable[User], options: QueryOptions) -> None:
    """Stores users whose ids are new, all or none, by a logged batch.

    :raises BatchTooLarge: over the server's limit; nothing is stored.
    """
    inserts = [bound(session, INSERT_USER, user, options) for user in users]
    execute(session, logged_batch(inserts), options, name="insert_users", kind="write")


def create_users_once(
    session: Session,
    key: IdempotencyKey,
    users: Sequence[User],
    create: Callable[[Sequence[User]], None],
    options: QueryOptions,
) -> Sequence[User]:
    """Stores users under an idempotency key.

    They are written with their ids, versions and times at the first microsecond of 1970, as every new user is: a
    second time changes nothing, also where they were changed or deleted since.

    :param create: stores users.
    :returns: the users, or those of the first request with this key.
    :raises KeyBusy: that one is still at work.
    :raises KeyReused: it had another body.
    """
    # Before the promise: with a level that can't be there is none to make.
    bound(session, INSERT_USER, users[0], options)
    claim = claim_key(session, key, orjson.dumps([list(user) for user in users]).decode(), options)
    promised = [_from_json(fields) for fields in orjson.loads(claim.answer)]
    if not claim.finished:
        try:
            create(promised)
        except StorageError as error:
            # Only who made the promise may take it back, for nobody else is at work on it yet.
            give_up = forget_key if isinstance(error, BatchTooLarge) and not claim.repeat else release_key
            with suppress(StorageError):
                give_up(session, key, claim, options)
            raise
        with suppress(StorageError):
            finish_key(session, key, claim, options)
    if claim.repeat:
        metrics.IDEMPOTENT_REPEATS.inc()
    return promised


def _from_json(fields: list[Any]) -> User:
    user = User(*fields)
    return user._replace(
        id=UUID(fields[0]),
        created_at=datetime.fromisoformat(fields[4]),
        updated_at=datetime.fromisoformat(fields[5]),
        version=UUID(fields[6]),
    )


def retrieve_user(session: Session, user_id: UUID, options: QueryOptions) -> User | None:
    """The user, or None."""
    rows = run(session, SELECT_USER, (user_id,), options).rows
    return User(*rows[0]) if rows else None


def retrieve_users_page(
    session: Session, fetch_size: int, min_age: int | None, paging_state: bytes | None, options: QueryOptions
) -> Page:
    """At most `fetch_size` users as JSON in token order, at least `min_age` years old, from `paging_state` on.

    :raises PagingStateRefused: the server doesn't take it.
    """
    statement, values = _users_from_age(min_age)
    return run(session, statement, values, options, fetch_size=fetch_size, paging_state=paging_state, texts=True)


def stream_users(session: Session, limit: int, fetch_size: int, min_age: int | None, options: QueryOptions) -> Stream:
    """Pages of at most `limit` users in all, in the order of `USER_COLUMNS`."""
    statement, values = _users_from_age(min_age)
    if min_age is None and is_worth_scanning(session, limit, fetch_size):
        return stream_scan(session, SELECT_USERS, "id", _token, options, limit, fetch_size)
    return stream(session, statement, values, options, limit=limit, fetch_size=fetch_size)


def _token(row: Sequence[Any]) -> int:
    user_id = UUID(orjson.loads(row[0])["id"]) if isinstance(row[0], str) else row[0]
    return Murmur3Token.from_key(user_id.bytes).value


def update_user(
    session: Session, user_id: UUID, changes: Mapping[str, Any], versions: Container[UUID] | None, options: QueryOptions
) -> User:
    """Changes some or all of `name`, `email` and `age`.

    :param versions: the versions that the caller accepts to change; None for any.
    :returns: the user as this call wrote it.
    :raises UserNotFound: it does not exist; it is not brought back.
    :raises VersionConflict: it is at another version.
    """
    version = uuid4()

    def values(user: User) -> Sequence[Any]:
        updated = user._replace(**changes)
        return (updated.name, updated.email, updated.age, now, version, user_id, user.version)

    now = _now()
    before = _transact(session, user_id, versions, UPDATE_USER, values, version, options)
    if before is None:
        raise UserNotFound("User not found")
    return before._replace(**changes, updated_at=now, version=version)


def delete_user(session: Session, user_id: UUID, versions: Container[UUID] | None, options: QueryOptions) -> None:
    """Deletes the user if there is one.

    :param versions: the versions that the caller accepts to delete; None for any.
    :raises VersionConflict: `versions` was given, and the user is at another one or gone.
    """
    if versions is None:
        try:
            run(session, DELETE_USER, (user_id,), options)
        except StorageTimeout as error:
            with suppress(StorageError):
                if _can_be_settled(error, options) and _read_serially(session, user_id, options) is None:
                    return
            raise
    elif (
        _transact(
            session, user_id, versions, DELETE_USER_AT_VERSION, lambda user: (user_id, user.version), None, options
        )
        is None
    ):
        raise VersionConflict("The user is gone.")


def _transact(
    session: Session,
    user_id: UUID,
    versions: Container[UUID] | None,
    statement: Statement,
    values: Callable[[User], Sequence[Any]],
    version: UUID | None,
    options: QueryOptions,
) -> User | None:
    """Runs a lightweight transaction on the version that was read, again and again until it is applied.

    :param values: of the statement, for the user as read.
    :param version: that the statement writes; by it an applied transaction is recognised when its answer is lost.
    :param options: their deadline is what ends the attempts.
    :returns: the user that it was applied to, None when there is none.
    :raises VersionConflict: the user is at none of `versions`.
    :raises StorageTimeout: with `may_have_applied` when the outcome is not known.
    """
    # A plain read is cheaper, and wrong only in the direction that the transaction itself finds out.
    user = retrieve_user(session, user_id, replace(options, consistency_level=None))
    if user is None or (versions is not None and user.version not in versions):
        user = _read_serially(session, user_id, options)
    # Once an outcome is unknown, nothing but our own version in the row makes it known again.
    unknown: StorageTimeout | None = None
    try:
        for attempt in itertools.count():
            if user is None:
                if unknown is not None:
                    raise unknown
                return None
            if versions is not None and user.version not in versions:
                raise VersionConflict("The user has changed since.")
            try:
                if run(session, statement, values(user), options).rows[0][0]:
                    return user
            except StorageTimeout as error:
                if not _can_be_settled(error, options):
                    raise
                unknown = error
            before, user = user, _read_serially(session, user_id, options)
            if user is not None and version is not None and user.version == version:
                return before
            if unknown is not None and (user is None or user.version != before.version):
                raise unknown
            # Others write the same user: wait a random while, so that one of them gets through.
            time.sleep(min(random.uniform(0, 0.002 * 2 ** min(attempt, 9)), options.remaining()))
    except StorageError as error:
        if unknown is None or error is unknown:
            raise
        raise unknown from error
    raise AssertionError("the deadline ends the loop")


def _can_be_settled(error: StorageTimeout, options: QueryOptions) -> bool:
    """Whether a serial read can make a success of it.

    Only where the commit's level is no more than what that read proves: a quorum, of the data centre or of all.
    """
    settings = get_settings()
    proven = ["ONE", "LOCAL_ONE", "LOCAL_QUORUM"]
    if settings.cassandra_serial_consistency_level == "SERIAL":
        proven.append("QUORUM")
    return error.may_have_applied and (options.consistency_level or settings.cassandra_consistency_level) in proven


def _read_serially(session: Session, user_id: UUID, options: QueryOptions) -> User | None:
    """The user after every transaction so far: it finishes those that were accepted, and refuses the others."""
    level = get_settings().cassandra_serial_consistency_level
    return retrieve_user(session, user_id, replace(options, consistency_level=level))


def _users_from_age(min_age: int | None) -> tuple[Statement, Sequence[Any]]:
    return (SELECT_USERS, ()) if min_age is None else (SELECT_USERS_BY_AGE, (min_age,))


def _now() -> datetime:
    # Cassandra's timestamps have milliseconds.
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
