"""Accounts for tests, and requests for their tokens."""

from __future__ import annotations

import uuid
from typing import Any

import httpx

from tests.support import Service, bearer, wait_for

WITHOUT_LIMITS = {
    "AUTH": "all",
    "REGISTRATION": "open",
    "RATE_LIMIT": "off",
    "SIGN_IN_LIMIT_ACCOUNT": "off",
    "SIGN_IN_LIMIT_ADDRESS": "off",
    # More than two hashes at once wait for each other: on a slow machine for longer than the default.
    "QUEUE_TIMEOUT": "5",
}
PASSWORD = "correct horse battery"


def new_email() -> str:
    """Return an address that no account has."""
    return f"{uuid.uuid4().hex}@example.org"


def register(running: Service, email: str | None = None) -> str:
    """Create an account with PASSWORD, and return its address."""
    email = email or new_email()
    response = running.client.post("/auth/register", json={"email": email, "password": PASSWORD})
    assert response.status_code == 201, response.text
    return email


def request_token(running: Service, **fields: Any) -> httpx.Response:
    """Send POST /auth/token as a form."""
    return running.client.post("/auth/token", data=fields)


def sign_in(running: Service, email: str, password: str = PASSWORD, **fields: str) -> dict[str, Any]:
    """Sign in, and return the tokens."""
    response = request_token(running, grant_type="password", username=email, password=password, **fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def refresh(running: Service, token: str, **fields: str) -> httpx.Response:
    """Use a refresh token on a new connection, so that any worker may receive it."""
    data = {"grant_type": "refresh_token", "refresh_token": token, **fields}
    return httpx.post(f"{running.client.base_url}/auth/token", data=data, timeout=30)


def me(running: Service, token: str) -> httpx.Response:
    """Send GET /auth/me with an access token."""
    return running.client.get("/auth/me", headers=bearer(token))


def wait_until_expired(running: Service, token: str) -> httpx.Response:
    """Wait until the service no longer accepts an access token, and return its response."""
    return wait_for(lambda: (response := me(running, token)).status_code == 401 and response, description="401")
