"""Connections to a node that requires TLS, client certificates and a password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import Service, wait_for


def test_service_connects_with_certificate_and_password(start: Callable[..., Service], secured: dict[str, str]) -> None:
    """With valid certificates and the right password, the service connects."""
    running = start(secured)
    assert running.client.get("/health").json()["nodes"] == {"up": 1, "down": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CASSANDRA_PASSWORD": "wrong"}, "incorrect"),
        ({"CASSANDRA_TLS_CA": "other-ca.pem"}, "certificate verify failed"),
        ({"CASSANDRA_TLS_CERT": "", "CASSANDRA_TLS_KEY": ""}, ""),
    ],
    ids=["wrong password", "unknown certificate authority", "no client certificate"],
)
def test_failed_authentication_is_logged_with_its_reason(
    start: Callable[..., Service], secured: dict[str, str], change: dict[str, str], reason: str
) -> None:
    """The service does not connect; the log gives the reason and does not contain the password."""
    files = Path(secured["CASSANDRA_TLS_CA"]).parent
    change = {name: str(files / value) if value.endswith(".pem") else value for name, value in change.items()}
    running = start(secured | change, healthy=False)
    wait_for(
        lambda: "No connection to Cassandra" in running.log_text(), description="the log line about the connection"
    )
    running.wait_for_log(reason)
    assert "wrong" not in running.log_text()
    assert running.client.get("/health").status_code == 503
