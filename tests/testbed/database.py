"""The tables and the sample rows of the testbed."""

from __future__ import annotations

from pathlib import Path

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from storage.cql.statement import cql_text
from storage.db_initialize import parse_migration
from tests.testbed.db_io import observers
from tests.testbed.db_io.finds import INSERT_FIND, Find

TABLES = Path(__file__).resolve().parent / "tables.cql"

OBSERVERS = [
    observers.TABLE.new({"name": f"Observer {number}", "email": f"observer{number}@example.org", "age": 18 + number})
    for number in range(20)
]
# Hieracium has several pages of rows.
FINDS = [
    Find("Quercus", "robur", 41),
    Find("Quercus", "petraea", 17),
    Find("Primula", "veris", 58),
    *(Find("Hieracium", f"forma-{number:04}", number % 7) for number in range(3000)),
]


def create_tables(session: Session, keyspace: str) -> None:
    """Create the tables that are missing."""
    for statement in parse_migration(TABLES.read_text()):
        session.execute(statement.cql.replace("{keyspace}", keyspace), timeout=60)


def insert_samples(session: Session, keyspace: str) -> None:
    """Insert the sample rows."""
    for insert, rows in ((observers.INSERT_OBSERVER, OBSERVERS), (INSERT_FIND, FINDS)):
        execute_concurrent_with_args(session, session.prepare(cql_text(insert, keyspace)), rows)
