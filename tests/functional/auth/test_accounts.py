"""Accounts over HTTP: registration, sign-in, the account of the caller, change of the password."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST, RFC_9106_LOW_MEMORY
from cassandra.cluster import Session

from auth import accounts, passwords
from auth.accounts import InvalidCredentials
from settings import Settings
from storage.cql import QueryOptions
from tests.functional.auth.accounts import (
    PASSWORD,
    WITHOUT_LIMITS,
    me,
    new_email,
    refresh,
    register,
    request_token,
    sign_in,
)
from tests.support import Service, bearer

INVALID_GRANT = "invalid_grant"


@pytest.fixture
def stored(session: Session, settings: Settings) -> Callable[[str], Any]:
    """Read the row of an account: `stored(email)`."""

    def rows(email: str) -> list[Any]:
        cql = f"SELECT password_hash, credentials, scopes FROM {settings.cassandra_keyspace}.accounts WHERE email = %s"
        return list(session.execute(cql, (email,)))

    return rows


def test_registration_returns_the_account(running: Service) -> None:
    email = new_email()
    response = running.client.post("/auth/register", json={"email": email, "password": PASSWORD})
    assert response.status_code == 201
    assert response.json() == {
        "id": response.json()["id"],
        "email": email,
        "scopes": ["read", "write"],
        "created_at": response.json()["created_at"],
    }
    account = me(running, sign_in(running, email)["access_token"])
    assert (account.status_code, account.json()) == (200, response.json())


def test_addresses_are_normalized(running: Service) -> None:
    """Upper and lower case make no difference, neither at registration nor at sign-in."""
    email = register(running)
    again = running.client.post("/auth/register", json={"email": email.upper(), "password": PASSWORD})
    assert again.status_code == 409
    assert sign_in(running, email.upper())["token_type"] == "Bearer"


def test_letters_that_are_composed_only_in_lower_case_give_one_account(running: Service) -> None:
    # H with a line below: two characters in upper case, one in lower case.
    email = register(running, f"h\u0331{new_email()}")
    again = running.client.post("/auth/register", json={"email": email.upper(), "password": PASSWORD})
    assert again.status_code == 409
    assert sign_in(running, email.upper())["token_type"] == "Bearer"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"email": "no address"}, "email"),
        ({"password": "x" * 11}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"scopes": ["operator"]}, "scopes"),
    ],
)
def test_invalid_registrations_are_rejected(running: Service, changed: dict[str, Any], field: str) -> None:
    body = {"email": new_email(), "password": PASSWORD} | changed
    response = running.client.post("/auth/register", json=body)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["body", field]]


def test_closed_registration_returns_403(start: Callable[..., Service]) -> None:
    closed = start(WITHOUT_LIMITS | {"REGISTRATION": "closed"})
    response = closed.client.post("/auth/register", json={"email": new_email(), "password": PASSWORD})
    assert response.status_code == 403


def test_fifty_simultaneous_registrations_create_one_account(
    running: Service, stored: Callable[[str], list[Any]]
) -> None:
    """One request gets 201, the others 409; 503 with Retry-After if too many passwords are being hashed."""
    email = new_email()

    def post(number: int) -> httpx.Response:
        body = {"email": email, "password": f"password number {number}"}
        headers = {"X-Request-Timeout": "60"}
        return httpx.post(f"{running.client.base_url}/auth/register", json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(post, range(50)))
    statuses = [response.status_code for response in responses]
    assert statuses.count(201) == 1, statuses
    assert set(statuses) <= {201, 409, 503}
    assert all("Retry-After" in response.headers for response in responses if response.status_code == 503)
    assert len(stored(email)) == 1
    # The account has the password of the request that got 201.
    number = statuses.index(201)
    assert sign_in(running, email, f"password number {number}")


def test_requests_above_two_hashes_return_503(start: Callable[..., Service]) -> None:
    """With QUEUE_TIMEOUT=0, a third request does not wait for the two hashes of its worker."""
    service = start(WITHOUT_LIMITS | {"WEB_CONCURRENCY": "1", "QUEUE_TIMEOUT": "0"})

    def post(_: int) -> httpx.Response:
        data = {"grant_type": "password", "username": new_email(), "password": PASSWORD}
        return httpx.post(f"{service.client.base_url}/auth/token", data=data, timeout=60)

    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(post, range(32)))
    busy = [response for response in responses if response.status_code == 503]
    assert busy
    assert all(response.headers["Retry-After"] == "1" for response in busy)
    assert {response.status_code for response in responses} == {400, 503}


@pytest.mark.parametrize("username", ["nobody@example.org", "no address", " ", "@", "a" * 100_000, "\0"])
def test_unknown_accounts_get_the_same_answer_as_wrong_passwords(running: Service, username: str) -> None:
    email = register(running)
    wrong = request_token(running, grant_type="password", username=email, password="wrong")
    unknown = request_token(running, grant_type="password", username=username, password=PASSWORD)
    assert (wrong.status_code, wrong.json()["error"]) == (400, INVALID_GRANT)
    assert (unknown.status_code, unknown.json()) == (wrong.status_code, wrong.json())


def test_unknown_accounts_are_compared_with_a_hash(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash for unknown addresses has the parameters of new hashes, so the comparison takes the same time."""
    assert not PasswordHasher().check_needs_rehash(passwords._NO_PASSWORD)
    compared = []

    class Recorder(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            compared.append(hash)
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "_hasher", Recorder())
    options = QueryOptions()
    with pytest.raises(InvalidCredentials):
        accounts.sign_in(session, new_email(), PASSWORD, passwords.Passwords(settings, options), options)
    assert compared == [passwords._NO_PASSWORD]


