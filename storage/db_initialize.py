"""Create the keyspace, apply the migrations, and insert sample rows. It is safe to repeat:

    python storage/db_initialize.py [--no-samples]

`flask --app api db upgrade` does the same without sample rows. Sample rows that were changed or deleted are not
restored.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Run as a script: Python then searches this directory for modules, not the project's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cassandra import DriverException, Unauthorized
from cassandra.cluster import Cluster, NoHostAvailable, Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.protocol import ErrorMessage

from environment import require_version, settings_or_exit
from settings import Settings, SettingsError
from storage import DRIVER_VERSIONS, sample_data
from storage.cql.statement import cql_text
from storage.db_connect import NotConnected, cluster_context, session_context
from storage.schema import SchemaError
from storage.schema.files import MIGRATIONS, read_migrations
from storage.schema.runner import check_target, upgrade
from storage.schema.transactions import execute_ddl, use_keyspace

# schema_migrations also records for which tables the sample rows were inserted, under this prefix and the table's name.
_SAMPLES = "sample rows: "


def initialize(
    settings: Settings,
    samples: bool = True,
    say: Callable[[str], None] = print,
    target: int | None = None,
    directory: Path = MIGRATIONS,
) -> list[str]:
    """Create what is missing, in this order: keyspace, tables, sample rows.

    :param samples: insert the sample rows.
    :param say: called with each line of progress.
    :param target: number of the last migration to apply; None for all.
    :param directory: of the migrations.
    :returns: names of the applied migrations.
    :raises SchemaError: the message says what the user must do.
    """
    keyspace = settings.cassandra_keyspace
    migrations = read_migrations(directory)
    check_target(migrations, target)
    with admin_session(settings) as session:
        create_keyspace(session, settings, say)
        use_keyspace(session, keyspace)
        applied = upgrade(session, migrations, say, target)
        if samples and (missing := _missing_samples(session, say)):
            with _cluster_at_timestamp_1(settings) as old, session_context(old, settings, keyspace) as writer:
                for table in missing:
                    insert_samples(writer, table, say)
                    _record_samples(session, table)
    return applied


@contextmanager
def admin_session(settings: Settings) -> Iterator[Session]:
    """A session without a keyspace, for commands that change or read the schema.

    :raises SchemaError: Cassandra can't be reached or fails, or the role lacks a permission.
    """
    where = server(settings)
    try:
        with cluster_context(settings) as cluster, session_context(cluster, settings, None, True) as session:
            yield session
    except NotConnected as error:
        raise SchemaError(f"Cassandra at {where} can't be reached: {error}.") from error
    except Unauthorized as error:
        raise SchemaError(f"Cassandra refuses this: {error}. Grant this permission, or use another role.") from error
    except (DriverException, NoHostAvailable, ErrorMessage) as error:
        raise SchemaError(f"Cassandra at {where} does not answer as expected: {error}. Run it again.") from error


def server(settings: Settings) -> str:
    """The server that the settings name, for messages."""
    return "Astra DB" if settings.astra else f"{','.join(settings.cassandra_hosts)}:{settings.cassandra_port}"


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

    :raises SchemaError: the keyspace is missing on Astra DB, where only the console can create it.
    """
    keyspace = settings.cassandra_keyspace
    if keyspace in session.cluster.metadata.keyspaces:
        say(f"keyspace {keyspace}: exists already")
        return
    if settings.astra:
        raise SchemaError(f"Astra DB has no keyspace {keyspace}: add it in the Astra console, then run this again.")
    (local_dc,) = session.execute("SELECT data_center FROM system.local").one()
    local_dc = settings.cassandra_local_dc or local_dc
    nodes = sum(1 for host in session.cluster.metadata.all_hosts() if host.datacenter == local_dc)
    replicas = settings.cassandra_replication_factor or min(3, nodes)
    execute_ddl(
        session,
        f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', '{local_dc}': {replicas}}}",
    )
    say(f"keyspace {keyspace}: created, {replicas} {'replica' if replicas == 1 else 'replicas'} in {local_dc}")


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


def _record_samples(session: Session, table: str) -> None:
    session.execute(
        "INSERT INTO schema_migrations (name, sha256, applied_at) VALUES (%s, '', %s)",
        (_SAMPLES + table, datetime.now(UTC)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Create the keyspace, the tables and sample rows; safe to repeat.")
    parser.add_argument("--no-samples", action="store_true", help="no sample rows (for a deployment)")
    arguments = parser.parse_args()
    settings = settings_or_exit()
    try:
        require_version("cassandra-driver", DRIVER_VERSIONS, used_by="storage/cql/driver.py")
        initialize(settings, samples=not arguments.no_samples, say=lambda line: print(line, flush=True))
    except (SchemaError, SettingsError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
