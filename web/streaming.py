"""Streams rows of any table in any format, with one chunk of the response for each page.

A stream that fails midway is aborted: the response ends without its final chunk, so that the client knows that rows are
missing.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import orjson
from flask import Response, g, request

from observability import metrics
from server.connection import is_too_slow
from storage.cql import Stream
from web.media_types import CSV, JSON, NDJSON

log = logging.getLogger(__name__)

Columns = Sequence[str]
# Rows, each a JSON object as text.
Page = Sequence[str]


def format_streaming_response(pages: Stream, media_type: str) -> Generator[bytes]:
    """Format rows as one document, with a chunk for each page and one for the document's end.

    :param pages: pages of rows as JSON; closed together with this generator.
    :param media_type: JSON (an array), NDJSON (a line for each row) or CSV (a header, then rows).
    :raises StorageError: a page can't be fetched; the document is then incomplete.
    """
    encode = _ENCODERS[media_type]
    before, between, end = _FRAMES[media_type]
    columns = pages.columns
    if media_type == CSV:
        before = _csv_lines([columns])
    is_empty = True
    with pages:
        for page in pages:
            yield (before if is_empty else between) + encode(columns, page)
            is_empty = False
    if is_empty:
        yield before + end
    elif end:
        yield end


def stream_response(pages: Stream) -> Response:
    """The rows as a chunked response, in the format that the client accepts.

    The first page is fetched here, so that an early error still has its own status.

    :param pages: pages of rows as JSON.
    :raises StorageError: the first page can't be fetched.
    """
    media_type = g.media_type
    chunks = format_streaming_response(pages, media_type)
    body = _body(next(chunks, b""), chunks, request.environ, str(request.url_rule))
    # nginx must forward each page at once. With buffering, it would store the rows that the client is too slow to read.
    headers = {"X-Accel-Buffering": "no"}
    return Response(body, headers=headers, content_type=_content_type(media_type), direct_passthrough=True)


def whole_response(pages: Stream) -> Response:
    """The rows as a response that is built in memory, in the format that the client accepts.

    :param pages: few pages of rows as JSON.
    """
    body = b"".join(format_streaming_response(pages, g.media_type))
    return Response(body, content_type=_content_type(g.media_type))


def _content_type(media_type: str) -> str:
    return f"{media_type}; charset=utf-8" if media_type == CSV else media_type


def _body(first: bytes, chunks: Generator[bytes], environ: dict[str, Any], rule: str) -> Generator[bytes]:
    """The response body. The WSGI server closes it when it ends or the client has disconnected."""
    sent = 0
    outcome = "finished"
    metrics.STREAMS_OPENED.labels(rule).inc()
    with closing(chunks):
        try:
            for chunk in chain([first], chunks):
                sent += len(chunk)
                yield chunk
        except GeneratorExit:
            if is_too_slow(environ):
                outcome = "too_slow"
                log.info(
                    "stream %s: aborted after %d bytes, the client received less than MIN_TRANSFER_RATE", rule, sent
                )
            else:
                outcome = "disconnected"
                log.info("stream %s: client disconnected after %d bytes", rule, sent)
            raise
        except BaseException as error:
            outcome = "aborted"
            log.error("stream %s aborted after %d bytes: %s", rule, sent, error)
            raise
        finally:
            metrics.STREAMS_ENDED.labels(rule, outcome).inc()


def _json_rows(columns: Columns, texts: Page) -> bytes:
    # Without brackets, because the array continues with the next page.
    return ",".join(texts).encode()


def _ndjson_rows(columns: Columns, texts: Page) -> bytes:
    return ("\n".join(texts) + "\n").encode()


def _csv_rows(columns: Columns, texts: Page) -> bytes:
    rows = [[document[name] for name in columns] for document in orjson.loads(f"[{','.join(texts)}]")]
    if _JSON_IN_CSV & set(map(type, chain.from_iterable(rows))):
        rows = [[_cell(value) for value in row] for row in rows]
    return _csv_lines(rows)


def _csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    """CSV as PostgreSQL writes it: null is an empty field, and empty text is `""`."""
    text = io.StringIO()
    writer = csv.writer(text)
    if not any("" in row for row in rows):
        writer.writerows(rows)
        return text.getvalue().encode()
    for row in rows:
        if "" in row:
            # csv.writer writes null and empty text alike.
            text.write(",".join(map(_csv_field, row)) + "\r\n")
        else:
            writer.writerow(row)
    return text.getvalue().encode()


def _csv_field(value: Any) -> str:
    if value is None or value == "":
        return "" if value is None else '""'
    text = io.StringIO()
    csv.writer(text).writerow([value])
    return text.getvalue().removesuffix("\r\n")


def _cell(value: Any) -> Any:
    return orjson.dumps(value).decode() if type(value) in _JSON_IN_CSV else value


# Types whose values are written as JSON in a CSV field.
_JSON_IN_CSV = {bool, list, dict}
_ENCODERS: dict[str, Callable[[Columns, Page], bytes]] = {JSON: _json_rows, NDJSON: _ndjson_rows, CSV: _csv_rows}
_FRAMES = {JSON: (b"[", b",", b"]"), NDJSON: (b"", b"", b""), CSV: (b"", b"", b"")}
