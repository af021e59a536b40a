"""The tables and the sample rows of the testbed."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from settings import Settings
from storage import db_initialize
from storage.cql.statement import cql_text
from storage.schema.files import parse_migration
from tests.testbed.sample_data import finds, observers

TABLES = Path(__file__).resolve().parent / "tables.cql"


def create_tables(session: Session, keyspace: str) -> None:
    """Create the tables that are missing."""
    for statement in parse_migration(TABLES.read_text(), TABLES.name):
        session.execute(statement.cql.replace("{keyspace}", keyspace), timeout=60)


def insert_samples(session: Session, keyspace: str) -> None:
    """Insert the sample rows."""
    for samples in (observers, finds):
        execute_concurrent_with_args(session, session.prepare(cql_text(samples.INSERT, keyspace)), samples.rows())


@contextmanager
def new_keyspace(session: Session, settings: Settings) -> Iterator[str]:
    """Create a keyspace with the schema of the product and of the testbed, and no rows.

    Yield its name, and drop it when the block ends.
    """
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    own_settings = settings.model_copy(update={"cassandra_keyspace": name})
    db_initialize.initialize(own_settings, samples=False, say=logging.getLogger("tests").info)
    create_tables(session, name)
    try:
        yield name
    finally:
        session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


def count_chunks(session: Session) -> int:
    """Return the number of chunks of imports in the keyspace of the session."""
    return int(session.execute("SELECT COUNT(*) FROM import_chunks").one()[0])
