"""Which callers may call which routes: every operation of the OpenAPI document, with every kind of token.

The document comes from the running service, so a new route is in these tests without further work.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.support import OPERATOR_TOKEN, Service, access_token, bearer, service

# These operations are open to everybody, also with AUTH=all.
OPEN = {
    "GET /",
    "GET /auth/jwks.json",
    "GET /docs",
    "GET /health",
    "GET /health/live",
    "GET /openapi.json",
    "POST /auth/register",
    "POST /auth/revoke",
    "POST /auth/token",
}
# An address that is not private.
PUBLIC = {"X-Forwarded-For": "8.8.8.8"}
# Callers that have too little for a scope.
TOO_LITTLE = {"read": ("write",), "write": ("read",), "operator": ("read", "write")}


@pytest.fixture(scope="module", params=["all", "writes", "off"])
def service_with_auth(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Service]]:
    """A service with this AUTH, with two workers and the diagnostics."""
    variables = {
        "AUTH": request.param,
        "OPERATOR_TOKEN": OPERATOR_TOKEN,
        "TRUSTED_PROXIES": "1",
        "TRUSTED_HOSTS": "127.0.0.1",
    }
    with service(environment | variables, tmp_path_factory.mktemp(request.param) / "log") as running:
        yield request.param, running


def operations(running: Service) -> dict[str, str | None]:
    """Return the scope that each operation of the document requires: `{"GET /users": "read"}`; None for none."""
    document = running.client.get("/openapi.json").json()
    return {
        f"{method.upper()} {path}": required_scope(operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def required_scope(operation: dict[str, Any]) -> str | None:
    """Return the scope that an operation requires; `account` if it requires a token with any scope."""
    for alternative in operation.get("security", ()):
        if "account" in alternative:
            return next(iter(alternative["account"]), "account")
    return None


def call(running: Service, operation: str, token: str | None) -> httpx.Response:
    """Call an operation with values for which nothing exists, from a public address."""
    method, path = operation.split(" ")
    path = re.sub(r"\{[^}]+\}", str(uuid.uuid4()), path)
    # The slow routes end early.
    headers = PUBLIC | ({"X-Request-Timeout": "0.5"} if path.endswith("_query") else {})
    if token is not None:
        headers |= bearer(token)
    return running.client.request(method, path, headers=headers)


def test_every_operation_requires_its_scope(
    service_with_auth: tuple[str, Service], session: Session, settings: Settings, start: Callable[..., Service]
) -> None:
    """No token, a wrong scope, the right scope, an operator, the operator token, and an expired token."""
    auth, running = service_with_auth
    expired = access_token(settings.model_copy(update={"access_token_lifetime": -60}), ("operator",))
    required = operations(running)
    assert len(required) > 30
    for operation, scope in required.items():
        if operation == "POST /shutdown":
            assert scope == "operator"
            running = start({"AUTH": auth, "OPERATOR_TOKEN": OPERATOR_TOKEN})
        else:
            running = service_with_auth[1]
        # Each caller with its token and the expected status; None for every status except 401 and 403.
        tokens: dict[str, tuple[str | None, int | None]]
        tokens = {"operator": (access_token(settings, ("operator",), session), None)}
        if scope is None:
            tokens["nobody"] = (None, None)
            tokens["no scope"] = (access_token(settings, (), session), None)
        else:
            tokens["nobody"] = (None, 401)
            tokens["expired"] = (expired, 401)
            tokens["operator token"] = (OPERATOR_TOKEN, 403 if scope == "account" else None)
            if scope == "account":
                tokens["no scope"] = (access_token(settings, (), session), None)
            else:
                tokens["right scope"] = (access_token(settings, (scope,), session), None)
                tokens["wrong scope"] = (access_token(settings, TOO_LITTLE[scope], session), 403)
        if operation in OPEN:
            tokens["expired"] = (expired, None)
        if operation == "POST /shutdown":
            # Each of these callers stops the service: keep one, as the last caller.
            del tokens["operator token"], tokens["right scope"]
            tokens["operator"] = tokens.pop("operator")
        for caller, (token, status) in tokens.items():
            response = call(running, operation, token)
            case = f"{operation} with AUTH={auth} by {caller}"
            if status is None:
                assert response.status_code not in (401, 403), f"{case}: {response.text}"
            else:
                assert response.status_code == status, f"{case}: {response.text}"
                assert_challenge(response, scope, token)


def assert_challenge(response: httpx.Response, scope: str | None, token: str | None) -> None:
    """The problem document and `WWW-Authenticate` say what is missing (RFC 6750)."""
    assert response.headers["Content-Type"] == "application/problem+json"
    challenge = response.headers.get("WWW-Authenticate", "")
    if token is None:
        assert challenge == 'Bearer realm="fieldbook"'
    elif response.status_code == 401:
        assert challenge.endswith('error="invalid_token"')
    elif scope == "account":
        assert challenge.endswith('error="insufficient_scope"')
    else:
        assert challenge.endswith(f'error="insufficient_scope", scope="{scope}"')


def test_only_these_operations_are_open(guarded: Service) -> None:
    assert {operation for operation, scope in operations(guarded).items() if scope is None} == OPEN


def test_auth_writes_opens_reads_that_are_not_private(service_with_auth: tuple[str, Service]) -> None:
    auth, running = service_with_auth
    required = operations(running)
    reads = {"all": "read", "writes": None, "off": None}[auth]
    assert required["GET /observers"] == required["GET /find/{genus}"] == reads
    assert required["POST /observers"] == ("write" if auth != "off" else None)
    assert required["POST /observers/batch"] == ("operator" if auth != "off" else None)
    assert required["POST /shutdown"] == "operator"


def test_metrics_are_open_to_private_addresses(guarded: Service) -> None:
    """Prometheus needs no token inside a network; everybody else needs the scope `operator`."""
    statuses = {
        address: guarded.client.get("/metrics", headers={"X-Forwarded-For": address}).status_code
        for address in ("127.0.0.1", "10.1.2.3", "fd00::1", "8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8")
    }
    assert list(statuses.values()) == [200, 200, 200, 401, 401, 401], statuses


def test_metrics_are_not_open_to_clients_of_a_proxy_without_a_valid_address(guarded: Service) -> None:
    """The private address of the proxy does not count for its clients."""
    for forwarded in ("unknown", "", "8.8.8.8, unknown"):
        assert guarded.client.get("/metrics", headers={"X-Forwarded-For": forwarded}).status_code == 401
    assert guarded.client.get("/metrics").status_code == 200


def test_token_expires(guarded: Service, settings: Settings) -> None:
    """A token is valid until its time and the leeway for different clocks are over."""
    lifetime = 1 - 5  # seconds; the leeway is 5
    token = access_token(settings.model_copy(update={"access_token_lifetime": lifetime}), ("read",))
    headers = bearer(token)
    deadline = time.monotonic() + 15
    seen = [guarded.client.get("/observers", headers=headers).status_code]
    while seen[-1] == 200 and time.monotonic() < deadline:
        seen.append(guarded.client.get("/observers", headers=headers).status_code)
    assert (seen[0], seen[-1]) == (200, 401)
