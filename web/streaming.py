"""One streaming path for every table and format: page in, bytes out, and a cut connection when it fails midway."""

from __future__ import annotations

import csv
import io
import logging
import socket
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any

import orjson
from flask import Response, g, request

from observability import metrics
from storage.cql.execution import Stream
from web.hooks import CSV, JSON, NDJSON

log = logging.getLogger(__name__)

Columns = Sequence[str]
# Rows, each a JSON object that the server has written.
Page = Sequence[str]

# SO_LINGER: on, without time, makes close() send a reset; off is the default.
_RESET, _GOODBYE = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


def format_streaming_response(pages: Stream, columns: Columns, media_type: str) -> Generator[bytes]:
    """The rows as one document: a chunk of bytes for each page, and one for the document's end if it has one.

    :param pages: of rows with these columns, in this order; closed with this generator.
    :param media_type: JSON (an array), NDJSON (a line a row) or CSV (a header, then rows).
    :raises StorageError: whatever `pages` raises; the document then has no end.
    """
    encode = _ENCODERS[media_type]
    before, between, end = _FRAMES[media_type]
    if media_type == CSV:
        before = _csv_lines([columns])
    empty = True
    with pages:
        for page in pages.as_json():
            yield (before if empty else between) + encode(columns, page)
            empty = False
    if empty:
        yield before + end
    elif end:
        yield end


def stream_response(pages: Stream, columns: Columns) -> Response:
    """The rows as a chunked response in the format that the client accepts.

    The first page is fetched here, so that an early fault still gets its own status.

    :raises StorageError: when the first page can't be had.
    """
    media_type = g.media_type
    chunks = format_streaming_response(pages, columns, media_type)
    body = _body(next(chunks, b""), chunks, request.environ, str(request.url_rule))
    content_type = f"{media_type}; charset=utf-8" if media_type == CSV else media_type
    return Response(body, content_type=content_type, direct_passthrough=True)


def _body(first: bytes, chunks: Generator[bytes], environ: dict[str, Any], rule: str) -> Generator[bytes]:
    """What the WSGI server writes out, and closes when it is done or the client is gone."""
    given = 0
    outcome = "finished"
    metrics.STREAMS_OPENED.labels(rule).inc()
    with closing(chunks), _reset_unless_whole(environ):
        try:
            for chunk in chain([first], chunks):
                given += len(chunk)
                yield chunk
        except GeneratorExit:
            outcome = "left"
            log.info("stream %s: the client left within %d bytes", rule, given)
            raise
        except BaseException as error:
            outcome = "cut"
            log.error("stream %s cut after %d bytes: %s", rule, given, error)
            raise
        finally:
            metrics.STREAMS_ENDED.labels(rule, outcome).inc()


@contextmanager
def _reset_unless_whole(environ: dict[str, Any]) -> Iterator[None]:
    """Makes every end of the connection a reset, until the body is whole.

    With chunks, the missing last chunk says that a body is not whole. HTTP/1.0 ends a body by closing the
    connection, so there only a reset says it, whatever cut it off: a fault of Cassandra's or the worker's own end.
    """
    connection = environ.get("gunicorn.socket")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.0" or connection is None:
        yield
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    try:
        yield
    except BaseException:
        # Before the server can say goodbye in order.
        connection.close()
        raise
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _GOODBYE)


def _json_rows(columns: Columns, texts: Page) -> bytes:
    # Without the brackets: the array goes on in the next page.
    return ",".join(texts).encode()


def _ndjson_rows(columns: Columns, texts: Page) -> bytes:
    return ("\n".join(texts) + "\n").encode()


def _csv_rows(columns: Columns, texts: Page) -> bytes:
    rows = [[document[name] for name in columns] for document in orjson.loads(f"[{','.join(texts)}]")]
    if _NOT_PLAIN & set(map(type, chain.from_iterable(rows))):
        rows = [[_cell(value) for value in row] for row in rows]
    return _csv_lines(rows)


def _csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return orjson.dumps(value).decode() if type(value) in _NOT_PLAIN else value


# What stays JSON within CSV.
_NOT_PLAIN = {bool, list, dict}
_ENCODERS: dict[str, Callable[[Columns, Page], bytes]] = {JSON: _json_rows, NDJSON: _ndjson_rows, CSV: _csv_rows}
_FRAMES = {JSON: (b"[", b",", b"]"), NDJSON: (b"", b"", b""), CSV: (b"", b"", b"")}
