"""Finds: one partition per genus, rows ordered by species."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from cassandra.cluster import Session

from storage.cql import KeyRange, Page, QueryOptions, Statement, Stream, Table, execute, in_range, stream
from storage.errors import RowNotFound


class Find(NamedTuple):
    """A row of `finds`."""

    genus: Annotated[str, "text"]
    species: Annotated[str, "text"]
    sightings: Annotated[int, "int"]


INSERT_FIND = Statement(
    "insert_find",
    "INSERT INTO {keyspace}.finds ({columns}) VALUES ({values})",
    Find._fields,
    kind="write",
)
SELECT_FIND = Statement(
    "select_find",
    "SELECT {columns} FROM {keyspace}.finds WHERE genus = ? AND species = ?",
    Find._fields,
)
SELECT_FINDS = Statement(
    "select_finds",
    "SELECT {columns} FROM {keyspace}.finds WHERE genus = ?",
    Find._fields,
    json_rows=True,
)
DELETE_FIND = Statement(
    "delete_find",
    "DELETE FROM {keyspace}.finds WHERE genus = ? AND species = ?",
    kind="write",
)

TABLE = Table("finds", Find, insert=INSERT_FIND, partition_key=("genus",), clustering_key={"species": "asc"})


def store_find(session: Session, find: Find, options: QueryOptions) -> None:
    """Insert or replace a find."""
    execute(session, INSERT_FIND, find, options)


def retrieve_find(session: Session, genus: str, species: str, options: QueryOptions) -> Find:
    """Read one find.

    :raises RowNotFound: the find does not exist.
    """
    rows = execute(session, SELECT_FIND, (genus, species), options).rows
    if not rows:
        raise RowNotFound("Find not found")
    return Find._make(rows[0])


def stream_finds(session: Session, genus: str, key_range: KeyRange, options: QueryOptions) -> Stream:
    """Stream the finds of a genus in a range of species."""
    statement, values = in_range(TABLE, SELECT_FINDS, (genus,), key_range)
    return stream(session, statement, values, options)


def retrieve_finds_page(
    session: Session, genus: str, key_range: KeyRange, limit: int, paging_state: bytes | None, options: QueryOptions
) -> Page:
    """Read one page of at most `limit` finds of a genus in a range of species.

    :param paging_state: from the previous page.
    :raises PagingStateRefused: the server does not accept the paging state.
    """
    statement, values = in_range(TABLE, SELECT_FINDS, (genus,), key_range)
    return execute(session, statement, values, options, fetch_size=limit, paging_state=paging_state)


def delete_find(session: Session, genus: str, species: str, options: QueryOptions) -> None:
    """Delete a find, if it exists."""
    execute(session, DELETE_FIND, (genus, species), options)
