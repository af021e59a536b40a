"""Who may operate the service: until there is sign-in, whoever sends `Authorization: Bearer $OPERATOR_TOKEN`."""

from __future__ import annotations

import hmac

from flask import request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

from settings import get_settings


def require_operator() -> None:
    """Lets the current request pass if it is an operator's.

    :raises Unauthorized: it has no token, or another one (401).
    :raises Forbidden: no OPERATOR_TOKEN is set, so that nobody is an operator (403).
    """
    token = get_settings().operator_token
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        how = "Authorization: Bearer …" if token else "but this service has no OPERATOR_TOKEN, so nobody is one"
        raise Unauthorized(f"This is for operators: {how}", www_authenticate=_challenge())
    if token is None:
        raise Forbidden("This service has no OPERATOR_TOKEN, so nobody is an operator.")
    if not hmac.compare_digest(given.token.encode(), token.get_secret_value().encode()):
        raise Unauthorized("This token is not the operator's.", www_authenticate=_challenge("invalid_token"))


def _challenge(error: str | None = None) -> WWWAuthenticate:
    return WWWAuthenticate("bearer", {"realm": "fieldbook", **({"error": error} if error else {})})
