"""Counts of requests for rate limits, in the memory of this worker or in Redis.

The windows slide. The previous window counts in proportion to its part that is within the last period: for
100 per minute and 15 s into a window, 75 % of the previous count plus the current count. A fixed window would admit
twice the limit around its end, and a log of all requests would cost memory for each request. Two numbers for each
client are enough here, and one command to Redis reads and writes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import limits

# What a limit counts: the values of the label `limit` of fieldbook_requests_rate_limited.
LimitKind = Literal["requests", "sign_in_account", "sign_in_address"]

# Clients whose counts a worker keeps for each limit. About 300 bytes each.
_MAX_CLIENTS = 50_000


@dataclass(frozen=True)
class Limit:
    """A limit such as 100 per minute.

    :ivar name: names the limit in `RateLimit` and `RateLimit-Policy`.
    :ivar period: seconds.
    """

    kind: LimitKind
    name: str
    amount: int
    period: int

    @cached_property
    def policy(self) -> str:
        """The item of this limit in `RateLimit-Policy`."""
        return f'"{self.name}";q={self.amount};w={self.period}'


# A limit, and the client or the account that it counts.
Subject = tuple[Limit, str]


class Usage(NamedTuple):
    """The state of a limit for one client.

    :ivar remaining: requests that are still admitted in this window.
    :ivar reset: seconds until the window ends; if no request remains, until the next one is admitted.
    """

    limit: Limit
    remaining: int
    reset: int


class Count(NamedTuple):
    """The result of counting a request. It counts against no limit if one limit rejects it."""

    admitted: bool
    usages: list[Usage]


def parse_limits(kind: LimitKind, name: str, text: str | None) -> tuple[Limit, ...]:
    """The limits of a setting such as `10 per second; 1000 per hour`.

    :param name: the name of the limit, if there is only one; otherwise each name ends with its period.
    :param text: None or `off` for no limit.
    """
    if text is None or text == "off":
        return ()
    # Of two limits with one period, the smaller one applies.
    amounts: dict[int, int] = {}
    for item in limits.parse_many(text):
        period = item.get_expiry()
        amounts[period] = min(item.amount, amounts.get(period, item.amount))
    return tuple(
        Limit(kind, name if len(amounts) == 1 else f"{name}-{period}s", amount, period)
        for period, amount in sorted(amounts.items())
    )


def usage(limit: Limit, amount: int, previous: int, weighted: int, current: int, left: float) -> Usage:
    """The state of a limit after a request was counted or rejected.

    :param amount: the limit that applies here, which is less than `limit.amount` for one of several workers.
    :param previous: requests in the previous window.
    :param weighted: how many of them count.
    :param current: requests in the current window.
    :param left: seconds until the current window ends.
    """
    if weighted + current < amount:
        wait = left
    elif current < amount:
        # Until fewer requests of the previous window count.
        wait = left - limit.period * (amount - current) / previous
    else:
        # The current window becomes the previous one first.
        wait = left + limit.period * (1 - amount / current)
    return Usage(limit, max(0, amount - weighted - current), int(wait) + 1)


class _Window:
    """The requests of one client in the current and in the previous window."""

    __slots__ = ("current", "number", "previous")

    def __init__(self, number: int, previous: int) -> None:
        self.number, self.current, self.previous = number, 0, previous


class _Counted(NamedTuple):
    """A limit, and the requests that count against it now."""

    limit: Limit
    amount: int
    window: _Window
    weighted: int
    left: float

    def usage(self) -> Usage:
        return usage(self.limit, self.amount, self.window.previous, self.weighted, self.window.current, self.left)


class MemoryCounters:
    """Counts in the memory of this worker, against its share of each limit."""

    def __init__(self, workers: int) -> None:
        """:param workers: the number of workers among which a limit is divided."""
        self._workers = workers
        self._lock = threading.Lock()
        # By limit and client, the client whose window began first in front.
        self._windows: dict[Limit, dict[str, _Window]] = {}

    def count(self, subjects: Sequence[Subject]) -> Count:
        """Count a request against all limits, or against none if one of them rejects it."""
        now = time.time()
        with self._lock:
            counted = [self._counted(limit, key, now) for limit, key in subjects]
            admitted = all(each.weighted + each.window.current < each.amount for each in counted)
            if admitted:
                for each in counted:
                    each.window.current += 1
            return Count(admitted, [each.usage() for each in counted])

    def _counted(self, limit: Limit, key: str, now: float) -> _Counted:
        window = self._window(limit, key, now)
        left = limit.period - now % limit.period
        amount = max(1, limit.amount // self._workers)
        return _Counted(limit, amount, window, int(window.previous * left / limit.period), left)

    def _window(self, limit: Limit, key: str, now: float) -> _Window:
        windows = self._windows.get(limit)
        if windows is None:
            windows = self._windows[limit] = {}
        number = int(now // limit.period)
        window = windows.get(key)
        if window is None or window.number != number:
            previous = window.current if window is not None and window.number == number - 1 else 0
            windows.pop(key, None)
            if len(windows) >= _MAX_CLIENTS:
                del windows[next(iter(windows))]
            window = windows[key] = _Window(number, previous)
        return window
