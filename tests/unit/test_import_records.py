"""The rows of an imported file: formats, errors by line, and files that can't be read."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.imports.records import FileError, FileFormat, LineError, Row, read_rows
from schemas.base import Body
from tests.testbed.schemas.finds import Find as NewFind
from tests.testbed.schemas.observers import NewObserver
from web.streaming import _csv_lines, _csv_rows

MAX_LINE = 1000


def chunked(data: bytes, size: int = 64 * 1024) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def rows(data: bytes, file_format: FileFormat, model: type[Body] = NewObserver, size: int = 64 * 1024) -> list[Any]:
    """Return the line and the fields of each valid row, and the errors of each other row."""
    found = read_rows(chunked(data, size), file_format, model, MAX_LINE)
    return [(each.line, each.body.model_dump()) if isinstance(each, Row) else each for each in found]


ADA = {"name": "Ada", "email": "ada@example.org", "age": 36}
LINE = json.dumps(ADA).encode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b"\n \t\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [b"", b"\n"])
def test_ndjson_lines_may_have_each_line_end_and_a_byte_order_mark(start: bytes, end: bytes, last: bytes) -> None:
    second = 1 + end.count(b"\n")
    assert rows(start + LINE + end + LINE + last, "ndjson") == [(1, ADA), (1 + second - 1, ADA)]


@pytest.mark.parametrize(
    ("line", "loc", "message"),
    [
        (b"{", [], "not JSON"),
        (b"[]", [], "an object"),
        (b"1", [], "an object"),
        (b"null", [], "an object"),
        (b'{"name": "\xff"}', [], "not JSON"),
        (b"\x00", [], "not JSON"),
        (b"{}", ["name"], "required"),
        (LINE.replace(b"36", b'"36"'), ["age"], "integer"),
        (LINE.replace(b"36", b"36, 'x': 1"), [], "not JSON"),
        (LINE.replace(b"36", b'36, "x": 1'), ["x"], "no such field"),
        (b"x" * (MAX_LINE + 1), [], "at most 1000 bytes"),
        (b"x" * 10_000_000, [], "at most 1000 bytes"),
        (b"[" * 900, [], "not JSON"),
    ],
)
def test_an_invalid_ndjson_line_is_an_error_of_that_line(line: bytes, loc: list[str], message: str) -> None:
    first, errors, last = rows(LINE + b"\n" + line + b"\n" + LINE, "ndjson")
    assert (first, last) == ((1, ADA), (3, ADA))
    assert (errors[0].line, errors[0].loc) == (2, loc)
    assert message in errors[0].msg


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_lone_cr_ends_no_ndjson_line(size: int) -> None:
    separated = LINE.replace(b" ", b"\r")
    found = rows(LINE + b"\r" + LINE + b"\n" + separated + b"\r\r\n\r\n\r" + LINE, "ndjson", size=size)
    assert [each.line for each in found[0]] == [1]
    assert found[1:] == [(2, ADA), (4, ADA)]


@pytest.mark.parametrize(("piece", "file_format"), [(b"\r", "ndjson"), (b"x", "ndjson"), (b"x", "csv"), (b'"', "csv")])
def test_the_time_for_one_byte_chunks_is_linear(piece: bytes, file_format: FileFormat) -> None:
    start = time.process_time()
    with suppress(FileError):
        list(read_rows((piece for _ in range(400_000)), file_format, NewObserver, 2**20))
    # It is about 0.2 s. Joining all chunks after each one takes more than 20 s.
    assert time.process_time() - start < 4


HEADER = b"name,email,age\n"


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    "line",
    [
        # Each of these ends inside quotation marks.
        b'"%s' % (b"x" * MAX_LINE),
        b'%s,"' % (b"x" * MAX_LINE),
        b'"a","",5" pipe,"%s' % (b"x" * MAX_LINE),
        b'5" pipe,"%s' % (b"x" * MAX_LINE),
        b'"%s' % (b'""' * MAX_LINE),
        b'"A",%s,"x""' % (b"x" * MAX_LINE),
    ],
)
def test_the_file_is_refused_if_the_end_of_a_too_long_record_is_not_known(line: bytes, size: int) -> None:
    text = b'Ada,ada@example.org,36\n"'
    with pytest.raises(FileError, match=r"more than 1000 bytes.*its end is not known") as caught:
        rows(HEADER + b"\n" + line + b"\n" + text, "csv", size=size)
    assert caught.value.line == 3


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    "line",
    [
        b'"%s"' % (b"x" * MAX_LINE),
        b'%s,"",""""' % (b"x" * MAX_LINE),
        b'5" pipe,"%s"' % (b"x" * MAX_LINE),
        b'%s,5" pipe' % (b"x" * MAX_LINE),
        b'5"" pipe,x"",x""",%s' % (b"x" * MAX_LINE),
        b'"%s"' % (b'""' * MAX_LINE),
    ],
)
def test_a_too_long_record_with_closed_quotation_marks_is_an_error_of_its_line(line: bytes, size: int) -> None:
    good = b"Ada,ada@example.org,36\n"
    found = rows(HEADER + line + b"\n" + good + line + b"\r" + good + line, "csv", size=size)
    assert found == [
        [LineError.too_long(2, MAX_LINE)],
        (3, ADA),
        [LineError.too_long(4, MAX_LINE)],
        (5, ADA),
        [LineError.too_long(6, MAX_LINE)],
    ]


