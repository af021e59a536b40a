"""Counts of requests in Redis, which all workers and instances share.

A request waits for Redis for 45 ms at most. If Redis fails, requests do not use it until a background thread has
connected again. Only that thread connects, because nothing limits the time that the system takes to resolve a name.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from observability import metrics
from web.rate_counters import Count, Limit, Subject, usage

log = logging.getLogger(__name__)

# Connections of a worker. A request uses one for less than 1 ms.
_CONNECTIONS = 8
# How many seconds a request waits for Redis at most, and how many of these for a free connection.
_TIMEOUT, _CONNECTION_TIMEOUT = 0.045, 0.03
# Seconds that the background thread waits for each answer while it connects.
_CONNECT_TIMEOUT = 1.0
# Seconds from a failure to the next attempt to connect.
_RECONNECT_DELAY = 1.0

# ARGV has the limit and the period of each key. The script returns 1 if all limits admit the request, else 0. For each
# key follow the count of the previous window, its weighted count, the count of the current window, and the
# milliseconds until the current window ends. The script uses the clock of Redis, so that the clocks of the instances
# make no difference.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local windows, admitted = {}, 1
for i, key in ipairs(KEYS) do
  local amount, period = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local number = math.floor(now / period)
  local stored = redis.call('HMGET', key, 'number', 'current', 'previous')
  local age = number - (tonumber(stored[1]) or 0)
  local current, previous = 0, 0
  if age == 0 then
    current, previous = tonumber(stored[2]), tonumber(stored[3])
  elseif age == 1 then
    previous = tonumber(stored[2])
  end
  local left = period - now % period
  local weighted = math.floor(previous * left / period)
  if weighted + current >= amount then admitted = 0 end
  windows[i] = {number, current, previous, weighted, left, period}
end
local answer = {admitted}
for i, key in ipairs(KEYS) do
  local number, current, previous, weighted, left, period = unpack(windows[i])
  if admitted == 1 then
    current = current + 1
    redis.call('HSET', key, 'number', number, 'current', current, 'previous', previous)
    redis.call('EXPIRE', key, 2 * period)
  end
  answer[#answer + 1] = previous
  answer[#answer + 1] = weighted
  answer[#answer + 1] = current
  answer[#answer + 1] = math.floor(left * 1000)
end
return answer
"""
_SCRIPT_HASH = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
# What the background thread counts, to see that Redis accepts writes and answers in time.
_PROBE: Subject = (Limit("requests", "probe", 1_000_000, 60), "probe")


class _Waiter:
    """A request that waits for a connection."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.answered = threading.Lock()
        self.answered.acquire()


class _Connections:
    """The connections of a worker.

    Requests get them in the order in which they came. With `queue.Queue`, requests that return a connection and ask for
    the next one are faster than those that wait, which then wait too long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._waiters: deque[_Waiter] = deque()
        self._is_closed = False

    def get(self, timeout: float) -> Any:
        """A connection that no other request uses; None if there is none within `timeout` seconds."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._is_closed:
                return None
            waiter = _Waiter()
            self._waiters.append(waiter)
        if not waiter.answered.acquire(timeout=timeout):
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return waiter.connection

    def put(self, connection: Any) -> None:
        """Add a connection, or return it."""
        with self._lock:
            if not self._is_closed:
                if self._waiters:
                    waiter = self._waiters.popleft()
                    waiter.connection = connection
                    waiter.answered.release()
                else:
                    self._idle.append(connection)
                return
        connection.disconnect()

    def close(self) -> None:
        """Close all connections. Those that a request uses are closed when it returns them."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for waiter in self._waiters:
                waiter.answered.release()
            self._waiters.clear()
        for connection in idle:
            connection.disconnect()


