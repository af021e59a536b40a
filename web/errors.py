"""The only place that turns exceptions into problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import (
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestedRangeNotSatisfiable,
    ServiceUnavailable,
    TooManyRequests,
)
from werkzeug.http import HTTP_STATUS_CODES

from auth.passwords import TooManyHashes
from jobs.imports.records import FileError
from schemas.base import InvalidInput
from server.streamed_body import BodyAborted
from storage.errors import (
    BatchTooLarge,
    ConsistencyRefused,
    KeyBusy,
    KeyReused,
    PagingStateRefused,
    RowNotFound,
    StorageError,
    StorageTimeout,
    StorageUnavailable,
    VersionConflict,
)
from web.access import InsufficientScope, NotSignedIn
from web.request_body import UnsupportedContentEncoding

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
# Seconds. After an outage the service reconnects within CASSANDRA_RECONNECT_MAX (10 s), and often sooner.
RETRY_AFTER = 1

_ABORTED = {
    "stalled": "The client stopped sending the body.",
    "too slow": "The client sent the body more slowly than MIN_TRANSFER_RATE.",
    "disconnected": "The client disconnected before the body was complete.",
    "too large": "The body is too large (MAX_BODY_BYTES): write the path of the import as in the documentation.",
    "malformed": "The body could not be read: its chunks are malformed.",
}


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> Response:
    """An error response.

    :param detail: a sentence about what happened to this request.
    :param members: additional members of the JSON object.
    """
    body = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "instance": request.path,
        "request_id": g.get("request_id"),
        **members,
    }
    return Response(orjson.dumps(body), status=status, headers=headers, content_type=PROBLEM_TYPE)


def register(app: Flask) -> None:
    """Add the error handlers to an application."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InvalidInput, _invalid)
    app.register_error_handler(StorageError, _storage)
    app.register_error_handler(TooManyHashes, _too_many_hashes)
    app.register_error_handler(BodyAborted, _body_aborted)
    app.register_error_handler(FileError, _invalid_file)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    headers: dict[str, str] = {}
    match error:
        case MethodNotAllowed(valid_methods=methods) if methods:
            headers["Allow"] = ", ".join(sorted(methods))
        case ServiceUnavailable(retry_after=seconds) | TooManyRequests(retry_after=seconds) if seconds is not None:
            headers["Retry-After"] = str(seconds)
        case RequestedRangeNotSatisfiable(units=units, length=int(length)):
            headers["Content-Range"] = f"{units} */{length}"
        case UnsupportedContentEncoding(accepted=encodings):
            headers["Accept-Encoding"] = encodings
        case NotSignedIn(challenge=challenge) | InsufficientScope(challenge=challenge):
            headers["WWW-Authenticate"] = challenge
    detail = error.description or HTTPStatus(status).phrase
    if detail == NotFound.description:
        # Werkzeug's text is written for users of a browser.
        detail = "There is nothing at this URL."
    return problem(status, detail, headers)


def _invalid(error: InvalidInput) -> Response:
    fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors[:5])
    detail = f"Not valid: {fields}"
    if error.count > len(error.errors):
        detail += f". `errors` has the first {len(error.errors)} of {error.count} errors."
    return problem(422, detail, errors=error.errors)


def _too_many_hashes(error: TooManyHashes) -> Response:
    detail = "Too many passwords are being checked at the moment. Nothing was changed."
    return problem(503, detail, {"Retry-After": str(RETRY_AFTER)})


def _body_aborted(error: BodyAborted) -> Response:
    status = {"stalled": 408, "too slow": 408, "too large": 413}.get(error.problem, 400)
    return problem(status, f"{_ABORTED[error.problem]} Nothing was written.")


def _invalid_file(error: FileError) -> Response:
    found = [{"loc": ["body", error.line], "msg": error.msg, "type": "value_error"}]
    return problem(422, f"Line {error.line}: {error.msg} Nothing was written.", errors=found)


def _storage(error: StorageError) -> Response:
    match error:
        case StorageUnavailable():
            log.warning("503: %s%s", error, _cause(error))
            safe = error.safe_to_retry or "idempotency_key" in g
            return problem(503, str(error), {"Retry-After": str(RETRY_AFTER)} if safe else None)
        case StorageTimeout():
            log.warning("504: %s%s", error, _cause(error))
            detail = str(error)
            if error.may_have_applied:
                detail += " The write may have been applied."
            return problem(504, detail)
        case ConsistencyRefused() if "X-Consistency-Level" in request.headers:
            return _invalid(InvalidInput.at("header", "X-Consistency-Level", str(error)))
        case BatchTooLarge():
            return problem(413, str(error))
        case KeyBusy():
            return problem(409, str(error), {"Retry-After": str(RETRY_AFTER)})
        case KeyReused():
            return _invalid(InvalidInput.at("header", "Idempotency-Key", str(error)))
        case PagingStateRefused():
            return problem(400, str(error))
        case RowNotFound():
            return problem(404, str(error))
        case VersionConflict():
            return problem(412, str(error))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.error("500: unexpected error", exc_info=error)
    return problem(500, "An unexpected error occurred. The service's log has it under this request_id.")


def _cause(error: StorageError) -> str:
    return "" if error.__cause__ is None else f" ({type(error.__cause__).__name__}: {error.__cause__})"
