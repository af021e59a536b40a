"""JSON of responses: UTF-8, times in RFC 3339 with milliseconds, ids as strings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from flask import Response
from flask.json.provider import JSONProvider

from storage.cql.json_values import rfc3339
from web.media_types import JSON


def dumps(document: Any) -> bytes:
    """The document as JSON. An `orjson.Fragment` in the document is copied without a change.

    :raises TypeError: a value has no form in JSON.
    """
    return orjson.dumps(document, default=_default, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _default(value: Any) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class OrjsonProvider(JSONProvider):
    """Flask's JSON through orjson. Flask's own provider writes times as HTTP dates."""

    def dumps(self, obj: Any, **options: Any) -> str:
        """Encode a document; see :func:`dumps`."""
        return dumps(obj).decode()

    def loads(self, s: str | bytes, **options: Any) -> Any:
        """Parse JSON.

        :raises orjson.JSONDecodeError: the text is not JSON.
        """
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """A response whose body is the arguments as JSON."""
        return Response(dumps(self._prepare_response_obj(args, kwargs)), content_type=JSON)
