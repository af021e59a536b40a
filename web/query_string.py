"""The query string: valid UTF-8, and each parameter at most once."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from flask import request
from werkzeug.exceptions import BadRequest

from schemas.base import InvalidInput


def check(query: bytes) -> None:
    """Check the query string. Otherwise the service would silently use a value that the client did not send.

    :raises BadRequest: it is not valid UTF-8. Werkzeug would read `%ff` as the text `%ff`.
    :raises InvalidInput: names each parameter that appears more than once.
    """
    if b"%" in query:
        try:
            unquote_to_bytes(query).decode()
        except UnicodeDecodeError:
            raise BadRequest("The query string is not valid UTF-8.") from None
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise InvalidInput(
            [{"loc": ["query", name], "msg": "A parameter may appear once", "type": "value_error"} for name in repeated]
        )
