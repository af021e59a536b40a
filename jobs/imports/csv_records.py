"""The records of a CSV file with a header, as the JSON documents that they stand for.

The format is that of the service's own CSV: null is an empty field, empty text is `""`, collections and booleans are
JSON. Python's csv module does not tell an empty field from `""`, so a record that has both is looked at a second time.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from jobs.imports.lines import BOM, FileError, LineError, lines
from schemas.base import Body

_MAX_COLUMNS = 1000
# Characters of the name of an unknown column in an error.
_SHOWN = 40
_QUOTES = re.compile(rb'"+')

# The length of a record is limited instead.
csv.field_size_limit(sys.maxsize)


class _Column(NamedTuple):
    """A column of the file.

    :ivar is_text: the JSON type of the field is a string; otherwise the cell is JSON.
    :ivar is_nullable: an empty cell is null; otherwise the field is absent.
    """

    name: str
    is_text: bool
    is_nullable: bool


def csv_documents(chunks: Iterable[bytes], model: type[Body], max_line: int) -> Iterator[tuple[int, Any]]:
    """The documents of a CSV file.

    :param chunks: the bytes of the file.
    :returns: for each record the number of its first line, and its document or a list of errors.
    :raises FileError: the header is not valid, or the end of a record is not known.
    """
    source = _Source(chunks, max_line)
    columns: list[_Column] | None = None
    for cells in _records(source):
        if isinstance(cells, LineError):
            if columns is None:
                raise FileError(cells.line, f"The header can't be read: {cells.msg}.")
            yield cells.line, [cells]
        elif not cells:
            # A blank line.
            continue
        elif columns is None:
            columns = _header(cells, model, source.first)
        elif len(cells) != len(columns):
            message = f"The record should have {len(columns)} fields, as the header, not {len(cells)}"
            yield source.first, [LineError(source.first, [], message)]
        else:
            yield source.first, _document(columns, cells, source)


class _Quotes:
    """Whether the text of a record ends inside quotation marks. The text may be malformed, and arrive in pieces.

    A quotation mark at the beginning of a cell opens a quoted cell. In other places of an unquoted cell it is text.
    """

    def __init__(self) -> None:
        self.are_open = False
        # A quotation mark that comes next opens a quoted cell, or opens it again as the second one of a pair.
        self._can_open = True

    def feed(self, piece: bytes) -> None:
        """Add a piece of the text."""
        for run in _QUOTES.finditer(piece):
            start, end = run.span()
            can_open = piece[start - 1 : start] == b"," if start else self._can_open
            counts = self.are_open or can_open
            if counts and (end - start) % 2:
                self.are_open = not self.are_open
            if end == len(piece):
                self._can_open = counts
        if piece and not piece.endswith(b'"'):
            self._can_open = piece.endswith(b",")


class _Source(Iterator[str]):
    """Feeds lines to the csv module, and remembers those of the current record.

    :ivar first: number of the first line of the record.
    :ivar skipped: the line was too long. The csv module gets an empty one instead.
    :ivar is_valid_utf8: the record is valid UTF-8.
    """

    def __init__(self, chunks: Iterable[bytes], max_line: int) -> None:
        self.first = 1
        self.skipped: LineError | None = None
        self.is_valid_utf8 = True
        self._max_line = max_line
        self._parts: list[str] = []
        self._size = 0
        self._dropped = _Quotes()
        # The quotation marks of a line are still known if it is too long.
        self._numbered = lines(chunks, max_line, b"\r\n", lambda piece: self._dropped.feed(piece))

    def begin(self) -> None:
        """Begin a record."""
        self._parts, self._size, self.is_valid_utf8, self.skipped = [], 0, True, None

    @property
    def text(self) -> str:
        """The text of the record."""
        return "".join(self._parts)

    @property
    def has_open_quotes(self) -> bool:
        """Whether the text of the record ends inside quotation marks, so that the record continues."""
        quotes = _Quotes()
        quotes.feed(self.text.encode())
        return quotes.are_open

    def __next__(self) -> str:
        number, line = next(self._numbered)
        if not self._parts:
            self.first = number
        if line is None:
            if self._parts or self._dropped.are_open:
                raise self._too_long()
            self._dropped = _Quotes()
            self.skipped = LineError.too_long(number, self._max_line)
            return ""
        self._size += len(line)
        if self._size > self._max_line:
            raise self._too_long()
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self.is_valid_utf8 = False
            text = line.decode(errors="replace")
        self._parts.append(text)
        return text

    def _too_long(self) -> FileError:
        return FileError(
            self.first,
            f"The record that begins here has more than {self._max_line} bytes (MAX_BODY_BYTES), and its end is not "
            "known. A quotation mark may be missing.",
        )


def _records(source: _Source) -> Iterator[list[str] | LineError]:
    """The cells of each record, or why it has none."""
    reader = csv.reader(source, strict=True)
    while True:
        source.begin()
        cells: list[str] | LineError | None
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise FileError(source.first, "The record that begins here has no closing quotation mark.") from None
            if source.has_open_quotes:
                raise FileError(
                    source.first,
                    "The record that begins here has a quotation mark in the wrong place, and its end is not known.",
                ) from None
            cells = LineError(source.first, [], "The record is not CSV: a quotation mark is in the wrong place")
        if cells is None:
            return
        if source.skipped is not None:
            yield source.skipped
        elif not source.is_valid_utf8:
            yield LineError(source.first, [], "The line is not valid UTF-8")
        else:
            yield cells


def _header(names: list[str], model: type[Body], line: int) -> list[_Column]:
    if len(names) > _MAX_COLUMNS:
        raise FileError(line, f"The header has {len(names)} columns; at most {_MAX_COLUMNS} are possible.")
    properties = _properties(model)
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        if name not in properties:
            raise FileError(
                line, f"Column {position} of the header, {name[:_SHOWN]!r}, is not one of {', '.join(properties)}."
            )
        if name in seen:
            raise FileError(line, f"The header has the column {name} twice.")
        seen.add(name)
    missing = [name for name, field in model.model_fields.items() if field.is_required() and name not in seen]
    if missing:
        raise FileError(line, f"The header lacks {', '.join(missing)}.")
    return [_Column(name, *properties[name]) for name in names]


def _properties(model: type[Body]) -> dict[str, tuple[bool, bool]]:
    """For each field, whether its JSON type is a string, and whether it may be null."""
    schema = model.model_json_schema()
    found = {}
    for name, field in schema["properties"].items():
        types = _types(field, schema.get("$defs", {}))
        found[name] = ("string" in types, "null" in types)
    return found


def _types(field: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    if "$ref" in field:
        return _types(definitions[field["$ref"].rpartition("/")[2]], definitions)
    found = set()
    for part in (*field.get("anyOf", ()), *field.get("allOf", ())):
        found |= _types(part, definitions)
    kind = field.get("type", [])
    return found | ({kind} if isinstance(kind, str) else set(kind))


def _document(columns: list[_Column], cells: list[str], source: _Source) -> dict[str, Any] | list[LineError]:
    quoted = _quoted_cells(source.text, cells) if "" in cells and '""' in source.text else None
    document: dict[str, Any] = {}
    for index, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        if cell == "" and not (quoted and quoted[index]):
            if column.is_nullable:
                document[column.name] = None
        elif column.is_text:
            document[column.name] = cell
        else:
            try:
                document[column.name] = orjson.loads(cell)
            except orjson.JSONDecodeError:
                message = "Input should be JSON: a number, true, false, an array or an object"
                return [LineError(source.first, [column.name], message)]
    return document


def _quoted_cells(record: str, cells: list[str]) -> list[bool]:
    """For each cell of a record, whether it is in quotation marks.

    :param record: its text. The csv module has accepted it.
    """
    position, found = 0, []
    for cell in cells:
        is_quoted = record.startswith('"', position)
        found.append(is_quoted)
        # Quotation marks in a quoted cell are doubled. The cell ends with a comma, or the record ends.
        position += len(cell) + 1 + (2 + cell.count('"') if is_quoted else 0)
    return found
