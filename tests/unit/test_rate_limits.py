"""Rate limits without HTTP: the client of an address, the limits of a setting, and counts in memory."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from environment import _explain
from settings import Settings
from web import rate_counters
from web.rate_counters import Limit, MemoryCounters, parse_limits, usage
from web.rate_limits import client_key

PER_DAY = Limit("requests", "default", 100, 86_400)
PER_MINUTE = Limit("requests", "default", 100, 60)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("192.0.2.7:49152", "192.0.2.7"),
        ("[2001:db8:1:2::1]:49152", "2001:db8:1:2::/64"),
        ("", "socket"),
        (None, "socket"),
        ("unknown", "socket"),
    ],
)
def test_clients_are_identified_by_ipv4_address_or_ipv6_network(address: str | None, key: str) -> None:
    assert client_key(address) == key


def test_limits_of_a_setting_have_different_names_and_the_shortest_period_first() -> None:
    assert parse_limits("requests", "default", "100 per minute") == (PER_MINUTE,)
    limits = parse_limits("requests", "default", "1000 per hour; 10 per second; 20 per second")
    assert [(limit.name, limit.amount) for limit in limits] == [("default-1s", 10), ("default-3600s", 1000)]
    assert limits[1].policy == '"default-3600s";q=1000;w=3600'
    assert parse_limits("sign_in_account", "sign-in", "off") == parse_limits("requests", "default", None) == ()


@pytest.mark.parametrize(
    ("previous", "current", "left", "remaining", "reset"),
    [
        (0, 1, 30.0, 99, 31),
        # Half of the previous window counts.
        (100, 20, 30.0, 30, 31),
        # 50 and 56 are above 100. In 3.6 s, 44 remain of the previous window.
        (100, 56, 30.0, 0, 4),
        # The current window alone has reached the limit, so that it must end first.
        (0, 100, 30.0, 0, 31),
    ],
)
def test_previous_window_counts_in_proportion(
    previous: int, current: int, left: float, remaining: int, reset: int
) -> None:
    weighted = int(previous * left / 60)
    assert usage(PER_MINUTE, 100, previous, weighted, current, left)[1:] == (remaining, reset)


def test_each_worker_admits_its_share_also_to_concurrent_requests() -> None:
    counters = MemoryCounters(workers=4)
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(lambda _: counters.count([(PER_DAY, "client")]), range(400)))
    assert Counter(count.admitted for count in counts) == {True: 25, False: 375}
    assert counters.count([(PER_DAY, "another client")]).admitted
    assert MemoryCounters(workers=200).count([(PER_DAY, "client")]).admitted


def test_rejected_requests_count_against_no_limit() -> None:
    counters = MemoryCounters(workers=1)
    small = Limit("sign_in_account", "small", 2, 86_400)
    for _ in range(5):
        count = counters.count([(small, "account"), (PER_DAY, "client")])
    assert not count.admitted
    assert [each.remaining for each in count.usages] == [0, 98]


def test_memory_is_bounded_for_any_number_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_counters, "_MAX_CLIENTS", 10)
    counters = MemoryCounters(workers=1)
    for number in range(50):
        counters.count([(PER_DAY, str(number))])
    assert len(counters._windows[PER_DAY]) == 10
    # The clients that came last are still counted.
    assert counters.count([(PER_DAY, "49")]).usages[0].remaining == 98


@pytest.mark.parametrize(
    "url", ["redis://:sec/ret@host:6379/0", "redis://:secret@host:port", "redis://:secret@host?unknown=1"]
)
def test_invalid_redis_url_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match="must be a URL of a Redis") as error:
        Settings(redis_url=url)  # type: ignore[arg-type]
    assert "sec" not in _explain(error.value)
