"""The `Server-Timing` header: milliseconds spent waiting for Cassandra, and in the service."""

from __future__ import annotations

from typing import Any

from flask import Response


def finish(response: Response, context: Any, elapsed: float) -> None:
    """Add the header.

    :param context: Flask's `g`.
    :param elapsed: seconds since the request began; for a stream, until its first page.
    """
    database = context.options.database.seconds if "options" in context else 0.0
    timing = f"db;dur={database * 1000:.2f}, app;dur={(elapsed - database) * 1000:.2f}"
    response.headers["Server-Timing"] = timing
