"""Create the keyspace, the tables and sample rows. It is safe to repeat:

    python storage/db_initialize.py [--no-samples]

Existing tables and rows stay unchanged. Sample rows that were changed or deleted are not restored.
"""

from __future__ import annotations

import argparse
import hashlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    # Run as a script: Python then searches this directory for modules, not the project's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Cluster, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.protocol import ConfigurationException, SyntaxException

from settings import Settings, SettingsError, require_version, settings_or_exit
from storage import DRIVER_VERSIONS, sample_data
from storage.cql.statement import cql_text
from storage.db_connect import NotConnected, cluster_context, session_context

MIGRATIONS = Path(__file__).resolve().parent / "migrations"

# Seconds. A schema change waits until all nodes agree on the schema.
_DDL_TIMEOUT = 60.0

_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, sha256 text, applied_at timestamp)
"""
# schema_migrations also records for which tables the sample rows were inserted, under this prefix and the table's name.
_SAMPLES = "sample rows: "


class InitializeError(Exception):
    """Initialization can't continue; the message says what the user must do."""


class MigrationStatement(NamedTuple):
    """One statement of a `.cql` file.

    :ivar optional: the statement follows a comment `-- skip where refused: …`. Servers that refuse it do not fail the
        migration.
    """

    cql: str
    optional: bool


def initialize(settings: Settings, samples: bool = True, say: Callable[[str], None] = print) -> None:
    """Create what is missing, in this order: keyspace, tables, sample rows.

    :param samples: insert the sample rows.
    :param say: called with each line of progress.
    :raises InitializeError: the message says what the user must do.
    """
    keyspace = settings.cassandra_keyspace
    try:
        with cluster_context(settings) as cluster, session_context(cluster, settings, None) as session:
            create_keyspace(session, settings, say)
            session.set_keyspace(keyspace)
            migrate(session, say)
            if samples and (missing := _missing_samples(session, say)):
                with _cluster_at_timestamp_1(settings) as old, session_context(old, settings, keyspace) as writer:
                    for table in missing:
                        insert_samples(writer, table, say)
                        _record(session, _SAMPLES + table, "")
    except NotConnected as error:
        where = "Astra DB" if settings.astra else f"{','.join(settings.cassandra_hosts)}:{settings.cassandra_port}"
        raise InitializeError(f"Cassandra at {where} can't be reached: {error}.") from error
    except Unauthorized as error:
        raise InitializeError(
            f"Cassandra refuses to change keyspace {keyspace}: {error}. Grant this permission, or let another user "
            "create the keyspace, then run this again."
        ) from error


@contextmanager
def _cluster_at_timestamp_1(settings: Settings) -> Iterator[Cluster]:
    """A cluster whose writes have timestamp 1, the first microsecond of 1970.

    A change that a client made to a sample row is always newer, so it stays when an interrupted run is repeated.
    """
    with cluster_context(settings) as cluster:
        cluster.timestamp_generator = lambda: 1
        yield cluster


def create_keyspace(session: Session, settings: Settings, say: Callable[[str], None]) -> None:
    """Create the keyspace in the local data center.

    It gets CASSANDRA_REPLICATION_FACTOR replicas; by default three, or as many as there are nodes if fewer.

    :raises InitializeError: the keyspace is missing on Astra DB, where only the console can create it.
    """
    keyspace = settings.cassandra_keyspace
    if keyspace in session.cluster.metadata.keyspaces:
        say(f"keyspace {keyspace}: exists already")
        return
    if settings.astra:
        raise InitializeError(f"Astra DB has no keyspace {keyspace}: add it in the Astra console, then run this again.")
    (local_dc,) = session.execute("SELECT data_center FROM system.local").one()
    local_dc = settings.cassandra_local_dc or local_dc
    nodes = sum(1 for host in session.cluster.metadata.all_hosts() if host.datacenter == local_dc)
    replicas = settings.cassandra_replication_factor or min(3, nodes)
    _ddl(
        session,
        f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', '{local_dc}': {replicas}}}",
    )
    say(f"keyspace {keyspace}: created, {replicas} {'replica' if replicas == 1 else 'replicas'} in {local_dc}")


