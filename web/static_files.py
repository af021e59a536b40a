"""Files that a page loads: scripts, style sheets and icons."""

from __future__ import annotations

from os import PathLike

from flask import Response, request, send_from_directory


def send_file(directory: str | PathLike[str], filename: str, max_age: int) -> Response:
    """A file of a directory, with an ETag. A conditional request for an unchanged file gets 304.

    :param max_age: seconds for which browsers use the file without revalidation; 0 for revalidation before each use.
    :raises NotFound: the directory has no such file.
    """
    return send_from_directory(directory, filename, max_age=max_age, conditional=_dates_are_valid())


def _dates_are_valid() -> bool:
    # Werkzeug raises OverflowError for a date with a number out of range. A server ignores invalid dates (RFC 9110).
    try:
        request.if_modified_since, request.if_range  # noqa: B018
    except OverflowError:
        return False
    return True
