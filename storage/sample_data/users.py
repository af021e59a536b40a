"""Sample users."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid5

from storage.db_io.users import INSERT_USER, User

INSERT = INSERT_USER

_NAMES = ["Ada", "Bela", "Cleo", "Dara", "Emil", "Fen", "Gita", "Hugo", "Ines", "Jun"]
_USERS = 50
_NAMESPACE = UUID("8a6e3a56-6c0f-4d2b-9d1e-3f3a5b7f9c10")
_CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def rows() -> Iterator[User]:
    """The rows, in any order. Ids and versions are the same in every keyspace."""
    for number in range(_USERS):
        yield User(
            id=uuid5(_NAMESPACE, f"user {number}"),
            name=f"{_NAMES[number % len(_NAMES)]} {chr(65 + number // len(_NAMES))}.",
            email=f"observer{number:02}@example.org",
            age=18 + number * 37 % 63,
            created_at=_CREATED,
            updated_at=_CREATED,
            version=uuid5(_NAMESPACE, f"version {number}"),
        )
