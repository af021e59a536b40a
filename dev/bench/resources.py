"""The application and the resources that the workloads use.

Older revisions have no tests/testbed. There the sample resources `users` and `plants` have the same columns and
operations, so `compare` measures those. Only this module uses the names of the sample resources.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cassandra.cluster import Session

from storage.schema.files import parse_migration
from tests.testbed.database import TABLES


class Resources(NamedTuple):
    """The names in one revision.

    :ivar app: the WSGI application.
    :ivar observers: the table of rows with a UUID. Its path is `/<observers>`.
    :ivar finds: the table with a partition for each genus.
    :ivar find: first part of the path of a partition, `/<find>/<genus>`.
    """

    app: str
    observers: str
    finds: str
    find: str


TESTBED = Resources("tests.testbed.wsgi:app", "observers", "finds", "find")
_SAMPLES = Resources("wsgi:app", "users", "plants", "plant")


def resources_of(project: Path) -> Resources:
    """Return the names in a checkout."""
    return TESTBED if (project / "tests" / "testbed" / "wsgi.py").exists() else _SAMPLES


def create_tables(session: Session, keyspace: str, resources: Resources) -> None:
    """Create the tables that are missing."""
    for statement in parse_migration(TABLES.read_text(), TABLES.name):
        cql = statement.cql
        for name, renamed in ((TESTBED.observers, resources.observers), (TESTBED.finds, resources.finds)):
            cql = cql.replace(f"{{keyspace}}.{name}", f"{keyspace}.{renamed}")
        session.execute(cql, timeout=60)
    # `observers` has no index. With the index of `users`, the database would do more work for the older revision.
    session.execute(f"DROP INDEX IF EXISTS {keyspace}.{resources.observers}_age", timeout=60)
