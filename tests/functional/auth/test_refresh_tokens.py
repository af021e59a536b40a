"""Refresh tokens: rotation, repeated use, revocation, read-only mode."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from storage.db_io.refresh_tokens import Family
from tests.functional.auth.accounts import (
    PASSWORD,
    WITHOUT_LIMITS,
    me,
    refresh,
    register,
    request_token,
    sign_in,
)
from tests.support import Service, get


@pytest.fixture(scope="module")
def email(running: Service) -> str:
    """The address of an account with the password PASSWORD."""
    return register(running)


@pytest.fixture
def token(running: Service, email: str) -> str:
    """A refresh token that was not used yet."""
    return str(sign_in(running, email)["refresh_token"])


def family_of(token: str) -> UUID:
    return UUID(bytes=base64.urlsafe_b64decode(token.split(".")[0] + "=")[:16])


@pytest.fixture
def rows(session: Session, settings: Settings) -> Callable[[str], list[Any]]:
    """Read the row of a token's family, with its TTL: `rows(token)`."""

    def read(token: str) -> list[Any]:
        columns = ", ".join(Family._fields)
        cql = f"SELECT {columns}, TTL(email), TTL(generation) FROM {settings.cassandra_keyspace}.refresh_token_families"
        return list(session.execute(f"{cql} WHERE family = %s", (family_of(token),)))

    return read


@pytest.fixture
def end_reuse_window(session: Session, settings: Settings) -> Callable[[str], None]:
    """Change the time of the last rotation to a minute ago: `end_reuse_window(token)`."""

    def change(token: str) -> None:
        cql = f"UPDATE {settings.cassandra_keyspace}.refresh_token_families SET rotated_at = %s WHERE family = %s"
        session.execute(f"{cql} IF EXISTS", (datetime.now(UTC) - timedelta(minutes=1), family_of(token)))

    return change


def is_revoked(response: httpx.Response) -> bool:
    return response.status_code == 400 and response.json()["error"] == "invalid_grant"


def test_each_use_returns_a_successor(running: Service, token: str) -> None:
    seen = {token}
    for _ in range(3):
        response = refresh(running, token)
        assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
        assert me(running, response.json()["access_token"]).status_code == 200
        token = response.json()["refresh_token"]
        assert token not in seen
        seen.add(token)


def test_token_used_again_within_the_window_returns_the_same_successor(running: Service, token: str) -> None:
    first, second = refresh(running, token).json(), refresh(running, token).json()
    assert first["refresh_token"] == second["refresh_token"]
    assert first["access_token"] != second["access_token"]
    assert refresh(running, first["refresh_token"]).status_code == 200


def test_fifty_simultaneous_uses_return_one_successor(running: Service, token: str) -> None:
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: refresh(running, token), range(50)))
    statuses = {response.status_code for response in responses}
    assert 200 in statuses
    # 503 and 504 under this load: the client repeats the request.
    assert statuses <= {200, 503, 504}
    successors = {response.json()["refresh_token"] for response in responses if response.status_code == 200}
    assert len(successors) == 1
    assert refresh(running, successors.pop()).status_code == 200


def test_token_used_again_later_revokes_its_family(
    running: Service, token: str, end_reuse_window: Callable[[str], None], rows: Callable[[str], list[Any]]
) -> None:
    successor = refresh(running, token).json()["refresh_token"]
    end_reuse_window(token)
    assert is_revoked(refresh(running, token))
    assert rows(token) == []
    assert is_revoked(refresh(running, successor))
    running.wait_for_log("was used again: its tokens are revoked")


def test_token_before_the_last_one_revokes_its_family_at_once(running: Service, token: str) -> None:
    second = refresh(running, token).json()["refresh_token"]
    third = refresh(running, second).json()["refresh_token"]
    assert is_revoked(refresh(running, token))
    assert is_revoked(refresh(running, third))


