"""The consistency level that a client asks for with `X-Consistency-Level`."""

from __future__ import annotations

from typing import get_args

from flask import request

from schemas.base import InvalidInput
from settings import ConsistencyLevel

CONSISTENCY_LEVELS: tuple[str, ...] = get_args(ConsistencyLevel)
WRITE_LEVELS = (*CONSISTENCY_LEVELS, "ANY")


def find() -> str | None:
    """The name of the level, or None for the default.

    :raises InvalidInput: the header is not the name of a level that the method can use.
    """
    level = request.headers.get("X-Consistency-Level")
    if level is not None:
        allowed = CONSISTENCY_LEVELS if request.method in ("GET", "HEAD") else WRITE_LEVELS
        if level not in allowed:
            raise InvalidInput.at("header", "X-Consistency-Level", f"Input should be one of {', '.join(allowed)}")
    return level