def test_the_file_is_refused_if_the_end_of_a_malformed_record_is_not_known() -> None:
    with pytest.raises(FileError, match=r"line 2: .* wrong place"):
        rows(HEADER + b'"A"da,x,"\nAda,ada@example.org,36\n"', "csv")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\n", b"\r\r\n"])
def test_csv_records_may_have_each_line_end(end: bytes) -> None:
    data = b"\xef\xbb\xbf" + HEADER + b"Ada,ada@example.org,36" + end + b'"Ada","ada@example.org","36"'
    assert [fields for _, fields in rows(data, "csv")] == [ADA, ADA]


def test_csv_columns_may_be_in_any_order_and_records_may_have_several_lines() -> None:
    data = b'age,email,name\n36,ada@example.org,"Ada\nLovelace"\n36,ada@example.org,"A ""da"", L"\n'
    errors, (line, fields) = rows(data, "csv")
    assert errors == [LineError(2, ["name"], "Text must not contain control characters")]
    assert (line, fields["name"]) == (4, 'A "da", L')


@pytest.mark.parametrize(
    ("record", "loc", "message"),
    [
        (b"Ada,ada@example.org", [], "3 fields"),
        (b"Ada,ada@example.org,36,", [], "3 fields"),
        (b"Ada,ada@example.org,x", ["age"], "JSON"),
        (b"Ada,ada@example.org,", ["age"], "required"),
        (b"Ada,ada@example.org,007", ["age"], "JSON"),
        (b"Ada,ada@example.org,[1]", ["age"], "integer"),
        (b'"A"da,ada@example.org,36', [], "quotation mark"),
        (b"\xff,ada@example.org,36", [], "UTF-8"),
        (b"A\x00,ada@example.org,36", ["name"], "control characters"),
        (b"x" * (MAX_LINE + 1), [], "at most 1000 bytes"),
    ],
)
def test_an_invalid_csv_record_is_an_error_of_its_line(record: bytes, loc: list[str], message: str) -> None:
    good = b"Ada,ada@example.org,36\n"
    first, errors, last = rows(HEADER + good + record + b"\n" + good, "csv")
    assert (first, last) == ((2, ADA), (4, ADA))
    assert (errors[0].line, errors[0].loc) == (3, loc)
    assert message in errors[0].msg


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name,email,age,size\n", "Column 4"),
        (b"name,email,age,age\n", "twice"),
        (b"name,,age\n", "Column 2"),
        (b"name,email\n", "lacks age"),
        (b",".join([b"name"] * 1200) + b"\n", "at most 1000 bytes"),
        (HEADER + b'"Ada,ada@example.org,36\n', "closing quotation mark"),
        (HEADER + b'"Ada\n' + b"x\n" * MAX_LINE, "quotation mark may be missing"),
        (b'"name\n', "closing quotation mark"),
        (b"\xff\n", "header can't be read"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message):
        rows(data, "csv")


def test_a_header_of_100_000_columns_is_refused() -> None:
    found = read_rows(chunked(b",".join([b"name"] * 100_000) + b"\n"), "csv", NewObserver, 2**20)
    with pytest.raises(FileError, match="at most 1000 are possible"):
        list(found)


@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", b"\xef\xbb\xbf", HEADER])
def test_a_file_without_rows_has_no_errors(data: bytes) -> None:
    assert rows(data, "csv") == []


