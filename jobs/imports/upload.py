"""The first half of an import: check the rows of a file and store them in chunks. No row of the table is written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import orjson

from jobs.imports.records import FileFormat, Row, read_rows
from schemas.base import MAX_ERRORS, Body
from storage.cql import QueryOptions, Table
from storage.cql.bulk_write import pack_rows, row_binder
from storage.db_connect import Session
from storage.db_io.import_chunks import CHUNK_BYTES, Chunk, delete_chunks, store_chunk
from storage.db_io.jobs import Job, new_job
from storage.errors import StorageError, StorageTimeout, StorageUnavailable

# Seconds between the tries to store a chunk.
_PAUSES = (0.5, 2.0)


class Importable(Protocol):
    """What an import must know about a resource."""

    @property
    def name(self) -> str: ...
    @property
    def table(self) -> Table[Any]: ...
    @property
    def body(self) -> type[Body]: ...


class TooManyRows(Exception):
    """The file has more valid rows than the caller accepts. Nothing was stored."""


class Upload(NamedTuple):
    """A file whose valid rows are stored in chunks.

    :ivar job: not stored yet; its row counts the chunks and the valid rows.
    :ivar read: lines with a row, valid or not.
    :ivar failed: lines that are not valid.
    :ivar errors: the first errors: dicts with `line`, `loc` and `msg`.
    """

    job: Job
    read: int
    failed: int
    errors: list[dict[str, Any]]


def store_upload(
    session: Session,
    resource: Importable,
    file_format: FileFormat,
    chunks: Iterable[bytes],
    owner: str,
    options: QueryOptions,
    *,
    max_line: int,
    max_rows: int | None = None,
) -> Upload:
    """Check all rows of a file, and store the valid ones in chunks.

    :param chunks: the bytes of the file.
    :param owner: the caller.
    :param max_line: bytes of a row.
    :param max_rows: the greatest number of valid rows; None for no limit.
    :raises TooManyRows: there are more.
    :raises FileError: the file as a whole can't be read.
    :raises StorageError: a chunk can't be stored.
    """
    writer = _ChunkWriter(session, new_job("import", resource.name, owner), resource.table, options)
    read = failed = 0
    errors: list[dict[str, Any]] = []
    try:
        for found in read_rows(_counted(chunks, writer), file_format, resource.body, max_line):
            read += 1
            if isinstance(found, Row):
                if writer.rows == max_rows:
                    raise TooManyRows
                writer.add(found)
            else:
                failed += 1
                errors += [each._asdict() for each in found[: MAX_ERRORS - len(errors)]]
        writer.flush()
    except BaseException:
        discard(session, writer.job(), options)
        raise
    job = writer.job()._replace(rows_failed=failed, errors=orjson.dumps(errors).decode())
    return Upload(job, read, failed, errors)


def discard(session: Session, job: Job, options: QueryOptions) -> None:
    """Delete the chunks of a job that will not be stored. If this fails, they expire."""
    with suppress(StorageError):
        # The deadline of the request may have passed.
        delete_chunks(session, job.id, job.chunks, replace(options, deadline=None))


def _counted(chunks: Iterable[bytes], writer: _ChunkWriter) -> Iterator[bytes]:
    for chunk in chunks:
        writer.bytes_read += len(chunk)
        yield chunk


class _ChunkWriter:
    """Collects rows, and stores them when they fill a chunk."""

    def __init__(self, session: Session, job: Job, table: Table[Any], options: QueryOptions) -> None:
        self.rows = 0
        self.bytes_read = 0
        self._session, self._job, self._table, self._options = session, job, table, options
        # Not the import statement, whose write timestamp is added when the rows are written.
        insert = table.insert
        if insert is None:
            raise TypeError(f"rows can't be imported into {table.name}, because it has no `insert`")
        self._columns = insert.columns
        self._bind = row_binder(session, insert, options)
        self._collected: list[list[bytes | None]] = []
        self._size = 0
        self._stored = 0

    def add(self, row: Row) -> None:
        values = self._bind(self._table.imported(dict(row.body), self._job.id, self._job.created_at, row.line))
        self._collected.append(values)
        self.rows += 1
        self._size += sum(len(value) for value in values if value is not None)
        if self._size >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store the collected rows as a chunk."""
        if self._collected:
            data = pack_rows(self._columns, self._collected)
            # Counted before it is stored: a failed write may have stored it.
            self._stored += 1
            chunk = Chunk(len(self._collected), self.bytes_read, data)
            self._store(chunk)
            self._collected, self._size = [], 0

    def _store(self, chunk: Chunk) -> None:
        """Store a chunk. It may be stored twice, so a try that fails is repeated: the client can't repeat a part."""
        for pause in (*_PAUSES, None):
            try:
                store_chunk(self._session, self._job.id, self._stored - 1, chunk, self._options)
                return
            except (StorageUnavailable, StorageTimeout):
                if pause is None:
                    raise
                time.sleep(min(pause, self._options.remaining()))

    def job(self) -> Job:
        """The job as far as it is known."""
        return self._job._replace(chunks=self._stored, rows_total=self.rows, bytes_total=self.bytes_read)
