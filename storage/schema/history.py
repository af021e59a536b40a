"""The table `schema_migrations`: the migrations of a keyspace, and how far each of them got.

It also records for which tables the sample rows were inserted (`storage/db_initialize.py`). Before 0.3.0 it had the
columns `name`, `sha256` and `applied_at` only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cassandra import ConsistencyLevel
from cassandra.cluster import ResultSet, Session
from cassandra.query import SimpleStatement

from storage.schema.files import FILE_NAME, Migration
from storage.schema.lock import LeaseLost
from storage.schema.transactions import column_names, create_table, execute_ddl, has_table, query, transaction

TABLE = "schema_migrations"

_COLUMNS = {
    "name": "text",
    # Of the file. Null until all of its statements are done: a runner from before 0.3.0 then refuses to continue.
    "sha256": "text",
    "applied_at": "timestamp",
    "applied_by": "text",
    "duration_ms": "bigint",
    # The checksums of the statements that are done, in their order.
    "done": "frozen<list<text>>",
    # Number of the statement that was sent to Cassandra and is not done, from 1.
    "started": "int",
    # The runner that applies the migration. A runner that lost its lease can't write any more.
    "owner": "uuid",
}
_SELECT = SimpleStatement(f"SELECT * FROM {TABLE}", consistency_level=ConsistencyLevel.QUORUM)
# A serial read first completes a transaction that a killed runner left behind.
_SELECT_ONE = SimpleStatement(f"SELECT * FROM {TABLE} WHERE name = %s", consistency_level=ConsistencyLevel.SERIAL)
_CLAIM = f"UPDATE {TABLE} SET owner = %s WHERE name = %s IF owner = %s"
_START = f"UPDATE {TABLE} SET started = %s WHERE name = %s IF owner = %s"
_DONE = f"UPDATE {TABLE} SET started = null, done = %s, duration_ms = %s WHERE name = %s IF owner = %s"
_COMPLETE = f"UPDATE {TABLE} SET sha256 = %s, applied_at = %s, applied_by = %s WHERE name = %s IF owner = %s"


class Entry(NamedTuple):
    """A migration in the history.

    :ivar sha256: of the file; None if the migration is not complete.
    :ivar applied_by: host name and process id; None before 0.3.0, as are `duration_ms` and `done`.
    :ivar duration_ms: of its statements, in all runs.
    :ivar done: checksums of the statements that are done.
    :ivar started: number of the statement whose outcome is not known, from 1.
    """

    name: str
    sha256: str | None = None
    applied_at: datetime | None = None
    applied_by: str | None = None
    duration_ms: int | None = None
    done: list[str] | None = None
    started: int | None = None
    owner: uuid.UUID | None = None

    @property
    def number(self) -> int:
        return int(self.name.split("_")[0])

    @property
    def is_complete(self) -> bool:
        return self.sha256 is not None

    @property
    def is_partial(self) -> bool:
        """Whether some of its statements were applied, or may have been."""
        return not self.is_complete and bool(self.done or self.started)


def read(session: Session) -> dict[str, Entry]:
    """The entries by the name of their file, in the order of their numbers; empty without the table."""
    if not has_table(session, TABLE):
        return {}
    migrations = [entry for entry in _entries(query(session, _SELECT)) if FILE_NAME.fullmatch(entry.name)]
    return {entry.name: entry for entry in sorted(migrations, key=lambda entry: entry.number)}


def read_one(session: Session, name: str) -> Entry:
    """The entry of one migration as the last runner left it. Needs the table."""
    return next(_entries(query(session, _SELECT_ONE, (name,))), Entry(name))


def _entries(result: ResultSet) -> Iterator[Entry]:
    names = result.column_names
    for row in result:
        yield Entry(**{name: value for name, value in zip(names, row, strict=True) if name in Entry._fields})


def create(session: Session) -> None:
    """Create the table, or add the columns that it did not have before 0.3.0. Needs the lock."""
    definitions = ", ".join(f"{name} {cql_type}" for name, cql_type in _COLUMNS.items())
    create_table(session, TABLE, f"{definitions}, PRIMARY KEY (name)")
    existing = column_names(session, TABLE)
    missing = [f"{name} {cql_type}" for name, cql_type in _COLUMNS.items() if name not in existing]
    if missing:
        execute_ddl(session, f"ALTER TABLE {TABLE} ADD ({', '.join(missing)})")


class Progress:
    """Records the progress of one migration. Only the runner that claimed the migration can write."""

    def __init__(self, session: Session, entry: Entry, owner: uuid.UUID) -> None:
        """Claim the migration.

        :param entry: from `read_one()`.
        :raises LeaseLost: another runner has claimed it.
        """
        self._session, self._name, self._owner = session, entry.name, owner
        self._done, self._duration_ms = list(entry.done or []), entry.duration_ms or 0
        current = transaction(session, _CLAIM, (owner, self._name, entry.owner))
        # The owner is this runner if an attempt succeeded whose response was lost.
        if current not in (None, (owner,)):
            raise LeaseLost(f"{self._name}: another runner has taken over.")

    def start(self, number: int) -> None:
        """Record that a statement is sent to Cassandra next.

        :param number: of the statement, from 1.
        :raises LeaseLost: another runner has claimed the migration.
        """
        self._write(_START, number)

    def refused(self) -> None:
        """Record that Cassandra refused the started statement, so that it certainly had no effect."""
        self._write(_START, None)

    def done(self, checksum: str, duration: float) -> None:
        """Record that the started statement is done.

        :param duration: seconds.
        """
        self._done.append(checksum)
        self._duration_ms += round(duration * 1000)
        self._write(_DONE, self._done, self._duration_ms)

    def complete(self, migration: Migration, instance: str) -> None:
        """Record that the whole migration was applied."""
        self._write(_COMPLETE, migration.checksum, datetime.now(UTC), instance)

    def _write(self, cql: str, *values: Any) -> None:
        if transaction(self._session, cql, (*values, self._name, self._owner)) is not None:
            raise LeaseLost(f"{self._name}: another runner has taken over.")
