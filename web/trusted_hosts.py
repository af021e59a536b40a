"""The host names under which the service is reached (TRUSTED_HOSTS)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from flask import request
from werkzeug.exceptions import BadRequest
from werkzeug.sansio.utils import host_is_trusted


def checker(trusted_hosts: tuple[str, ...]) -> Callable[[], None]:
    """A function that rejects the current request unless its host is trusted.

    :param trusted_hosts: the setting TRUSTED_HOSTS; empty to accept every host.
    """

    @lru_cache(maxsize=1000)
    def is_trusted(host: str) -> bool:
        return host_is_trusted(host.lower(), trusted_hosts)

    def require_trusted_host() -> None:
        # request.host is empty if the header has invalid characters.
        if trusted_hosts and not is_trusted(request.host):
            raise BadRequest("The host name of this request is not one of the service's names (TRUSTED_HOSTS).")

    return require_trusted_host
