"""Versions of rows in headers: `ETag`, `If-Match` and `If-None-Match`."""

from __future__ import annotations

import re
from collections.abc import Container
from uuid import UUID

from werkzeug.http import parse_etags

from web.headers import bounded_header

# Proxies that compress change the ETag: nginx prepends W/, which parse_etags drops; Apache and others append a suffix.
_PROXY_SUFFIX = re.compile(r"[-;:](gzip|br|zstd|deflate)$")


def etag(version: UUID) -> dict[str, str]:
    """The `ETag` header of a row at this version."""
    return {"ETag": f'"{version.hex}"'}


def accepted() -> Container[UUID | None] | None:
    """The versions that the client accepts to change: those in `If-Match`, without those in `If-None-Match`.

    They contain None if the client accepts that the row does not exist. The result is None without these headers.

    :raises InvalidInput: a header is too long.
    """
    match, none_match = _versions("If-Match"), _versions("If-None-Match")
    return match if none_match is None else _Without(match, none_match)


def is_known(version: UUID) -> bool:
    """Whether `If-None-Match` has this version.

    The response is then 304, because the client already has the row.

    :raises InvalidInput: the header is too long.
    """
    known = _versions("If-None-Match")
    return known is not None and version in known


class _AnyVersion(Container[UUID]):
    def __contains__(self, version: object) -> bool:
        return version is not None


class _Without(Container[UUID | None]):
    """The versions in `included`, or all if it is None, that are not in `excluded`."""

    def __init__(self, included: Container[UUID] | None, excluded: Container[UUID]) -> None:
        self._included = included
        self._excluded = excluded

    def __contains__(self, version: object) -> bool:
        return (self._included is None or version in self._included) and version not in self._excluded


def _versions(header: str) -> Container[UUID] | None:
    """The versions in a conditional header; None if the request does not have it."""
    value = bounded_header(header)
    if value is None:
        return None
    etags = parse_etags(value)
    if etags.star_tag:
        return _AnyVersion()
    versions = set()
    for tag in etags.as_set(include_weak=True):
        try:
            # Werkzeug returns None for an empty tag.
            versions.add(UUID(hex=_PROXY_SUFFIX.sub("", tag or "")))
        except ValueError:
            # The service never issued this tag, so it matches nothing.
            continue
    return versions