def migrate(session: Session, say: Callable[[str], None]) -> None:
    """Apply the migrations that are not recorded yet, in the order of their numbers.

    :raises InitializeError: the text of a recorded migration has changed, or Cassandra refuses a statement.
    """
    _ddl(session, _CREATE_MIGRATIONS)
    applied = dict(session.execute("SELECT name, sha256 FROM schema_migrations"))
    for path in sorted(MIGRATIONS.glob("[0-9]*.cql")):
        text = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if path.name in applied:
            if applied[path.name] != digest:
                raise InitializeError(
                    f"{path.name} has changed since it was applied. Restore its text, and put the change into a new "
                    "migration."
                )
            say(f"migration {path.name}: applied already")
            continue
        # The whole file is parsed before its first statement is applied.
        for statement in list(parse_migration(text)):
            try:
                _apply(session, statement, say)
            except (InvalidRequest, ConfigurationException, SyntaxException) as error:
                raise InitializeError(f"{path.name}: Cassandra refuses\n{statement.cql}\n{error}") from error
        _record(session, path.name, digest)
        say(f"migration {path.name}: applied")


def parse_migration(text: str) -> Iterator[MigrationStatement]:
    """The statements of a `.cql` file. Each ends with a semicolon at the end of a line.

    :raises InitializeError: the last statement has no semicolon.
    """
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(line)
        if re.search(r";\s*(--.*)?$", line) and not line.lstrip().startswith("--"):
            optional = any(line.startswith("-- skip where refused") for line in lines)
            yield MigrationStatement("\n".join(lines).strip(), optional)
            lines = []
    if any(line.strip() and not line.lstrip().startswith("--") for line in lines):
        raise InitializeError(f"A statement has no semicolon at its end: {' '.join(lines).strip()}")


def _missing_samples(session: Session, say: Callable[[str], None]) -> list[str]:
    """The modules of `storage/sample_data/` whose rows were not inserted yet."""
    recorded = {name for (name,) in session.execute("SELECT name FROM schema_migrations")}
    missing = []
    for table in sorted(module.name for module in pkgutil.iter_modules(sample_data.__path__)):
        # Before 0.2.0 one record stood for all tables.
        if _SAMPLES + table in recorded or "sample rows" in recorded:
            say(f"sample rows of {table}: exist already")
        else:
            missing.append(table)
    return missing


def insert_samples(session: Session, table: str, say: Callable[[str], None]) -> None:
    """Insert the sample rows of one module of `storage/sample_data/`.

    :param table: name of the module and of its table.
    """
    samples = import_module(f"{sample_data.__name__}.{table}")
    prepared = session.prepare(cql_text(samples.INSERT, session.keyspace))
    total = 0
    for chunk in _chunks(samples.rows(), 2000):
        execute_concurrent_with_args(session, prepared, chunk, concurrency=100)
        total += len(chunk)
    say(f"sample rows of {table}: {total:,}")


def _chunks(rows: Iterable[Sequence[Any]], size: int) -> Iterator[list[Sequence[Any]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _apply(session: Session, statement: MigrationStatement, say: Callable[[str], None]) -> None:
    try:
        _ddl(session, statement.cql)
    except (InvalidRequest, ConfigurationException, SyntaxException) as error:
        if not statement.optional:
            raise
        say(f"skipped, because this server refuses it: {error}")


def _ddl(session: Session, cql: str) -> None:
    future = session.execute_async(cql, timeout=_DDL_TIMEOUT)
    future.result()
    if not future.is_schema_agreed:
        raise InitializeError("The nodes do not agree on the schema yet. Wait until all are up, then run this again.")


def _record(session: Session, name: str, digest: str) -> None:
    session.execute(
        "INSERT INTO schema_migrations (name, sha256, applied_at) VALUES (%s, %s, %s)",
        (name, digest, datetime.now(UTC)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Create the keyspace, the tables and sample rows; safe to repeat.")
    parser.add_argument("--no-samples", action="store_true", help="no sample rows (for a deployment)")
    arguments = parser.parse_args()
    settings = settings_or_exit()
    try:
        require_version("cassandra-driver", DRIVER_VERSIONS, used_by="storage/cql/driver.py")
        initialize(settings, samples=not arguments.no_samples, say=lambda line: print(line, flush=True))
    except (InitializeError, SettingsError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
