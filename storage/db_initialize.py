"""Creates the keyspace, the tables and sample rows. Run it any number of times:

    python storage/db_initialize.py [--no-samples]

What is there already stays as it is, also rows that were changed or deleted since.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):
    # Run as a script: Python then looks for modules beside it, not in the project.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cassandra import InvalidRequest
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.protocol import ConfigurationException, SyntaxException

from settings import Settings, settings_or_exit
from storage import sample_data
from storage.db_connect import NotConnected, cluster_context, session_context

MIGRATIONS = Path(__file__).resolve().parent / "migrations"

# DDL waits for all nodes to agree on the schema.
_DDL_TIMEOUT = 60.0

_CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, sha256 text, applied_at timestamp)
"""
_SAMPLES = "sample rows"

# Timestamp 1 is the first microsecond of 1970: whatever anybody did to the row since is later and stays.
_SAMPLE_INSERTS: list[tuple[str, str, Callable[[], Iterable[tuple[Any, ...]]]]] = [
    (
        "animals",
        "INSERT INTO {keyspace}.animals (genus, species, image_url, size_cm, sightings, taxonomy) "
        "VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP 1",
        sample_data.animals,
    ),
    (
        "plants",
        "INSERT INTO {keyspace}.plants (genus, species, sightings) VALUES (?, ?, ?) USING TIMESTAMP 1",
        sample_data.plants,
    ),
    (
        "users",
        "INSERT INTO {keyspace}.users (id, name, email, age, created_at, updated_at, version) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP 1",
        sample_data.users,
    ),
]


class InitializeError(Exception):
    """What the user must do before it can go on."""


class MigrationStatement(NamedTuple):
    """One statement of a `.cql` file.

    :ivar optional: a comment `-- skip where refused: …` stands before it.
    """

    cql: str
    optional: bool


def initialize(settings: Settings, samples: bool = True, say: Callable[[str], None] = print) -> None:
    """Creates what is missing, in order: keyspace, tables, sample rows.

    :param say: gets a line of progress at a time.
    :raises InitializeError: with what the user must do.
    """
    try:
        with cluster_context(settings) as cluster, session_context(cluster, settings, None) as session:
            create_keyspace(session, settings, say)
            session.set_keyspace(settings.cassandra_keyspace)
            migrate(session, say)
            if samples:
                insert_samples(session, say)
    except NotConnected as error:
        where = "Astra DB" if settings.astra else f"{','.join(settings.cassandra_hosts)}:{settings.cassandra_port}"
        raise InitializeError(f"Cassandra at {where} can't be reached: {error}.") from error


def create_keyspace(session: Session, settings: Settings, say: Callable[[str], None]) -> None:
    """Creates the keyspace in the data centre at hand, with three replicas or as many as there are nodes.

    :raises InitializeError: on Astra DB, where only its console makes keyspaces, when it is missing.
    """
    keyspace = settings.cassandra_keyspace
    if keyspace in session.cluster.metadata.keyspaces:
        say(f"keyspace {keyspace}: there already")
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
    say(f"keyspace {keyspace}: created, {replicas} replica{'s'[: replicas > 1]} in {local_dc}")


def migrate(session: Session, say: Callable[[str], None]) -> None:
    """Applies the migrations that are not recorded yet, in the order of their numbers.

    :raises InitializeError: one that is recorded has another text now.
    """
    _ddl(session, _CREATE_MIGRATIONS)
    applied = dict(session.execute("SELECT name, sha256 FROM schema_migrations"))
    for path in sorted(MIGRATIONS.glob("[0-9]*.cql")):
        text = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if path.name in applied:
            if applied[path.name] != digest:
                raise InitializeError(
                    f"{path.name} was applied with another text. A migration stays as it is once it is applied; "
                    "put the change into a new one."
                )
            say(f"migration {path.name}: applied already")
            continue
        # All of the file is read before any of it is applied.
        for statement in list(parse_migration(text)):
            _apply(session, statement, say)
        _record(session, path.name, digest)
        say(f"migration {path.name}: applied")


def parse_migration(text: str) -> Iterator[MigrationStatement]:
    """The statements of a `.cql` file; each ends with a semicolon at the end of a line.

    :raises InitializeError: the last one has none.
    """
    lines: list[str] = []
    for line in text.splitlines():
        lines.append(line)
        if re.search(r";\s*(--.*)?$", line) and not line.lstrip().startswith("--"):
            optional = any(line.startswith("-- skip where refused") for line in lines)
            yield MigrationStatement("\n".join(lines).strip(), optional)
            lines = []
    if any(line.strip() and not line.lstrip().startswith("--") for line in lines):
        raise InitializeError(f"A statement has no semicolon at its end: {lines}")


def insert_samples(session: Session, say: Callable[[str], None]) -> None:
    """Inserts the sample rows, once: an interrupted run is finished by the next one."""
    if session.execute("SELECT name FROM schema_migrations WHERE name = %s", (_SAMPLES,)).one():
        say("sample rows: there already")
        return
    for table, insert, rows in _SAMPLE_INSERTS:
        prepared = session.prepare(insert.replace("{keyspace}", session.keyspace))
        total = 0
        for chunk in _chunks(rows(), 2000):
            execute_concurrent_with_args(session, prepared, chunk, concurrency=100)
            total += len(chunk)
            say(f"sample rows: {total:,} {table}")
    _record(session, _SAMPLES, "")


def _chunks(rows: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _apply(session: Session, statement: MigrationStatement, say: Callable[[str], None]) -> None:
    try:
        _ddl(session, statement.cql)
    except (InvalidRequest, ConfigurationException, SyntaxException) as error:
        if not statement.optional:
            raise
        say(f"skipped, this server refuses it: {error}")


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
        initialize(settings, samples=not arguments.no_samples, say=lambda line: print(line, flush=True))
    except InitializeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
