"""Turns every exception into `application/problem+json` (RFC 9457). The only place that does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, g, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, ServiceUnavailable, Unauthorized
from werkzeug.http import HTTP_STATUS_CODES

from storage.errors import (
    BatchTooLarge,
    ConsistencyRefused,
    KeyBusy,
    KeyReused,
    PagingStateRefused,
    StorageError,
    StorageTimeout,
    StorageUnavailable,
    UserNotFound,
    VersionConflict,
)

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
# Seconds. The service looks for Cassandra again at least every 10 s; sooner is likely.
RETRY_AFTER = 1

# Where pydantic speaks of Python, in words of JSON.
_MESSAGES = {
    "model_type": "Input should be an object",
    "list_type": "Input should be an array",
    "extra_forbidden": "There is no such field",
}


class InvalidInput(Exception):
    """A request that breaks a rule of the contract: 422, naming each field and its rule.

    :ivar errors: dicts with `loc`, `msg` and `type`.
    """

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = errors

    @classmethod
    def at(cls, where: str, name: str, message: str, kind: str = "value_error") -> InvalidInput:
        """One error: `where` is `header`, `query` or `body`."""
        return cls([{"loc": [where, name], "msg": message, "type": kind}])

    @classmethod
    def of(cls, where: str, error: ValidationError) -> InvalidInput:
        """All errors that pydantic found, without the values that were sent."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return cls(
            [
                {
                    "loc": [where, *item["loc"]],
                    "msg": _message(where, item["type"], item["msg"]),
                    "type": item["type"],
                }
                for item in found
            ]
        )


def _message(where: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden" and where == "query":
        return "There is no such parameter"
    return _MESSAGES.get(kind, message).removeprefix("Value error, ")


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> Response:
    """An error response.

    :param detail: what happened to this request, for a person.
    :param members: more members of the document.
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
    """Makes `app` answer every error from here."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InvalidInput, _invalid)
    app.register_error_handler(StorageError, _storage)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    # A redirect would lose the body of a POST: a URL that is not quite right is one that is not there.
    status = 404 if error.response is not None else error.code or 500
    headers: dict[str, str] = {}
    match error:
        case MethodNotAllowed(valid_methods=methods) if methods:
            headers["Allow"] = ", ".join(sorted(methods))
        case ServiceUnavailable(retry_after=seconds) if seconds is not None:
            headers["Retry-After"] = str(seconds)
        case Unauthorized(www_authenticate=challenges) if challenges:
            headers["WWW-Authenticate"] = ", ".join(map(str, challenges))
    detail = error.description or HTTPStatus(status).phrase
    if detail == NotFound.description:
        # Werkzeug's words are for somebody at a browser.
        detail = "There is nothing at this URL."
    return problem(status, detail, headers)


def _invalid(error: InvalidInput) -> Response:
    fields = ", ".join(".".join(map(str, item["loc"])) for item in error.errors[:5])
    return problem(422, f"Not valid: {fields}", errors=error.errors)


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
        case UserNotFound():
            return problem(404, str(error))
        case VersionConflict():
            return problem(412, str(error))
    return _unexpected(error)


def _unexpected(error: Exception) -> Response:
    log.error("500", exc_info=error)
    return problem(500, "Something went wrong; the log has it under the request_id.")


def _cause(error: StorageError) -> str:
    return "" if error.__cause__ is None else f" ({type(error.__cause__).__name__}: {error.__cause__})"