def test_valid_token_survives_the_end_of_the_window(
    running: Service, token: str, end_reuse_window: Callable[[str], None]
) -> None:
    end_reuse_window(token)
    assert refresh(running, token).status_code == 200


def test_changed_tokens_are_refused_and_change_nothing(
    running: Service, token: str, rows: Callable[[str], list[Any]]
) -> None:
    before = rows(token)
    data, signature = token.split(".")
    other = "B" if signature[0] == "A" else "A"
    for forged in (f"{data}.{other}{signature[1:]}", f"{data[:-2]}zz.{signature}", data, f"{token}=", f" {token}", ""):
        assert refresh(running, forged).status_code == 400
    assert [row[:7] for row in rows(token)] == [row[:7] for row in before]
    assert refresh(running, token).status_code == 200


def test_revoked_family_is_refused_by_every_worker(running: Service, token: str) -> None:
    """Each request uses a new connection, so that both workers receive some of them."""
    successor = refresh(running, token).json()["refresh_token"]
    response = running.client.post("/auth/revoke", data={"token": token, "token_type_hint": "refresh_token"})
    assert (response.status_code, response.json()) == (200, {})
    assert response.headers["Cache-Control"] == "no-store"
    for _ in range(10):
        assert is_revoked(refresh(running, successor))
        assert is_revoked(refresh(running, token))


def test_revocation_of_other_tokens_returns_200(running: Service, email: str) -> None:
    """RFC 7009: an unknown token is not an error. An access token stays valid until it expires."""
    access_token = sign_in(running, email)["access_token"]
    for token in (access_token, "unknown", "x.y"):
        assert running.client.post("/auth/revoke", json={"token": token}).status_code == 200
    assert me(running, access_token).status_code == 200
    response = running.client.post("/auth/revoke", data={"client_id": "x"})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert running.client.post("/auth/revoke", content=b"x").status_code == 415


def test_families_expire(
    start: Callable[..., Service], running: Service, email: str, rows: Callable[[str], list[Any]]
) -> None:
    """Each use starts REFRESH_TOKEN_LIFETIME again, for all columns."""
    token = sign_in(running, email)["refresh_token"]
    assert all(30 * 86400 - 60 < ttl <= 30 * 86400 for ttl in rows(token)[0][-2:])
    short = start(WITHOUT_LIMITS | {"REFRESH_TOKEN_LIFETIME": "60"})
    assert refresh(short, token).status_code == 200
    assert all(ttl <= 60 for ttl in rows(token)[0][-2:])


def test_scopes_come_from_the_account(
    running: Service, session: Session, settings: Settings, email: str, token: str
) -> None:
    cql = f"UPDATE {settings.cassandra_keyspace}.accounts SET scopes = %s WHERE email = %s IF EXISTS"
    session.execute(cql, ({"read"}, email))
    try:
        assert refresh(running, token).json()["scope"] == "read"
    finally:
        session.execute(cql, ({"read", "write"}, email))


def test_sign_in_works_in_read_only_mode(
    start: Callable[..., Service], running: Service, email: str, token: str, rows: Callable[[str], list[Any]]
) -> None:
    """The service issues access tokens and writes nothing: refresh tokens are neither issued nor replaced."""
    read_only = start(WITHOUT_LIMITS | {"READ_ONLY": "true"})
    signed_in = request_token(read_only, grant_type="password", username=email, password=PASSWORD)
    assert signed_in.status_code == 200
    assert "refresh_token" not in signed_in.json()
    assert me(read_only, signed_in.json()["access_token"]).status_code == 200
    before = rows(token)
    refreshed = refresh(read_only, token)
    assert refreshed.status_code == 200
    assert "refresh_token" not in refreshed.json()
    assert [row[:7] for row in rows(token)] == [row[:7] for row in before]
    assert read_only.client.post("/auth/revoke", data={"token": token}).status_code == 503
    assert refresh(running, token).status_code == 200
    assert get(read_only, "/health").json()["read_only"] is True