class RedisCounters:
    """Counts in Redis, as long as Redis works."""

    def __init__(self, url: str) -> None:
        """Read the URL, which the settings have checked. This opens no connection, so it may run before a fork."""
        options = parse_url(url)  # type: ignore[no-untyped-call]
        self._connection_class: Any = options.pop("connection_class", redis.Connection)
        # By default, redis-py waits 5 s and tries ten times.
        self._options: dict[str, Any] = options | {
            "socket_timeout": _CONNECT_TIMEOUT,
            "socket_connect_timeout": _CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        self._lock = threading.Lock()
        # None until the first connection, and while Redis fails.
        self._connections: _Connections | None = None
        self._started: float | None = None
        self._first_attempt_ended = threading.Event()
        self._has_failed = False
        metrics.sampler.add(metrics.WORKERS_WITHOUT_REDIS, lambda: self._has_failed)

    def start_connecting(self) -> float:
        """Connect in the background. Otherwise the first request starts this, and may count in memory.

        :returns: when the connecting began, by `time.monotonic()`.
        """
        with self._lock:
            if self._started is None:
                self._started = time.monotonic()
                self._connect_in_background(0)
            return self._started

    def check(self) -> None:
        """Connect once and count a probe, as the background thread does. Raises what redis-py raises."""
        self._open().disconnect()

    def count(self, subjects: Sequence[Subject]) -> Count | None:
        """Count a request against all limits, or against none if one of them rejects it.

        :returns: None if Redis can't be used.
        """
        deadline = time.monotonic() + _TIMEOUT
        connections = self._connections or self._first_connections()
        if connections is None:
            return None
        connection = connections.get(_CONNECTION_TIMEOUT)
        if connection is None:
            metrics.RATE_LIMITER_FAILURES.inc()
            return None
        try:
            result = _count(connection, subjects, deadline)
        except Exception as error:
            connection.disconnect()
            self._fail(connections, error)
            return None
        connections.put(connection)
        return result

    def _first_connections(self) -> _Connections | None:
        """The connections, after a wait for the first one in a process that has just started."""
        started = self.start_connecting()
        if not self._first_attempt_ended.is_set():
            self._first_attempt_ended.wait(max(0, started + _CONNECTION_TIMEOUT - time.monotonic()))
        return self._connections

    def _fail(self, connections: _Connections, error: Exception) -> None:
        """Stop using Redis, and connect again later."""
        metrics.RATE_LIMITER_FAILURES.inc()
        with self._lock:
            if self._connections is not connections:
                # Another request has failed first.
                return
            self._connections = None
        self._report(error)
        connections.close()
        self._connect_in_background(_RECONNECT_DELAY)

    def _report(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning(
                "Redis fails (%s: %s). This worker counts requests for rate limits in memory until Redis works again.",
                type(error).__name__,
                error,
            )

    def _connect_in_background(self, delay: float) -> None:
        threading.Thread(target=self._connect, args=(delay,), name="redis", daemon=True).start()

    def _connect(self, delay: float) -> None:
        """Connect, as often as needed.

        :param delay: seconds before the first attempt.
        """
        while True:
            time.sleep(delay)
            delay = _RECONNECT_DELAY
            connections = _Connections()
            try:
                connections.put(self._open())
            except Exception as error:
                metrics.RATE_LIMITER_FAILURES.inc()
                self._report(error)
                self._first_attempt_ended.set()
                continue
            if self._has_failed:
                self._has_failed = False
                log.info("Redis works again. This worker counts requests for rate limits in Redis.")
            self._connections = connections
            # Requests can use the first connection while the others open.
            self._first_attempt_ended.set()
            try:
                for _ in range(_CONNECTIONS - 1):
                    connections.put(self._open())
            except Exception as error:
                self._fail(connections, error)
            return

    def _open(self) -> Any:
        connection = self._connection_class(**self._options)
        try:
            connection.connect()
            connection.send_command("SCRIPT", "LOAD", _SCRIPT)
            connection.read_response()
            _count(connection, [_PROBE], time.monotonic() + _TIMEOUT)
        except Exception:
            connection.disconnect()
            raise
        return connection


def _count(connection: Any, subjects: Sequence[Subject], deadline: float) -> Count:
    """Count in Redis.

    :param deadline: a value of `time.monotonic()`.
    """
    keys = [f"fieldbook:{limit.kind}:{limit.amount}/{limit.period}:{key}" for limit, key in subjects]
    arguments = [number for limit, _ in subjects for number in (limit.amount, limit.period)]
    connection.send_command("EVALSHA", _SCRIPT_HASH, len(keys), *keys, *arguments)
    admitted, *numbers = connection.read_response(timeout=max(0.001, deadline - time.monotonic()))
    usages = [
        usage(limit, limit.amount, previous, weighted, current, milliseconds / 1000)
        for (limit, _), previous, weighted, current, milliseconds in zip(
            subjects, numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True
        )
    ]
    return Count(admitted == 1, usages)
