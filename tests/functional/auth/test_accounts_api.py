"""The routes with which operators manage accounts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from cassandra.cluster import Session

from auth.callers import SCOPES
from schemas.accounts import Scopes
from settings import Settings
from storage.cql import QueryOptions
from storage.db_io import accounts
from tests.functional.auth.accounts import PASSWORD, WITHOUT_LIMITS, me, new_email, refresh, request_token, sign_in
from tests.support import OPERATOR_TOKEN, Service, access_token, bearer

NEW_PASSWORD = "staple battery horse"


@pytest.fixture(scope="module")
def operator(running: Service, settings: Settings, session: Session) -> dict[str, str]:
    """The headers of an operator with an account."""
    return bearer(access_token(settings, ("operator",), session))


@pytest.fixture
def own(running: Service, settings: Settings, session: Session) -> tuple[dict[str, str], str]:
    """The headers of an operator of this test alone, and the address."""
    headers = bearer(access_token(settings, ("operator",), session))
    return headers, running.client.get("/auth/me", headers=headers).json()["email"]


def create(running: Service, headers: dict[str, str], email: str | None = None, **fields: Any) -> httpx.Response:
    """Send POST /accounts with PASSWORD."""
    body = {"email": email or new_email(), "password": PASSWORD} | fields
    return running.client.post("/accounts", json=body, headers=headers)


def change(running: Service, headers: dict[str, str], email: str, **changes: Any) -> httpx.Response:
    """Send PATCH for an account, on a new connection."""
    url = f"{running.url}/accounts/{quote(email, safe='')}"
    return httpx.patch(url, json=changes, headers=headers, timeout=60)


def test_scopes_of_accounts_are_those_of_tokens() -> None:
    """`schemas/` imports no other package, so it has its own list."""
    (item,) = get_args(get_args(Scopes)[0])
    assert get_args(item) == SCOPES


def test_created_account_can_sign_in_with_its_scopes(running: Service, operator: dict[str, str]) -> None:
    response = create(running, operator, scopes=["operator", "read"])
    assert response.status_code == 201
    account = response.json()
    assert account.keys() == {"id", "email", "scopes", "created_at", "disabled"}
    assert UUID(account["id"])
    assert (account["scopes"], account["disabled"]) == (["read", "operator"], False)
    assert sign_in(running, account["email"])["scope"] == "read write operator"
    assert create(running, operator).json()["scopes"] == ["read", "write"]


def test_address_of_another_account_is_rejected(running: Service, operator: dict[str, str]) -> None:
    email = create(running, operator).json()["email"]
    again = create(running, operator, email.upper())
    assert (again.status_code, again.json()["detail"]) == (409, "There is an account with this e-mail address.")


@pytest.mark.parametrize(
    ("method", "changed", "field"),
    [
        ("POST", {"email": "no address"}, "email"),
        ("POST", {"password": "too short"}, "password"),
        ("POST", {"scopes": []}, "scopes"),
        ("POST", {"scopes": ["root"]}, "scopes"),
        ("POST", {"disabled": True}, "disabled"),
        ("PATCH", {"password": "too short"}, "password"),
        ("PATCH", {"scopes": []}, "scopes"),
        ("PATCH", {"disabled": "yes"}, "disabled"),
        ("PATCH", {"disabled": None}, "disabled"),
        ("PATCH", {"email": "ada@example.org"}, "email"),
        ("PATCH", {}, None),
    ],
)
def test_invalid_accounts_and_changes_are_rejected(
    running: Service, operator: dict[str, str], method: str, changed: dict[str, Any], field: str | None
) -> None:
    body = {"email": new_email(), "password": PASSWORD} | changed if method == "POST" else changed
    path = "/accounts" if method == "POST" else f"/accounts/{new_email()}"
    response = running.client.request(method, path, json=body, headers=operator)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["loc"][:2] == (["body", field] if field else ["body"])


def test_list_has_every_account_once_and_no_secret(running: Service, operator: dict[str, str]) -> None:
    """Each page but the last has `limit` accounts, and links to the next one."""
    emails = {create(running, operator).json()["email"] for _ in range(3)}
    found: list[dict[str, Any]] = []
    path: str | None = "/accounts?limit=2"
    while path:
        response = running.client.get(path, headers=operator)
        assert response.status_code == 200
        found += response.json()
        path = response.links.get("next", {}).get("url")
        assert len(response.json()) == 2 or path is None
    assert all(each.keys() == {"id", "email", "scopes", "created_at", "disabled"} for each in found)
    listed = [each["email"] for each in found]
    assert emails <= set(listed)
    assert len(set(listed)) == len(listed)
    changed = running.client.get("/accounts?limit=2&page_state=x.y", headers=operator)
    assert changed.status_code == 400


def test_disabled_account_can_not_sign_in_until_it_is_enabled(running: Service, operator: dict[str, str]) -> None:
    email = create(running, operator).json()["email"]
    tokens = sign_in(running, email)
    response = change(running, operator, email.upper(), disabled=True)
    assert (response.status_code, response.json()["disabled"]) == (200, True)
    assert refresh(running, tokens["refresh_token"]).status_code == 400
    assert me(running, tokens["access_token"]).status_code == 401
    assert request_token(running, grant_type="password", username=email, password=PASSWORD).status_code == 400
    assert change(running, operator, email, disabled=False).json()["disabled"] is False
    tokens = sign_in(running, email)
    # A change to the stored value revokes no token.
    assert change(running, operator, email, disabled=False, scopes=["write", "read"]).status_code == 200
    assert refresh(running, tokens["refresh_token"]).status_code == 200


def test_new_password_and_new_scopes_revoke_the_refresh_tokens(running: Service, operator: dict[str, str]) -> None:
    email = create(running, operator).json()["email"]
    token = sign_in(running, email)["refresh_token"]
    assert change(running, operator, email, password=NEW_PASSWORD).status_code == 200
    assert refresh(running, token).status_code == 400
    assert request_token(running, grant_type="password", username=email, password=PASSWORD).status_code == 400
    tokens = sign_in(running, email, NEW_PASSWORD)
    assert change(running, operator, email, scopes=["read"]).json()["scopes"] == ["read"]
    assert refresh(running, tokens["refresh_token"]).status_code == 400
    assert sign_in(running, email, NEW_PASSWORD)["scope"] == "read"


def test_log_names_only_what_has_changed(running: Service, operator: dict[str, str]) -> None:
    account = create(running, operator, scopes=["read"]).json()
    assert change(running, operator, account["email"], disabled=False, scopes=["read", "write"]).status_code == 200
    running.wait_for_log(f"changed scopes of the account {account['id']}")


def test_addresses_with_a_slash_can_be_changed(running: Service, operator: dict[str, str]) -> None:
    email = create(running, operator, f"a/b{new_email()}").json()["email"]
    response = change(running, operator, email, disabled=True)
    assert (response.status_code, response.json()["email"]) == (200, email)


def test_unknown_accounts_return_404(running: Service, operator: dict[str, str]) -> None:
    response = change(running, operator, new_email(), disabled=True)
    assert (response.status_code, response.json()["detail"]) == (404, "Account not found")
    assert change(running, operator, "no address", disabled=True).status_code == 422


def test_operators_can_not_lock_themselves_out(running: Service, own: tuple[dict[str, str], str]) -> None:
    headers, email = own
    for changes in ({"disabled": True}, {"scopes": ["read", "write"]}):
        response = change(running, headers, email, **changes)
        assert response.status_code == 409
        assert "This is your own account" in response.json()["detail"]
    assert change(running, headers, email, password=NEW_PASSWORD).status_code == 200
    assert sign_in(running, email, NEW_PASSWORD)["scope"] == "read write operator"


@pytest.mark.parametrize(("changes", "status"), [({"disabled": True}, 401), ({"scopes": ["read"]}, 403)])
def test_access_token_of_a_former_operator_is_rejected(
    running: Service, operator: dict[str, str], own: tuple[dict[str, str], str], changes: dict[str, Any], status: int
) -> None:
    """The access token is still valid. The account must not be able to enable itself again with it."""
    headers, email = own
    assert change(running, operator, email, **changes).status_code == 200
    assert change(running, headers, email, disabled=False).status_code == status
    assert create(running, headers).status_code == status
    assert running.client.get("/accounts", headers=headers).status_code == status


def test_operator_token_manages_accounts(start: Callable[..., Service]) -> None:
    """It also works with AUTH=off, where nobody else can call these routes."""
    service = start(WITHOUT_LIMITS | {"AUTH": "off", "OPERATOR_TOKEN": OPERATOR_TOKEN})
    email = create(service, bearer(OPERATOR_TOKEN)).json()["email"]
    assert change(service, bearer(OPERATOR_TOKEN), email, disabled=True).status_code == 200
    assert service.client.get("/accounts").status_code == 401


def test_accounts_without_the_scope_operator_are_rejected(
    running: Service, settings: Settings, session: Session
) -> None:
    headers = bearer(access_token(settings, ("read", "write"), session))
    assert running.client.get("/accounts", headers=headers).status_code == 403
    assert create(running, headers).status_code == 403
    assert change(running, headers, new_email(), disabled=True).status_code == 403


def test_change_of_an_account_that_was_changed_in_the_meantime_is_refused(
    running: Service, operator: dict[str, str], session: Session
) -> None:
    """Of simultaneous changes at least one succeeds, and the others succeed after it or get 409."""
    email = create(running, operator).json()["email"]
    with ThreadPoolExecutor(4) as pool:
        numbers = range(4)
        responses = list(
            pool.map(lambda number: change(running, operator, email, password=f"password number {number}"), numbers)
        )
    statuses = [response.status_code for response in responses]
    assert set(statuses) <= {200, 409, 503}, statuses
    assert 409 in statuses
    assert 200 in statuses
    passwords = [f"password number {number}" for number in numbers if statuses[number] == 200]
    answers = [
        request_token(running, grant_type="password", username=email, password=each).status_code for each in passwords
    ]
    assert answers.count(200) == 1
    # A change on the basis of an earlier read changes nothing.
    options = QueryOptions()
    before = accounts.find_account(session, email, options)
    assert before
    assert change(running, operator, email, disabled=True).status_code == 200
    assert not accounts.update_account(session, before, before._replace(scopes=frozenset({"operator"})), options)
