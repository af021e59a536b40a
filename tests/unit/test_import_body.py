"""The file in the body of an import: media types, charsets, gzip and multipart forms."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.test import EnvironBuilder

from schemas.base import InvalidInput
from web.import_body import open_import
from web.request_body import FieldbookRequest, UnsupportedContentEncoding

MAX = 100_000
DATA = b"name,age\nAda,36\n" * 50


def request(content_type: str, encoding: str = "") -> FieldbookRequest:
    headers = {"CONTENT_TYPE": content_type, "HTTP_CONTENT_ENCODING": encoding}
    return FieldbookRequest(EnvironBuilder(method="POST", environ_overrides=headers).get_environ())


def read(body: bytes, content_type: str, encoding: str = "", size: int | None = None) -> tuple[str, bytes]:
    """Return the format and the bytes of the file.

    :param size: bytes that the client sends at a time.
    """
    source = io.BytesIO(body)
    file = open_import(request(content_type, encoding), lambda wanted: source.read(min(wanted, size or wanted)), MAX)
    return file.format, b"".join(file.chunks)


def form(*parts: tuple[str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    """Return a form with the headers and data of its parts."""
    return b"".join(b"--xyz\r\n%s\r\n\r\n%s\r\n" % (head.encode(), data) for head, data in parts) + end


FORM = "multipart/form-data; boundary=xyz"
FILE = 'Content-Disposition: form-data; name="file"; filename="a.csv"'
FIELD = 'Content-Disposition: form-data; name="note"'


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/csv", "csv"),
        ("text/csv; charset=UTF-8; header=present", "csv"),
        ("application/x-ndjson", "ndjson"),
        ("application/ndjson", "ndjson"),
        ("application/jsonl; charset=us-ascii", "ndjson"),
    ],
)
def test_format_follows_from_the_content_type(content_type: str, expected: str) -> None:
    assert read(DATA, content_type) == (expected, DATA)


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "text/csv; charset=latin-1", "x"])
def test_other_content_types_and_charsets_are_rejected(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        read(DATA, content_type)


@pytest.mark.parametrize("size", [1, 7, None])
# mtime=0: the processes of pytest-xdist must give the tests the same names.
@pytest.mark.parametrize(
    "file", [gzip.compress(DATA, mtime=0), gzip.compress(DATA[:100], mtime=0) + gzip.compress(DATA[100:], mtime=0)]
)
def test_gzip_is_decompressed(file: bytes, size: int | None) -> None:
    assert read(file, "text/csv", "gzip", size) == ("csv", DATA)


@pytest.mark.parametrize(
    "body",
    [
        b"not gzip",
        gzip.compress(DATA, mtime=0)[:-1],
        gzip.compress(DATA, mtime=0)[:-20],
        gzip.compress(DATA, mtime=0) + b"x",
        gzip.compress(DATA, mtime=0)[:-8] + bytes(8),
        zlib.compress(DATA),
    ],
)
def test_damaged_gzip_is_rejected(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body, "text/csv", "gzip")


def test_gzip_bomb_is_rejected() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < MAX
    with pytest.raises(RequestEntityTooLarge, match="MAX_IMPORT_BYTES"):
        read(bomb, "text/csv", "gzip")


def test_decompressed_chunks_are_small() -> None:
    source = io.BytesIO(gzip.compress(bytes(20_000_000)))
    sizes = [len(chunk) for chunk in open_import(request("text/csv", "gzip"), source.read, 10**9).chunks]
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= 64 * 1024


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_other_encodings_are_rejected(encoding: str) -> None:
    with pytest.raises(UnsupportedContentEncoding) as caught:
        read(DATA, "text/csv", encoding)
    assert caught.value.accepted == "gzip, identity"


@pytest.mark.parametrize(("size", "expected"), [(MAX, True), (MAX + 1, False)])
def test_size_of_the_file_is_limited(size: int, expected: bool) -> None:
    if expected:
        assert len(read(bytes(size), "text/csv")[1]) == size
    else:
        with pytest.raises(RequestEntityTooLarge):
            read(bytes(size), "text/csv")


@pytest.mark.parametrize("size", [1, 13, None])
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (FILE, "csv"),
        (FILE.replace(".csv", ".JSONL"), "ndjson"),
        (FILE.replace(".csv", "") + "\r\nContent-Type: text/csv", "csv"),
        (FILE + "\r\nContent-Type: application/x-ndjson", "ndjson"),
        (FILE + "\r\nContent-Type: application/octet-stream", "csv"),
    ],
)
def test_file_of_a_form_is_found(head: str, expected: str, size: int | None) -> None:
    assert read(form((head, DATA)), FORM, size=size) == (expected, DATA)


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (form((FILE, DATA)), "multipart/form-data", BadRequest),
        (form((FILE, DATA)), "multipart/form-data; boundary=abc", BadRequest),
        (form((FILE, DATA), end=b""), FORM, BadRequest),
        (form((FILE, DATA))[:200], FORM, BadRequest),
        (b"--xyz\r\nContent-Dispo", FORM, BadRequest),
        (b"--xyz\r\n" + b"x" * 90_000, FORM, BadRequest),
        (b"", FORM, BadRequest),
        (form(), FORM, BadRequest),
        (form((FILE.replace(".csv", ".exe"), DATA)), FORM, UnsupportedMediaType),
        (form((FILE + "\r\nContent-Type: text/csv; charset=utf-16", DATA)), FORM, UnsupportedMediaType),
        (form((FIELD, b"1"), (FILE, DATA)), FORM, InvalidInput),
        (form((FILE, DATA), (FIELD, b"1")), FORM, InvalidInput),
        (form((FILE, DATA), (FILE, DATA)), FORM, InvalidInput),
    ],
)
def test_forms_without_exactly_one_file_are_rejected(body: bytes, content_type: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(body, content_type)


def test_exceptions_of_the_client_pass_through() -> None:
    def disconnect(size: int) -> bytes:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        list(open_import(request("text/csv"), disconnect, MAX).chunks)


def mutated(draw: Callable[..., Any]) -> bytes:
    body = bytearray(draw(st.sampled_from([form((FILE, DATA[:60])), gzip.compress(DATA)])))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(body) - 1))
        body[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body)


@given(st.composite(mutated)(), st.sampled_from([FORM, "text/csv"]), st.sampled_from(["", "gzip"]), st.integers(1, 40))
def test_any_body_gives_a_file_or_an_http_error(body: bytes, content_type: str, encoding: str, size: int) -> None:
    def outcome(size: int | None) -> Any:
        try:
            return read(body, content_type, encoding, size)
        except (HTTPException, InvalidInput) as error:
            return type(error)

    assert outcome(size) == outcome(None)