def test_passwords_are_hashed_again_when_the_parameters_change(
    running: Service, session: Session, settings: Settings, stored: Callable[[str], list[Any]]
) -> None:
    """A sign-in with the right password replaces a weaker hash. It revokes no refresh tokens."""
    email = register(running)
    token = sign_in(running, email)["refresh_token"]
    weak = PasswordHasher.from_parameters(CHEAPEST).hash(PASSWORD)
    cql = f"UPDATE {settings.cassandra_keyspace}.accounts SET password_hash = %s WHERE email = %s IF EXISTS"
    session.execute(cql, (weak, email))
    request_token(running, grant_type="password", username=email, password="wrong")
    assert stored(email)[0][0] == weak
    sign_in(running, email)
    parameters = RFC_9106_LOW_MEMORY
    begin = f"$argon2id$v=19$m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}$"
    assert stored(email)[0][0].startswith(begin)
    assert sign_in(running, email)
    assert refresh(running, token).status_code == 200


def test_password_change_revokes_all_refresh_tokens(running: Service) -> None:
    email = register(running)
    first, second = sign_in(running, email), sign_in(running, email)
    body = {"current_password": PASSWORD, "new_password": "another long password"}
    response = running.client.post("/auth/password", json=body, headers=bearer(first["access_token"]))
    assert (response.status_code, response.content) == (204, b"")
    for tokens in (first, second):
        assert refresh(running, tokens["refresh_token"]).json()["error"] == INVALID_GRANT
    # Access tokens stay valid until they expire.
    assert me(running, second["access_token"]).status_code == 200
    refused = request_token(running, grant_type="password", username=email, password=PASSWORD)
    assert refused.json()["error"] == INVALID_GRANT
    tokens = sign_in(running, email, "another long password")
    assert refresh(running, tokens["refresh_token"]).status_code == 200


def test_password_change_needs_the_present_password(running: Service) -> None:
    email = register(running)
    tokens = sign_in(running, email)
    body = {"current_password": "wrong", "new_password": "another long password"}
    response = running.client.post("/auth/password", json=body, headers=bearer(tokens["access_token"]))
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body", "current_password"]
    assert refresh(running, tokens["refresh_token"]).status_code == 200
    assert sign_in(running, email)


def test_one_of_two_simultaneous_password_changes_succeeds(running: Service) -> None:
    email = register(running)
    headers = bearer(sign_in(running, email)["access_token"])

    def change(number: int) -> httpx.Response:
        body = {"current_password": PASSWORD, "new_password": f"password number {number}"}
        return httpx.post(f"{running.client.base_url}/auth/password", json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(4) as pool:
        statuses = [response.status_code for response in pool.map(change, range(4))]
    assert statuses.count(204) == 1, statuses
    assert set(statuses) == {204, 422}
    assert sign_in(running, email, f"password number {statuses.index(204)}")


def test_account_routes_require_a_token_even_without_auth(live: Service) -> None:
    for method, path in (("GET", "/auth/me"), ("POST", "/auth/password")):
        response = live.client.request(method, path)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