def exported(document: dict[str, Any]) -> bytes:
    """Return the CSV that the service writes for a row."""
    return _csv_lines([list(document)]) + _csv_rows(list(document), [json.dumps(document)])


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (NewObserver, ADA | {"name": 'A "da", Lovelace'}),
        (NewFind, {"genus": "Vulpes", "species": "zerda", "sightings": 0}),
    ],
)
def test_exported_csv_reads_back(model: type[Body], document: dict[str, Any]) -> None:
    assert rows(exported(document), "csv", model) == [(2, document)]


class Mixed(Body):
    """Fields of each JSON type."""

    text: str | None
    number: float | None
    flag: bool
    names: list[str]
    counts: dict[str, int]


@pytest.mark.parametrize(
    "document",
    [
        {"text": "", "number": 1.5, "flag": True, "names": ["a,", '"', ""], "counts": {"a": 1}},
        {"text": None, "number": None, "flag": False, "names": [], "counts": {}},
        {"text": "null", "number": 1e300, "flag": False, "names": ["\u20ac"], "counts": {"": -1}},
    ],
)
def test_values_of_each_json_type_read_back(document: dict[str, Any]) -> None:
    assert rows(exported(document), "csv", Mixed) == [(2, document)]


class Texts(Body):
    """Fields for which null and empty text differ."""

    one: str | None
    two: str | None
    three: str | None = "default"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ('"",,', ["", None, None]),
        (',"",""', [None, "", ""]),
        ('"""","",', ['"', "", None]),
        ('"a,""",,""', ['a,"', None, ""]),
        ('"a\nb""",,""', ['a\nb"', None, ""]),
        ('a"",,""', ['a""', None, ""]),
        (',"€",""', [None, "€", ""]),
    ],
)
def test_null_and_empty_text_are_told_apart(record: str, expected: list[Any]) -> None:
    (found,) = rows(f"one,two,three\n{record}\n".encode(), "csv", Texts)
    assert list(found[1].values()) == expected


def test_a_cell_of_quotation_marks_takes_little_memory() -> None:
    record = b'"%s",,""\n' % (b'""' * 400_000)
    tracemalloc.start()
    try:
        (row,) = read_rows([b"one,two,three\n", record], "csv", Texts, 2**20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(row, Row)
    assert list(row.body.model_dump().values()) == ['"' * 400_000, None, ""]
    assert peak < 10 * len(record)


def outcome(
    data: bytes, file_format: FileFormat, model: type[Body] = NewObserver, *, size: int = 1000, max_line: int = MAX_LINE
) -> tuple[list[Any], tuple[int, str] | None]:
    """Return the rows and errors of a file until its end, and the error of the whole file."""
    found: list[Any] = []
    try:
        found.extend(read_rows(chunked(data, size), file_format, model, max_line))
    except FileError as error:
        return found, (error.line, error.msg)
    return found, None


@given(st.binary(max_size=300), st.sampled_from(["ndjson", "csv"]), st.integers(1, 20), st.booleans())
def test_any_bytes_give_rows_or_errors_however_they_are_split(
    data: bytes, file_format: FileFormat, size: int, has_header: bool
) -> None:
    if has_header:
        data = HEADER + data
    assert outcome(data, file_format, size=size) == outcome(data, file_format)


PIECES = [
    b'"',
    b'"',
    b'""',
    b",",
    b",",
    b"\r",
    b"\n",
    b"\r\n",
    b"a",
    b"\x00",
    b"\xff",
    "€".encode(),
    b"x" * 8,
    b'a,b,""\n',
]


@given(st.lists(st.sampled_from(PIECES), max_size=50), st.integers(1, 5), st.sampled_from([14, 20]))
def test_the_limit_of_a_row_never_makes_rows_of_the_text_of_others(pieces: list[bytes], size: int, limit: int) -> None:
    data = b"one,two,three\n" + b"".join(pieces)
    found, failure = outcome(data, "csv", Texts, size=size, max_line=limit)
    assert (found, failure) == outcome(data, "csv", Texts, max_line=limit)
    unlimited, unlimited_failure = outcome(data, "csv", Texts)
    assert all(row in unlimited for row in found if isinstance(row, Row))
    if failure is None and unlimited_failure is None:
        assert len(found) == len(unlimited)


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
@pytest.mark.parametrize("size", [1, 1000])
def test_compressed_file_is_refused(file_format: FileFormat, size: int) -> None:
    data = gzip.compress(b"genus,species\n" * 100, mtime=0)
    with pytest.raises(FileError, match="compressed with gzip"):
        rows(data, file_format, size=size)
