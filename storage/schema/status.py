"""The migrations that a running service still needs."""

from __future__ import annotations

from functools import cache
from weakref import WeakSet

from cassandra import InvalidRequest
from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, execute
from storage.errors import StorageError
from storage.schema.files import MIGRATIONS

SELECT_MIGRATIONS = Statement(
    "select_migrations",
    # Without `WHERE name IN`: Astra DB refuses to select more than 20 partitions by key.
    "SELECT {columns} FROM {keyspace}.schema_migrations",
    ("name", "sha256"),
)

# Sessions whose keyspace has all migrations. No migration is ever undone, so these need no further query.
_up_to_date: WeakSet[Session] = WeakSet()


@cache
def _names() -> tuple[str, ...]:
    # Only the names: an invalid file must not stop a running service.
    return tuple(sorted(path.name for path in MIGRATIONS.glob("*.cql")))


def pending_migrations(session: Session, options: QueryOptions) -> list[str]:
    """Names of the migrations that the session's keyspace does not have. At most one query.

    :raises StorageError: Cassandra did not answer in time.
    """
    if session in _up_to_date:
        return []
    try:
        rows = execute(session, SELECT_MIGRATIONS, (), options).rows
    except StorageError as error:
        if not (isinstance(error.__cause__, InvalidRequest) and "schema_migrations" in str(error.__cause__)):
            raise
        # There is no such table.
        rows = []
    complete = {name for name, sha256 in rows if sha256 is not None}
    pending = [name for name in _names() if name not in complete]
    if not pending:
        _up_to_date.add(session)
    return pending
