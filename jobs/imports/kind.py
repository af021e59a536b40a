"""Imports as a kind of background job: each step writes the rows of one chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.engine import Kind, Progress, StepFailed, UnknownHere
from jobs.imports.upload import Importable
from storage.cql import QueryOptions, Table
from storage.cql.bulk_write import unpack_rows, write_rows
from storage.db_connect import Session
from storage.db_io.import_chunks import delete_chunks, read_chunk
from storage.db_io.jobs import Job
from storage.errors import RowsRefused


class Imports:
    """The kind of job `import`."""

    def __init__(self, tables: Mapping[str, Table[Any]]) -> None:
        """:param tables: by the name of the resource."""
        self._tables = tables

    def step(self, session: Session, job: Job, options: QueryOptions) -> Progress:
        """Write the rows of the next chunk. Repeating it writes the same rows.

        :raises StepFailed: the chunk has expired, or Cassandra rejects a row.
        :raises UnknownHere: this version has no such resource.
        """
        table = self._tables.get(job.resource)
        if table is None:
            raise UnknownHere(f"This version of the service has no resource {job.resource}.")
        chunk = read_chunk(session, job.id, job.checkpoint, options)
        if chunk is None:
            raise StepFailed("The rows of the import have expired. Send the file again.")
        statement = table.import_statement
        first = None
        if statement.cql.endswith("TIMESTAMP ?"):
            # The last row of the file has the creation time of the job, and each row before it a microsecond less: if
            # two lines have the same key, the last one wins. An insert at timestamp 1 has no such value.
            first = job.timestamp - job.rows_total + job.rows_done + 1
        try:
            write_rows(session, statement, unpack_rows(chunk.data), options, first_timestamp=first)
        except RowsRefused as error:
            first_row, last_row = job.rows_done + 1, job.rows_done + chunk.row_count
            raise StepFailed(
                f"Cassandra rejects one of the valid rows {first_row} to {last_row} of the file: {error}"
            ) from error
        return Progress(chunk.row_count, chunk.position)

    def clean_up(self, session: Session, job: Job, options: QueryOptions) -> None:
        """Delete the chunks."""
        delete_chunks(session, job.id, job.chunks, options)


def kinds_of_jobs(resources: Iterable[Importable]) -> dict[str, Kind]:
    """The kinds of jobs of a service by name, for the engine."""
    return {"import": Imports({resource.name: resource.table for resource in resources})}
