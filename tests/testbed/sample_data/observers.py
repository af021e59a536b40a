"""Sample observers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid5

from tests.testbed.db_io.observers import INSERT_OBSERVER, Observer

INSERT = INSERT_OBSERVER

_NAMESPACE = UUID("3f0b8f0c-9d2e-4a57-8c61-5d6e7f809a1b")
_CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def rows() -> Iterator[Observer]:
    """The rows, in any order. Ids and versions are the same in every keyspace."""
    for number in range(50):
        yield Observer(
            id=uuid5(_NAMESPACE, f"observer {number}"),
            name=f"Observer {number}",
            email=f"observer{number}@example.org",
            age=18 + number,
            created_at=_CREATED,
            updated_at=_CREATED,
            version=uuid5(_NAMESPACE, f"version {number}"),
        )
