"""Access for operators: a client that sends `Authorization: Bearer` with OPERATOR_TOKEN is an operator."""

from __future__ import annotations

import hmac

from flask import request
from pydantic import SecretStr
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized


def require_operator(operator_token: SecretStr | None) -> None:
    """Return if the current request is an operator's.

    :param operator_token: the setting OPERATOR_TOKEN; without it nobody is an operator.
    :raises Unauthorized: the request has no token, or a wrong one.
    :raises Forbidden: the request has a token, but OPERATOR_TOKEN is not set.
    """
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        how = (
            "Send the header Authorization: Bearer with the operator token."
            if operator_token
            else "This service has no OPERATOR_TOKEN, so nobody can call it."
        )
        raise Unauthorized(f"This route is for operators. {how}", www_authenticate=_challenge())
    if operator_token is None:
        raise Forbidden("This service has no OPERATOR_TOKEN, so nobody is an operator.")
    if not hmac.compare_digest(given.token.encode(), operator_token.get_secret_value().encode()):
        raise Unauthorized("The operator token is wrong.", www_authenticate=_challenge("invalid_token"))


def _challenge(error: str | None = None) -> WWWAuthenticate:
    return WWWAuthenticate("bearer", {"realm": "fieldbook", **({"error": error} if error else {})})
