"""Rate limits: how many requests a caller may send (RATE_LIMIT), and how often a client may try to sign in.

The requests are counted in Redis (REDIS_URL). Without Redis, and while it fails, each worker counts in its memory, up
to the limit divided by the number of workers. The headers are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import TooManyRequests

from auth.access_tokens import derived_key
from auth.callers import ANONYMOUS
from observability import metrics
from settings import Settings
from web.rate_counters import Count, LimitKind, MemoryCounters, Subject, parse_limits
from web.redis_counters import RedisCounters

# Some proxies add the client's port to its address in X-Forwarded-For.
_PORT = re.compile(r"^(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]):[0-9]+$")

_RATE_LIMITS = "fieldbook.rate_limits"
_DETAILS: dict[LimitKind, str] = {
    "requests": "Too many requests",
    "sign_in_account": "Too many attempts to sign in to this account",
    "sign_in_address": "Too many attempts to sign in from your address",
}


class RateLimits:
    """Counts the requests of each caller, and the attempts to sign in."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        """Read the limits. This opens no connection."""
        self._requests = parse_limits("requests", "default", settings.request_limit)
        self._account = parse_limits("sign_in_account", "sign-in-account", settings.sign_in_limit_account)
        self._address = parse_limits("sign_in_address", "sign-in-address", settings.sign_in_limit_address)
        self._memory = MemoryCounters(settings.web_concurrency)
        self._redis = None if settings.redis_url is None else RedisCounters(settings.redis_url.get_secret_value())
        # Redis must not contain e-mail addresses, nor hashes that somebody without SECRET_KEY could compare with them.
        self._account_key = derived_key(settings.signing_key, "sign-in limits")
        app.extensions[_RATE_LIMITS] = self

    def start_connecting(self) -> None:
        """Connect to Redis in the background, in a process that will serve requests."""
        if self._redis is not None:
            self._redis.start_connecting()

    def check(self) -> None:
        """Count the current request.

        :raises TooManyRequests: the caller has reached the limit.
        """
        if self._requests:
            caller = g.caller
            key = client_key(request.remote_addr) if caller is ANONYMOUS else caller.name
            self._count([(limit, key) for limit in self._requests])

    def check_sign_in(self, email: str) -> None:
        """Count an attempt to sign in: see :func:`limit_sign_in`."""
        account = hmac.new(self._account_key, email.encode(), hashlib.sha256).hexdigest()[:32]
        address = client_key(request.remote_addr)
        subjects = [(limit, account) for limit in self._account] + [(limit, address) for limit in self._address]
        if subjects:
            self._count(subjects)

    def finish(self, response: Response, context: Any) -> None:
        """Add `RateLimit` and `RateLimit-Policy` to the response.

        :param context: Flask's `g`.
        """
        if usages := context.get("rate_limits"):
            headers = response.headers
            headers["RateLimit-Policy"] = ", ".join([usage.limit.policy for usage in usages])
            headers["RateLimit"] = ", ".join(
                [f'"{usage.limit.name}";r={usage.remaining};t={usage.reset}' for usage in usages]
            )

    def _count(self, subjects: Sequence[Subject]) -> None:
        count: Count | None = None
        if self._redis is not None:
            count = self._redis.count(subjects)
        if count is None:
            count = self._memory.count(subjects)
        g.rate_limits = [*g.get("rate_limits", ()), *count.usages]
        if count.admitted:
            return
        # The limit that rejects the request for the longest time.
        limit, _, seconds = max((each for each in count.usages if not each.remaining), key=lambda each: each.reset)
        metrics.RATE_LIMITED.labels(limit.kind).inc()
        raise TooManyRequests(
            f"{_DETAILS[limit.kind]}: the limit is {limit.amount} in {limit.period} s. Try again in {seconds} s.",
            retry_after=seconds,
        )


def start_connecting(app: Flask) -> None:
    """Connect an application to Redis in the background, if it has one. Call this in a worker, after the fork."""
    limits: RateLimits = app.extensions[_RATE_LIMITS]
    limits.start_connecting()


def limit_sign_in(email: str) -> None:
    """Count an attempt to sign in to an account from the client's address.

    Call this before the password is checked, so that concurrent attempts count too.

    :param email: normalized address of the account, which need not exist.
    :raises TooManyRequests: too many attempts for this account or from this address.
    """
    limits: RateLimits = current_app.extensions[_RATE_LIMITS]
    limits.check_sign_in(email)


@lru_cache(maxsize=1024)
def client_key(address: str | None) -> str:
    """The key of a client without account: its IPv4 address, or the /64 of its IPv6 address.

    A provider gives each customer at least a /64, so one client can use all addresses of this network. All clients of
    a Unix socket without proxy headers are one client.
    """
    try:
        parsed = ip_address(_PORT.sub(r"\1\2", address or ""))
    except ValueError:
        return "socket"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed) >> 64 << 64, 64)))
