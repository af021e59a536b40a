"""The rows of a file: NDJSON, or CSV with a header. Each row is validated by the model of its resource.

The memory that this takes is bounded by the longest row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import orjson

from jobs.imports.csv_records import csv_documents
from jobs.imports.lines import BOM, FileError, LineError, lines
from schemas.base import Body, InvalidInput

__all__ = ["FileError", "FileFormat", "LineError", "Row", "format_of_name", "read_rows"]

FileFormat = Literal["ndjson", "csv"]
_SUFFIXES: dict[str, FileFormat] = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}


class Row(NamedTuple):
    """A valid row.

    :ivar line: number of the line in which it begins, from 1. In CSV, line 1 is the header.
    """

    line: int
    body: Body


def format_of_name(name: str) -> FileFormat | None:
    """The format that follows from the name of a file; None if it has another suffix."""
    return next((each for suffix, each in _SUFFIXES.items() if name.lower().endswith(suffix)), None)


def read_rows(
    chunks: Iterable[bytes], file_format: FileFormat, model: type[Body], max_line: int
) -> Iterator[Row | list[LineError]]:
    """Read and validate the rows of a file. Blank lines are skipped.

    :param chunks: the bytes of the file.
    :param max_line: bytes of a row.
    :returns: for each row the row, or its errors.
    :raises FileError: the file as a whole can't be read.
    """
    is_csv = file_format == "csv"
    documents = csv_documents(chunks, model, max_line) if is_csv else _json_documents(chunks, max_line)
    for line, document in documents:
        if isinstance(document, list):
            yield document
            continue
        try:
            yield Row(line, model.model_validate(document))
        except InvalidInput as error:
            # The first element of `loc` is "body".
            yield [LineError(line, each["loc"][1:], each["msg"]) for each in error.errors]


def _json_documents(chunks: Iterable[bytes], max_line: int) -> Iterator[tuple[int, object]]:
    for number, text in lines(chunks, max_line, b"\n"):
        if text is None:
            yield number, [LineError.too_long(number, max_line)]
            continue
        if number == 1:
            text = text.removeprefix(BOM)
        if not text.strip():
            continue
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield number, [LineError(number, [], f"The line is not JSON: {error.msg} (column {error.colno})")]
        else:
            if isinstance(document, dict):
                yield number, document
            else:
                yield number, [LineError(number, [], "Input should be an object")]
