"""The request body: JSON or a form, within the limits of size, deadline and idle time."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import orjson
from flask import Request
from werkzeug.exceptions import (
    BadRequest,
    GatewayTimeout,
    HTTPException,
    RequestEntityTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)

from server.connection import body_problem
from web.media_types import FORM, JSON


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body is compressed. The response has an `Accept-Encoding` header (RFC 9110, 12.5.3).

    :ivar accepted: its value.
    """

    def __init__(self, description: str, accepted: str = "identity") -> None:
        super().__init__(description)
        self.accepted = accepted


# Fields of a form. The forms of this service have fewer.
_MAX_FIELDS = 100


class FieldbookRequest(Request):
    """A request whose body is read within the limits of size and time."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Read and parse the body.

        :raises UnsupportedMediaType: the content type is not JSON, or the body has a Content-Encoding (415).
        :raises RequestTimeout: the client stopped sending (408).
        :raises GatewayTimeout: the body is not complete at the deadline (504).
        :raises RequestEntityTooLarge: the body exceeds the limit (413).
        :raises BadRequest: the body is not valid JSON, which excludes NaN and lone surrogates (400).
        """
        if self.mimetype != JSON:
            raise UnsupportedMediaType("The body must be application/json.")
        try:
            return orjson.loads(self._read(cache))
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not JSON: {error}") from None

    def get_form_or_json(self) -> Any:
        """Read and parse a body that is a form or JSON.

        :returns: the JSON value; for a form, its fields as a dict.
        :raises BadRequest: the body is not valid JSON, or a field occurs more than once in the form (400).
        :raises HTTPException: as in :meth:`get_json`.
        """
        if self.mimetype == JSON:
            return self.get_json()
        if self.mimetype != FORM:
            raise UnsupportedMediaType(f"The body must be {FORM} or {JSON}.")
        try:
            text = self._read(cache=True).decode()
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
        except ValueError:
            raise BadRequest(f"The body is not a form of at most {_MAX_FIELDS} fields, URL-encoded in UTF-8.") from None
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise BadRequest("A field must not occur more than once in the form.")
        return fields

    def _read(self, cache: bool) -> bytes:
        if self.environ.get("HTTP_CONTENT_ENCODING", "").lower() not in ("", "identity"):
            raise UnsupportedContentEncoding("The body must not have a Content-Encoding: send it uncompressed.")
        match body_problem(self.environ):
            case "stalled":
                raise RequestTimeout("The client stopped sending the body.")
            case "late":
                raise GatewayTimeout("The body was not complete at the deadline.")
            case "disconnected":
                raise BadRequest("The client disconnected before the body was complete.")
            case "too large":
                raise self._too_large()
        try:
            data = self.get_data(cache=cache)
        except HTTPException:
            raise
        except Exception as error:
            # gunicorn raises exceptions of its own when the chunks of the body are malformed.
            raise BadRequest("The body could not be read: its chunks are malformed.") from error
        # Werkzeug reads a body without Content-Length up to the limit, and ignores the rest.
        if self.max_content_length is not None and len(data) >= self.max_content_length:
            raise self._too_large()
        return data

    def _too_large(self) -> RequestEntityTooLarge:
        limit = (self.max_content_length or 0) - 1
        return RequestEntityTooLarge(f"The body is larger than {limit} bytes (MAX_BODY_BYTES).")
