"""The log line of a request ends with the client's address."""

from __future__ import annotations

import pytest

from tests.unit.test_app import client_with
from web import access_log


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that are logged for requests."""
    logged: list[str] = []
    monkeypatch.setattr(access_log.log, "info", lambda text, *values: logged.append(text % values))
    return logged


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        # A Unix socket.
        ("", "-"),
    ],
)
def test_log_line_ends_with_the_address_of_the_client(lines: list[str], address: str, shown: str) -> None:
    client_with().get("/health/live", environ_overrides={"REMOTE_ADDR": address})
    (line,) = lines
    assert line.startswith("GET /health/live 200 ")
    assert line.endswith(f" ms {shown}")


@pytest.mark.parametrize(
    ("forwarded", "shown"),
    [("10.1.2.3", "10.1.2.3"), ("1.1.1.1, 10.1.2.3", "10.1.2.3"), ("10.1.2.3 200", "127.0.0.1")],
)
def test_address_is_that_of_a_trusted_proxy(lines: list[str], forwarded: str, shown: str) -> None:
    """With TRUSTED_PROXIES=1, the last address in X-Forwarded-For, if it is valid. Otherwise the header is ignored."""
    for client, expected in (
        (client_with(trusted_proxies=1, trusted_hosts=("localhost",)), shown),
        (client_with(), "127.0.0.1"),
    ):
        client.get("/health/live", headers={"X-Forwarded-For": forwarded})
        assert lines.pop().endswith(f" ms {expected}")
