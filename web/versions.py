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


def accepted() -> Container[UUID] | None:
    """The versions in `If-Match`: the client accepts to change these. None without the header.

    :raises InvalidInput: the header is too long.
    """
    return _versions("If-Match")


def is_known(version: UUID) -> bool:
    """Whether `If-None-Match` has this version.

    The response is then 304, because the client already has the row.

    :raises InvalidInput: the header is too long.
    """
    known = _versions("If-None-Match")
    return known is not None and version in known


class _AnyVersion(Container[UUID]):
    def __contains__(self, version: object) -> bool:
        return True


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
