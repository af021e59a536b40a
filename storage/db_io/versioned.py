"""Rows with an id and a version that the service generates.

Every change of a row is a lightweight transaction. docs/transactions.md explains why. The statements are in the module
of each table.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

import orjson
from cassandra.cluster import Session

from observability import metrics
from storage.cql import QueryOptions, Statement, Stream, Table, bind, execute, execute_batch, stream
from storage.cql.consistency import default_level, serial_level
from storage.cql.driver import murmur3_token
from storage.cql.token_scan import is_worth_scanning, scan
from storage.db_io.idempotency import IdempotencyKey, claim_key, finish_key, forget_key, release_key
from storage.errors import BatchTooLarge, RowNotFound, StorageError, StorageTimeout, VersionConflict

# A NamedTuple with the fields `id`, `created_at`, `updated_at` and `version`, among others.
Row = TypeVar("Row", bound=Any)


def public_columns(row: type[Row]) -> tuple[str, ...]:
    """The columns that clients receive as fields. They receive the version as the `ETag`."""
    return tuple(name for name in row._fields if name != "version")


def changing_columns(row: type[Row]) -> tuple[str, ...]:
    """The columns that an update sets: all that can differ between two versions of a row."""
    return tuple(name for name in row._fields if name not in ("id", "created_at"))


class VersionedTable(Table[Row]):
    """A table whose partition key is `id`, and whose rows have a version.

    Every write gives the row a new `version`. Clients receive it as the `ETag`, not as a field.
    """

    insert: Statement

    def __init__(
        self,
        name: str,
        row: type[Row],
        *,
        noun: str,
        insert: Statement,
        select: Statement,
        update: Statement,
        delete: Statement,
        delete_at_version: Statement,
    ) -> None:
        """State the facts about the table.

        :param name: of the table, for example `users`.
        :param row: the row class, with the fields `id`, `created_at`, `updated_at` and `version`.
        :param noun: what a row is called in error messages, for example `user`.
        :param insert: inserts all fields of a row, `USING TIMESTAMP 1`.
        :param select: reads all fields of a row; its value is the id.
        :param update: sets its `columns`; after them, its values are the id and the version before.
        :param delete: deletes a row `IF EXISTS`; its value is the id.
        :param delete_at_version: its values are the id and the version.
        """
        super().__init__(name, row, insert=insert, partition_key=("id",), private=("version",))
        self._noun = noun
        self._select = select
        self._update = update
        self._delete = delete
        self._delete_at_version = delete_at_version

    def new(self, fields: Mapping[str, Any]) -> Row:
        """A row that is not stored yet.

        :param fields: all fields except `id`, `created_at`, `updated_at` and `version`.
        """
        timestamp = now()
        return self.row(id=uuid4(), created_at=timestamp, updated_at=timestamp, version=uuid4(), **fields)

    @property
    def import_statement(self) -> Statement:
        """The INSERT of an imported row: at timestamp 1, as that of every new row."""
        return self.insert._replace(name=f"import_{self.name}", idempotent=True)

    def imported(self, fields: Mapping[str, Any], job_id: UUID, created_at: datetime, line: int) -> Row:
        """The row of a line of an import: the same each time, because its id derives from job and line."""
        # A version only has to differ from the later versions of the same row.
        return self.row(
            id=uuid5(job_id, str(line)), created_at=created_at, updated_at=created_at, version=job_id, **fields
        )

    def create(self, session: Session, rows: Sequence[Row], options: QueryOptions) -> None:
        """Store rows with new ids: all or none.

        :raises BatchTooLarge: the rows exceed the server's limit; nothing is stored.
        """
        if len(rows) == 1:
            execute(session, self.insert, rows[0], options)
        else:
            execute_batch(session, self.insert, rows, options, name=f"insert_{self.name}")

    def create_once(
        self, session: Session, key: IdempotencyKey, rows: Sequence[Row], options: QueryOptions
    ) -> Sequence[Row]:
        """Store rows under an idempotency key.

        A repeated insert writes the same ids, versions and times, at timestamp 1. It therefore changes nothing, even if
        the rows were changed or deleted in the meantime.

        :returns: the rows, or those of the first request with this key.
        :raises KeyBusy: the first request is still being processed, or its rows can't be read by this version.
        :raises KeyReused: the first request had another body.
        """
        # Binding fails if the client's consistency level can't be reached. The key must not be claimed then.
        bound = [bind(session, self.insert, row, options).values for row in rows]
        named = [dict(zip(self.insert.columns, values, strict=True)) for values in bound]
        claim = claim_key(session, key, named, options)
        # A column that the table did not have yet reads as null; one that it no longer has is dropped.
        claimed = [self.decode(values) for values in claim.rows]
        if not claim.finished:
            try:
                self.create(session, claimed, options)
            except StorageError as error:
                # Only the request that made the claim may delete it. For a retry, an earlier request with an unknown
                # outcome may have stored the rows already.
                give_up = forget_key if isinstance(error, BatchTooLarge) and not claim.is_retry else release_key
                with suppress(StorageError):
                    give_up(session, key, claim, options)
                raise
            with suppress(StorageError):
                finish_key(session, key, claim, options)
        if claim.is_retry:
            metrics.IDEMPOTENT_REPEATS.inc()
        return claimed

    def retrieve(self, session: Session, row_id: UUID, options: QueryOptions) -> Row:
        """Read one row.

        :raises RowNotFound: the row does not exist.
        """
        row = self._read(session, row_id, options)
        if row is None:
            raise self._not_found()
        return row

    def update(
        self,
        session: Session,
        row_id: UUID,
        changes: Mapping[str, Any],
        versions: Container[UUID | None] | None,
        options: QueryOptions,
    ) -> Row:
        """Change some or all fields of a row. A deleted row stays deleted.

        :param changes: the new values by field.
        :param versions: the versions that the caller accepts to change; None for any.
        :returns: the row as this call wrote it.
        :raises RowNotFound: the row does not exist.
        :raises VersionConflict: the row is at none of `versions`.
        """
        version = uuid4()
        timestamp = now()

        def updated(row: Row) -> Row:
            return row._replace(**changes, updated_at=timestamp, version=version)

        def values(row: Row) -> Sequence[Any]:
            after = updated(row)
            return (*(getattr(after, column) for column in self._update.columns), row_id, row.version)

        before = self._transact(session, row_id, versions, self._update, values, version, options)
        if before is None:
            raise self._not_found()
        return updated(before)

    def delete(
        self, session: Session, row_id: UUID, versions: Container[UUID | None] | None, options: QueryOptions
    ) -> None:
        """Delete a row, if it exists.

        :param versions: the versions that the caller accepts to delete; None for any. If they contain None, the row
            need not exist.
        :raises VersionConflict: the row is at none of `versions`, or does not exist.
        """
        if versions is None:
            self._delete_any_version(session, row_id, options)
            return

        def values(row: Row) -> Sequence[Any]:
            return (row_id, row.version)

        row = self._transact(session, row_id, versions, self._delete_at_version, values, None, options)
        if row is None and None not in versions:
            raise VersionConflict(f"The {self._noun} does not exist.")

    def _delete_any_version(self, session: Session, row_id: UUID, options: QueryOptions) -> None:
        try:
            execute(session, self._delete, (row_id,), options)
        except StorageTimeout as error:
            # If a serial read finds no row, the delete has succeeded.
            with suppress(StorageError):
                if can_be_settled(session, error, options) and self._read_serially(session, row_id, options) is None:
                    return
            raise

    def _transact(
        self,
        session: Session,
        row_id: UUID,
        versions: Container[UUID | None] | None,
        statement: Statement,
        values: Callable[[Row], Sequence[Any]],
        version: UUID | None,
        options: QueryOptions,
    ) -> Row | None:
        """Run a lightweight transaction on the version that was read, until it is applied.

        :param values: returns the values of the statement, given the row that was read.
        :param version: the version that the statement writes. It identifies a transaction that was applied although its
            response was lost.
        :param options: the deadline in them ends the attempts.
        :returns: the row that the statement was applied to, or None if the row does not exist.
        :raises VersionConflict: the row is at none of `versions`.
        :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
        """
        # A plain read is cheaper than a serial one. If it is stale, the transaction's condition fails, and we read
        # again.
        row = self._read(session, row_id, replace(options, consistency_level=None))
        if row is None or (versions is not None and row.version not in versions):
            row = self._read_serially(session, row_id, options)
        # The error of an attempt whose outcome is unknown. After it, only our own version in the row proves success.
        unknown_outcome: StorageTimeout | None = None
        try:
            for attempt in itertools.count():
                if row is None:
                    if unknown_outcome is not None:
                        raise unknown_outcome
                    return None
                if versions is not None and row.version not in versions:
                    raise VersionConflict(
                        f"The {self._noun} is not at a version that the request accepts. "
                        f"Read the {self._noun} again before you retry."
                    )
                try:
                    if execute(session, statement, values(row), options).rows[0][0]:
                        return row
                except StorageTimeout as error:
                    if not can_be_settled(session, error, options):
                        raise
                    unknown_outcome = error
                before, row = row, self._read_serially(session, row_id, options)
                if row is not None and version is not None and row.version == version:
                    return before
                if unknown_outcome is not None and (row is None or row.version != before.version):
                    raise unknown_outcome
                # Another request writes the same row. Back off for a random time, so that one of them succeeds.
                time.sleep(min(random.uniform(0, 0.002 * 2 ** min(attempt, 9)), options.remaining()))
        except StorageError as error:
            if unknown_outcome is None or error is unknown_outcome:
                raise
            raise unknown_outcome from error
        raise AssertionError("the deadline ends the loop")

    def _read(self, session: Session, row_id: UUID, options: QueryOptions) -> Row | None:
        rows = execute(session, self._select, (row_id,), options).rows
        return self.row._make(rows[0]) if rows else None

    def _read_serially(self, session: Session, row_id: UUID, options: QueryOptions) -> Row | None:
        """Read the row after all transactions so far.

        A serial read completes or cancels transactions that are pending.
        """
        return self._read(session, row_id, replace(options, consistency_level=serial_level(session)))

    def _not_found(self) -> RowNotFound:
        return RowNotFound(f"{self._noun[0].upper()}{self._noun[1:]} not found")


def stream_by_id(session: Session, statement: Statement, limit: int, fetch_size: int, options: QueryOptions) -> Stream:
    """Stream at most `limit` rows of a whole table in token order, as JSON.

    :param statement: a SELECT with `json_rows` of the whole table, whose partition key is the UUID `id`.
    """
    if not is_worth_scanning(session, limit, fetch_size):
        return stream(session, statement, (), options, limit=limit, fetch_size=fetch_size)
    return scan(session, statement, options, partition_key="id", token=_token, limit=limit, fetch_size=fetch_size)


def _token(row: str) -> int:
    return murmur3_token(UUID(orjson.loads(row)["id"]).bytes)


def can_be_settled(session: Session, error: StorageTimeout, options: QueryOptions) -> bool:
    """Whether a serial read can prove that the transaction succeeded at its commit level.

    A serial read proves that a quorum has the write: a quorum of the local data center, or of all replicas with SERIAL.
    The commit level must not require more than that.
    """
    proven = ["ONE", "LOCAL_ONE", "LOCAL_QUORUM"]
    if serial_level(session) == "SERIAL":
        proven.append("QUORUM")
    return error.may_have_applied and (options.consistency_level or default_level(session)) in proven


def now() -> datetime:
    """The present time in milliseconds, which is what Cassandra stores."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
