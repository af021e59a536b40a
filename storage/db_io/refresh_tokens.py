"""Families of refresh tokens: one for each sign-in.

The database contains no token, only the number of the valid token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Annotated, NamedTuple
from uuid import UUID

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, execute
from storage.cql.consistency import serial_level
from storage.db_io.versioned import can_be_settled
from storage.errors import StorageError, StorageTimeout


class Family(NamedTuple):
    """A row of `refresh_token_families`.

    :ivar credentials: those of the account when it signed in.
    :ivar scopes: the scopes that the client asked for; None for all scopes of the account.
    :ivar generation: number of the valid token.
    :ivar rotated_at: when this token was issued.
    """

    family: Annotated[UUID, "uuid"]
    email: Annotated[str, "text"]
    account_id: Annotated[UUID, "uuid"]
    credentials: Annotated[UUID, "uuid"]
    scopes: Annotated[frozenset[str] | None, "frozen<set<text>>"]
    generation: Annotated[int, "int"]
    rotated_at: Annotated[datetime, "timestamp"]


# With timestamp 1, the row is older than every transaction, even if the clocks of nodes differ.
INSERT_FAMILY = Statement(
    "insert_refresh_token_family",
    "INSERT INTO {keyspace}.refresh_token_families ({columns}) VALUES ({values}) USING TIMESTAMP 1 AND TTL ?",
    Family._fields,
    kind="write",
)
SELECT_FAMILY = Statement(
    "select_refresh_token_family",
    "SELECT {columns} FROM {keyspace}.refresh_token_families WHERE family = ?",
    Family._fields,
)
# Set all columns, so that all of them have the same TTL.
ROTATE_FAMILY = Statement(
    "rotate_refresh_token_family",
    "UPDATE {keyspace}.refresh_token_families USING TTL ? SET {assignments} WHERE family = ? IF generation = ?",
    Family._fields[1:],
    kind="lwt",
    idempotent=False,
)
DELETE_FAMILY = Statement(
    "delete_refresh_token_family",
    "DELETE FROM {keyspace}.refresh_token_families WHERE family = ? IF EXISTS",
    kind="lwt",
)


def create_family(session: Session, family: Family, ttl: int, options: QueryOptions) -> None:
    """Store a new family.

    :param ttl: seconds.
    """
    execute(session, INSERT_FAMILY, (*family, ttl), options)


def find_family(session: Session, family: UUID, options: QueryOptions) -> Family | None:
    """Read a family; None if there is none, for example because it was deleted."""
    rows = execute(session, SELECT_FAMILY, (family,), options).rows
    return _family(rows[0]) if rows else None


def rotate_family(
    session: Session, family: Family, generation: int, rotated_at: datetime, ttl: int, options: QueryOptions
) -> Family | None:
    """Make the next token the valid one, if `generation` is the number of the valid token.

    :param ttl: seconds.
    :returns: the family after this call: unchanged if another token is the valid one; None if there is no family.
    :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
    """
    rotated = family._replace(generation=generation + 1, rotated_at=rotated_at)
    unknown_outcome = None
    try:
        if execute(session, ROTATE_FAMILY, (ttl, *rotated[1:], family.family, generation), options).rows[0][0]:
            return rotated
    except StorageTimeout as error:
        if not can_be_settled(session, error, options):
            raise
        unknown_outcome = error
    serial = replace(options, consistency_level=serial_level(session))
    if unknown_outcome is None:
        return find_family(session, family.family, serial)
    with suppress(StorageError):
        found = find_family(session, family.family, serial)
        if found is not None and found.generation > generation:
            return found
    raise unknown_outcome


def delete_family(session: Session, family: UUID, options: QueryOptions) -> None:
    """Delete a family, if it exists: all of its tokens become invalid."""
    execute(session, DELETE_FAMILY, (family,), options)


def _family(row: Sequence[object]) -> Family:
    family = Family._make(row)
    return family._replace(scopes=None if family.scopes is None else frozenset(family.scopes))
