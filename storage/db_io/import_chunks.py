"""Chunks of imports: valid rows that are not written to their table yet. They expire after a week."""

from __future__ import annotations

from typing import Annotated, NamedTuple
from uuid import UUID

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, execute

# Bytes of the values in a chunk. A chunk is one mutation, which Cassandra limits to 16 MiB by default.
CHUNK_BYTES = 256 * 1024


class Chunk(NamedTuple):
    """A row of `import_chunks`, without its key."""

    row_count: Annotated[int, "int"]
    position: Annotated[int, "bigint"]
    data: Annotated[bytes, "blob"]


INSERT_CHUNK = Statement(
    "insert_import_chunk",
    "INSERT INTO {keyspace}.import_chunks ({columns}) VALUES ({values})",
    ("job_id", "number", *Chunk._fields),
    kind="write",
)
SELECT_CHUNK = Statement(
    "select_import_chunk",
    "SELECT {columns} FROM {keyspace}.import_chunks WHERE job_id = ? AND number = ?",
    Chunk._fields,
)
DELETE_CHUNK = Statement(
    "delete_import_chunk", "DELETE FROM {keyspace}.import_chunks WHERE job_id = ? AND number = ?", kind="write"
)


def store_chunk(session: Session, job_id: UUID, number: int, chunk: Chunk, options: QueryOptions) -> None:
    """Store a chunk."""
    execute(session, INSERT_CHUNK, (job_id, number, *chunk), options)


def read_chunk(session: Session, job_id: UUID, number: int, options: QueryOptions) -> Chunk | None:
    """Read a chunk; None if it has expired or was deleted."""
    rows = execute(session, SELECT_CHUNK, (job_id, number), options).rows
    return Chunk._make(rows[0]) if rows else None


def delete_chunks(session: Session, job_id: UUID, count: int, options: QueryOptions) -> None:
    """Delete the chunks 0 to `count` - 1."""
    for number in range(count):
        execute(session, DELETE_CHUNK, (job_id, number), options)
