"""The query string: each parameter at most once."""

from __future__ import annotations

from flask import request

from schemas.base import InvalidInput


def reject_repeated_parameters() -> None:
    """Check that no parameter appears twice. Otherwise the service would silently use one of the two values.

    :raises InvalidInput: names each parameter that appears more than once.
    """
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise InvalidInput(
            [{"loc": ["query", name], "msg": "A parameter may appear once", "type": "value_error"} for name in repeated]
        )
