"""The file of an import: the request body, or the only part of a multipart form, perhaps compressed with gzip."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from flask import Request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from jobs.imports.records import FileFormat, format_of_name
from schemas.base import InvalidInput
from web.media_types import CSV, MULTIPART, NDJSON
from web.request_body import UnsupportedContentEncoding

_FORMATS: dict[str, FileFormat] = {
    NDJSON: "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    CSV: "csv",
}
# Bytes that are read or decompressed at a time.
_CHUNK = 64 * 1024
# Bytes of the headers of a part of a multipart form.
_MAX_PART_HEAD = 16 * 1024

Read = Callable[[int], bytes]


class ImportFile(NamedTuple):
    """A file to import.

    :ivar chunks: its bytes.
    """

    format: FileFormat
    chunks: Iterator[bytes]


def open_import(request: Request, read: Read, max_bytes: int) -> ImportFile:
    """Find the file in a request. Its bytes are read when they are used.

    :param read: reads at most the given number of bytes of the body.
    :param max_bytes: of the file.
    :raises UnsupportedMediaType: the type of the body or the file is neither NDJSON nor CSV, or it is not in UTF-8.
    :raises BadRequest: the form is malformed. The chunks raise this too, also if the body is not valid gzip.
    :raises RequestEntityTooLarge: raised by the chunks if the file is too large.
    """
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        raise UnsupportedContentEncoding("The Content-Encoding must be gzip, or absent.", accepted="gzip, identity")
    raw = iter(lambda: read(_CHUNK), b"")
    # The compressed bytes are limited too: gzip members and blocks may be empty, however many there are.
    body = _decompressed(_limited(raw, max_bytes)) if encoding == "gzip" else raw
    # The framing of a form is counted too.
    limited = _limited(body, max_bytes)
    if request.mimetype != MULTIPART:
        return ImportFile(_format(request.mimetype, request.mimetype_params.get("charset"), ""), limited)
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary:
        raise BadRequest("The Content-Type of a form must have a boundary.")
    return _file_of_form(limited, boundary)


def _format(media_type: str, charset: str | None, filename: str) -> FileFormat:
    if (charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("The file must be in UTF-8.")
    # Media types are case-insensitive.
    found = _FORMATS.get(media_type.lower()) or format_of_name(filename)
    if found is None:
        raise UnsupportedMediaType(
            f"The file must be {NDJSON} or {CSV}: as the body, or as a part of {MULTIPART} with this Content-Type or "
            "with the suffix .ndjson, .jsonl or .csv."
        )
    return found


def _limited(chunks: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    left = max_bytes
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise RequestEntityTooLarge(f"The file is larger than {max_bytes} bytes (MAX_IMPORT_BYTES).")
        yield chunk


def _decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes of a gzip file, which may have several members."""
    decompress = None
    for chunk in chunks:
        data = chunk
        while data:
            if decompress is None:
                decompress = zlib.decompressobj(wbits=31)
            try:
                output = decompress.decompress(data, _CHUNK)
            except zlib.error:
                raise BadRequest("The body is not valid gzip.") from None
            if output:
                yield output
            if decompress.eof:
                data, decompress = decompress.unused_data, None
            else:
                data = decompress.unconsumed_tail
                # zlib may hold more output although it has taken all input.
                while not data and len(output) == _CHUNK:
                    output = decompress.decompress(b"", _CHUNK)
                    if output:
                        yield output
    if decompress is not None:
        raise BadRequest("The body ends in the middle of its gzip data.")


def _file_of_form(chunks: Iterator[bytes], boundary: str) -> ImportFile:
    """The file in a form that has no other part."""
    try:
        decoder = MultipartDecoder(boundary.encode("latin-1"), None)
        parts = _parts(decoder, chunks)
        for part in parts:
            if isinstance(part, File):
                kind, options = parse_options_header(part.headers.get("Content-Type", ""))
                file_format = _format(kind, options.get("charset"), part.filename or "")
                return ImportFile(file_format, _data(decoder, parts))
            if isinstance(part, Field):
                raise _other_part(part)
    except ValueError:
        raise _malformed() from None
    raise BadRequest("The form has no file.")


def _parts(decoder: MultipartDecoder, chunks: Iterator[bytes]) -> Iterator[File | Field | Data]:
    """The parts of a form and their data, until its end."""
    size = 0
    for chunk in chain(chunks, (None,)):
        decoder.receive_data(chunk)
        size += len(chunk or b"")
        while not isinstance(event := decoder.next_event(), NeedData):
            match event:
                case Epilogue():
                    return
                case File() | Field() | Data():
                    size = 0
                    yield event
        if size > _MAX_PART_HEAD + 2 * _CHUNK:
            raise BadRequest("The headers of a part of the form are too long.")


def _data(decoder: MultipartDecoder, parts: Iterator[File | Field | Data]) -> Iterator[bytes]:
    """The bytes of the file."""
    held = b""
    try:
        for part in parts:
            if not isinstance(part, Data):
                raise _other_part(part)
            if part.data:
                data = held + part.data
                # Werkzeug's decoder returns the CR of the CRLF before the last boundary as data if "--" at the end of
                # that boundary arrives in two pieces. The CR belongs to the file only if more data follows.
                is_split = data.endswith(b"\r") and decoder.buffer.startswith(b"\n")
                held = b"\r" if is_split and part.more_data else b""
                yield data.removesuffix(held)
    except ValueError:
        raise _malformed() from None


def _other_part(part: File | Field) -> InvalidInput:
    return InvalidInput.at("body", part.name or "", "There is no such field: the form must have one file only")


def _malformed() -> BadRequest:
    return BadRequest("The form is malformed, or ends before its last boundary.")
