"""Passwords, tokens and request bodies appear neither in the log, nor in error documents, nor in the metrics."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from tests.functional.auth.accounts import WITHOUT_LIMITS, new_email, sign_in
from tests.support import Service, bearer, get


class Planted:
    """Secrets that the test sends, and the error responses that it receives."""

    def __init__(self, running: Service) -> None:
        self.running = running
        self.secrets: list[str] = []
        self.errors: list[httpx.Response] = []

    def secret(self, length: int = 0) -> str:
        """Return a text that appears nowhere else, of at least this length."""
        self.secrets.append(f"planted-{uuid.uuid4().hex}")
        return self.secrets[-1].ljust(length, "x")

    def send(self, method: str, path: str, *statuses: int, **options: Any) -> httpx.Response:
        """Send a request that must get one of these statuses."""
        response = self.running.client.request(method, path, **options)
        assert response.status_code in statuses, (path, response.status_code, response.text)
        if response.status_code >= 400:
            self.errors.append(response)
        return response

    def assert_not_in(self, text: str) -> None:
        assert not [secret for secret in self.secrets if secret in text]


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_secrets_are_neither_logged_nor_returned(
    start: Callable[..., Service], keyspace: str, session: Session, level: str
) -> None:
    """Requests that succeed, that are refused, and that fail because tables are missing."""
    variables = WITHOUT_LIMITS | {"CASSANDRA_KEYSPACE": keyspace, "LOG_LEVEL": level, "OPERATOR_TOKEN": "planted-" * 4}
    planted = Planted(start(variables))
    planted.secrets.append(variables["OPERATOR_TOKEN"])
    email, password = new_email(), planted.secret()
    planted.send("POST", "/auth/register", 201, json={"email": email, "password": password})
    planted.send("POST", "/auth/register", 409, json={"email": email, "password": planted.secret()})
    tokens = sign_in(planted.running, email, password)
    planted.secrets += [tokens["access_token"], tokens["refresh_token"]]
    headers = bearer(tokens["access_token"])
    send_invalid_requests(planted, email, headers)
    used = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    planted.secrets.append(planted.send("POST", "/auth/token", 200, data=used).json()["refresh_token"])
    change = {"current_password": password, "new_password": planted.secret()}
    planted.send("POST", "/auth/password", 204, json=change, headers=headers)
    operator = bearer(variables["OPERATOR_TOKEN"])
    account = {"email": new_email(), "password": planted.secret()}
    planted.send("POST", "/accounts", 201, json=account, headers=operator)
    planted.send("POST", "/accounts", 422, json=account | {"password": planted.secret(200)}, headers=operator)
    for password in (planted.secret(), planted.secret(200)):
        status = 422 if len(password) > 128 else 200
        path = f"/accounts/{account['email']}"
        planted.send("PATCH", path, status, json={"password": password}, headers=operator)
    own_page = {"X-Requested-With": "fieldbook"}
    wrong = account | {"password": planted.secret()}
    planted.send("POST", "/ui/session", 401, json=wrong, headers=own_page)
    # Deadlines: 504.
    registration = {"email": new_email(), "password": planted.secret()}
    planted.send("POST", "/auth/register", 504, json=registration, headers={"X-Request-Timeout": "0.0001"})
    # Errors of Cassandra: 500 with a traceback in the log.
    for table in ("refresh_token_families", "accounts", "observers"):
        session.execute(f"DROP TABLE {keyspace}.{table}", timeout=60)
    grant = {"grant_type": "password", "username": email, "password": change["new_password"]}
    planted.send("POST", "/auth/token", 500, data=grant)
    planted.send("POST", "/auth/token", 500, data=used)
    planted.send("POST", "/auth/revoke", 500, data={"token": tokens["refresh_token"]})
    planted.send("POST", "/auth/register", 500, json={"email": new_email(), "password": planted.secret()})
    planted.send("POST", "/auth/password", 500, json=change, headers=headers)
    body = {"name": planted.secret(), "email": f"{planted.secret()}@example.org", "age": 36}
    planted.send("POST", "/observers", 500, json=body, headers=headers)

    assert {response.status_code for response in planted.errors} >= {400, 401, 403, 409, 415, 422, 500, 504}
    for response in planted.errors:
        planted.assert_not_in(f"{response.headers} {response.text}")
    log = planted.running.log_text()
    assert "Traceback" in log
    planted.assert_not_in(log)
    planted.assert_not_in(get(planted.running, "/metrics", Accept="text/plain").text)


def send_invalid_requests(planted: Planted, email: str, headers: dict[str, str]) -> None:
    """Send requests with secrets that the service refuses."""
    secret, send = planted.secret, planted.send
    as_json = {"Content-Type": "application/json"}
    for body in ({"email": email, "password": secret(200)}, {"email": secret(), "password": secret()}):
        send("POST", "/auth/register", 422, json=body)
    send("POST", "/auth/register", 422, json={"email": email, "password": [secret()], "more": secret()})
    send("POST", "/auth/register", 400, content=f'{{"password": "{secret()}"', headers=as_json)
    send("POST", "/auth/register", 415, content=secret(), headers={"Content-Type": "text/plain"})
    for fields in (
        {"grant_type": "password", "username": email, "password": secret()},
        {"grant_type": "password", "username": secret(), "password": secret()},
        {"grant_type": "password", "username": email, "password": [secret(), secret()]},
        {"grant_type": "password", "username": email, "client_secret": secret()},
        {"grant_type": "refresh_token", "refresh_token": secret()},
        {"grant_type": secret(), "password": secret()},
        {"grant_type": "password", "username": email, "password": secret(), "scope": secret()},
    ):
        send("POST", "/auth/token", 400, data=fields)
    send("POST", "/auth/token", 400, content=f'{{"password": "{secret()}"', headers=as_json)
    send("POST", "/auth/token", 415, content=f"password={secret()}")
    send("POST", "/auth/revoke", 200, data={"token": secret()})
    send("POST", "/auth/password", 422, json={"current_password": secret(), "new_password": secret()}, headers=headers)
    send("POST", "/auth/password", 422, json={"current_password": secret(), "new_password": "x"}, headers=headers)
    for authorization in (f"Bearer {secret()}", f"Bearer {secret()}.{secret()}.x", f"Basic {secret()}", secret()):
        send("GET", "/auth/me", 401, headers={"Authorization": authorization})
    send("GET", f"/auth/me?access_token={secret()}", 401)
    send("POST", "/shutdown", 403, headers=headers)
    send("GET", "/auth/me", 403, headers=bearer("planted-" * 4))
    send("POST", "/observers", 422, json={"name": secret(), "email": secret(), "age": 1000}, headers=headers)
