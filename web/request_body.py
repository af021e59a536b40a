"""The request body: JSON within the limits of size, deadline and idle time."""

from __future__ import annotations

from typing import Any

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


class UnsupportedContentEncoding(UnsupportedMediaType):
    """The body is compressed. The response has an `Accept-Encoding` header (RFC 9110, 12.5.3)."""


class FieldbookRequest(Request):
    """A request whose JSON body is read within the limits of size and time."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Read and parse the body.

        :raises UnsupportedMediaType: the content type is not JSON, or the body has a Content-Encoding (415).
        :raises RequestTimeout: the client stopped sending (408).
        :raises GatewayTimeout: the body is not complete at the deadline (504).
        :raises RequestEntityTooLarge: the body exceeds the limit (413).
        :raises BadRequest: the body is not valid JSON, which excludes NaN and lone surrogates (400).
        """
        if self.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be application/json.")
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
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not JSON: {error}") from None

    def _too_large(self) -> RequestEntityTooLarge:
        limit = (self.max_content_length or 0) - 1
        return RequestEntityTooLarge(f"The body is larger than {limit} bytes (MAX_BODY_BYTES).")
