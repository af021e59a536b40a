"""POST /auth/token and access tokens: forms of the request, errors, scopes, keys, and tokens that are refused."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey

from auth.access_tokens import AccessTokens, derived_key
from settings import Settings, SettingsError
from tests.functional.auth.accounts import (
    PASSWORD,
    WITHOUT_LIMITS,
    me,
    refresh,
    register,
    request_token,
    sign_in,
    wait_until_expired,
)
from tests.support import Service, bearer

FORM = "application/x-www-form-urlencoded"
SECRET = "the secret of the tests"


@pytest.fixture(scope="module")
def email(running: Service) -> str:
    """The address of an account with the password PASSWORD."""
    return register(running)


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of an access token, without a check of its signature."""
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


def test_form_and_json_get_the_same_answer(running: Service, email: str) -> None:
    fields = {"grant_type": "password", "username": email, "password": PASSWORD}
    for response in (request_token(running, **fields), running.client.post("/auth/token", json=fields)):
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-store"
        body = response.json()
        assert set(body) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
        assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 900, "read write")
        assert claims_of(body["access_token"])["scope"] == "read write"


def test_client_credentials_are_ignored(running: Service, email: str) -> None:
    """Swagger UI sends a client id, in the form or as the header of the Basic scheme, and an empty scope."""
    fields = {"grant_type": "password", "username": email, "password": PASSWORD, "scope": "", "client_id": "swagger"}
    assert running.client.post("/auth/token", data=fields, auth=("client", "secret")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client_id": "x"}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"grant_type": "password", "username": "a@example.org"}, "invalid_request"),
        ({"grant_type": "password", "password": PASSWORD}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x.y"}, "invalid_grant"),
        (
            {"grant_type": ["password", "password"], "username": "a@example.org", "password": PASSWORD},
            "invalid_request",
        ),
    ],
)
def test_errors_have_the_form_of_oauth(running: Service, fields: dict[str, Any], error: str) -> None:
    response = request_token(running, **fields)
    assert (response.status_code, response.headers["Cache-Control"]) == (400, "no-store")
    assert response.headers["Content-Type"] == "application/json"
    assert set(response.json()) == {"error", "error_description"}
    assert response.json()["error"] == error
    assert response.json()["error_description"].isascii()


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"grant_type": 5}', b'{"grant_type": ["password"]}'])
def test_invalid_json_is_an_invalid_request(running: Service, body: bytes) -> None:
    response = running.client.post("/auth/token", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("body", [b"grant_type=%ff", b"&".join(b"a%d=1" % number for number in range(200)), b"a=1&a=2"])
def test_invalid_forms_are_an_invalid_request(running: Service, body: bytes) -> None:
    response = running.client.post("/auth/token", content=body, headers={"Content-Type": FORM})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("headers", "size", "status"),
    [
        ({"Content-Type": "text/plain"}, 10, 415),
        ({}, 10, 415),
        ({"Content-Type": FORM, "Content-Encoding": "gzip"}, 10, 415),
        ({"Content-Type": FORM}, 1024 * 1024 + 1, 413),
    ],
)
def test_forms_have_the_limits_of_json(running: Service, headers: dict[str, str], size: int, status: int) -> None:
    response = running.client.post("/auth/token", content=b"a" * size, headers=headers)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"


def test_scopes_can_only_be_narrowed(running: Service, email: str) -> None:
    """A refresh token does not widen the scopes of its sign-in."""
    tokens = sign_in(running, email, scope="read")
    assert (tokens["scope"], claims_of(tokens["access_token"])["scope"]) == ("read", "read")
    refused = refresh(running, tokens["refresh_token"], scope="read write")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    refreshed = refresh(running, tokens["refresh_token"])
    assert refreshed.json()["scope"] == "read"
    for scope in ("operator", "read operator", "unknown"):
        fields = {"grant_type": "password", "username": email, "password": PASSWORD, "scope": scope}
        assert request_token(running, **fields).json()["error"] == "invalid_scope"


def test_scopes_decide_which_routes_a_token_can_call(running: Service, email: str) -> None:
    headers = bearer(sign_in(running, email, scope="read")["access_token"])
    assert running.client.get("/observers", headers=headers).status_code == 200
    body = {"name": "Ada", "email": "ada@example.org", "age": 36}
    response = running.client.post("/observers", json=body, headers=headers)
    assert response.status_code == 403
    assert "insufficient_scope" in response.headers["WWW-Authenticate"]
    headers = bearer(sign_in(running, email)["access_token"])
    assert running.client.post("/observers", json=body, headers=headers).status_code == 201


def signed(claims: dict[str, Any], secret: str = SECRET, **header: str) -> str:
    """Return a token with these claims, signed with the key of a SECRET_KEY."""
    key = OctKey.import_key(derived_key(secret.encode(), "access tokens"))
    return jwt.encode({"alg": "HS256", "typ": "at+jwt", **header}, claims, key, algorithms=["HS256"])


def without_signature(claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "at+jwt"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


FORGERIES: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "garbage": lambda token, claims: "garbage",
    "other claims": lambda token, claims: ".".join(
        [token.split(".")[0], signed(claims | {"scope": "operator"}).split(".")[1], token.split(".")[2]]
    ),
    "another key": lambda token, claims: signed(claims, "a key of someone else"),
    "no signature": lambda token, claims: without_signature(claims),
    "another audience": lambda token, claims: signed(claims | {"aud": "another"}),
    "no audience": lambda token, claims: signed({name: claims[name] for name in claims if name != "aud"}),
    "another issuer": lambda token, claims: signed(claims | {"iss": "another"}),
    "expired": lambda token, claims: signed(claims | {"exp": int(time.time()) - 60}),
    "no expiry": lambda token, claims: signed({name: claims[name] for name in claims if name != "exp"}),
    "another kind of token": lambda token, claims: signed(claims, typ="JWT"),
    "unknown key id": lambda token, claims: signed(claims, kid="unknown"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_invalid_tokens_return_401(running: Service, email: str, forgery: str) -> None:
    token = sign_in(running, email)["access_token"]
    claims = claims_of(token)
    # The test signs as the service does: otherwise every forgery would fail for this reason.
    kid = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
    assert me(running, signed(claims, kid=kid)).status_code == 200
    response = me(running, FORGERIES[forgery](token, claims))
    assert response.status_code == 401
    assert "invalid_token" in response.headers["WWW-Authenticate"]


def test_access_tokens_expire(start: Callable[..., Service]) -> None:
    """An expired access token is refused; the refresh token gets a new one."""
    service = start(WITHOUT_LIMITS | {"ACCESS_TOKEN_LIFETIME": "1"})
    email = register(service)
    tokens = sign_in(service, email)
    assert tokens["expires_in"] == 1
    response = wait_until_expired(service, tokens["access_token"])
    assert "expired" in response.json()["detail"]
    assert "invalid_token" in response.headers["WWW-Authenticate"]
    renewed = refresh(service, tokens["refresh_token"]).json()
    assert me(service, renewed["access_token"]).status_code == 200


def test_keys_rotate_with_secret_key_previous(start: Callable[..., Service], running: Service, email: str) -> None:
    """Tokens of the previous SECRET_KEY stay valid as long as it is in SECRET_KEY_PREVIOUS."""
    tokens = sign_in(running, email)
    new_key = {"SECRET_KEY": "the next secret of the tests"}
    rotated = start(WITHOUT_LIMITS | new_key | {"SECRET_KEY_PREVIOUS": SECRET})
    assert me(rotated, tokens["access_token"]).status_code == 200
    renewed = refresh(rotated, tokens["refresh_token"]).json()
    assert me(rotated, renewed["access_token"]).status_code == 200
    without = start(WITHOUT_LIMITS | new_key)
    assert me(without, tokens["access_token"]).status_code == 401
    assert refresh(without, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert me(without, renewed["access_token"]).status_code == 200
    assert refresh(without, renewed["refresh_token"]).status_code == 200


def write_keys(path: Path, *keys: ECKey | OctKey) -> str:
    path.write_text(json.dumps({"keys": [key.as_dict(private=True) for key in keys]}))
    return str(path)


def test_asymmetric_keys_rotate(start: Callable[..., Service], running: Service, tmp_path: Path) -> None:
    """The first key signs, all keys verify, and /auth/jwks.json has their public parts."""
    email = register(running)
    old, new = (ECKey.generate_key("P-256", {"kid": kid}) for kid in ("old", "new"))
    first = start(WITHOUT_LIMITS | {"TOKEN_KEYS": write_keys(tmp_path / "first.json", old)})
    token = sign_in(first, email)["access_token"]
    second = start(WITHOUT_LIMITS | {"TOKEN_KEYS": write_keys(tmp_path / "second.json", new, old)})
    assert me(second, token).status_code == 200
    published = second.client.get("/auth/jwks.json").json()
    assert [key["kid"] for key in published["keys"]] == ["new", "old"]
    assert all("d" not in key for key in published["keys"])
    # Another service verifies a token with the public keys.
    decoded = jwt.decode(sign_in(second, email)["access_token"], KeySet.import_key_set(published), ["ES256"])
    assert (decoded.header["kid"], decoded.claims["email"]) == ("new", email)
    # A token that is signed with HMAC and the public key as its secret.
    public = OctKey.import_key(json.dumps(published["keys"][0]).encode())
    forged = jwt.encode({"alg": "HS256", "kid": "new", "typ": "at+jwt"}, decoded.claims, public, ["HS256"])
    assert me(second, forged).status_code == 401
    assert me(second, sign_in(running, email)["access_token"]).status_code == 401


def test_public_keys_are_empty_without_asymmetric_keys(running: Service) -> None:
    assert running.client.get("/auth/jwks.json").json() == {"keys": []}


def test_invalid_file_of_keys_ends_the_start(start: Callable[..., Service], tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.json")
    with pytest.raises(AssertionError, match="TOKEN_KEYS"):
        start({"TOKEN_KEYS": path})


@pytest.mark.parametrize(
    "key",
    [
        # Published in /auth/jwks.json, a symmetric key would let everybody sign tokens.
        OctKey.generate_key(256),
        ECKey.generate_key("P-256", {"use": "enc"}),
        ECKey.generate_key("P-256", {"alg": "ES384"}),
        ECKey.generate_key("P-256", {"key_ops": ["verify"]}),
        ECKey.generate_key("P-256", {"key_ops": ["sign"]}),
    ],
)
def test_keys_that_are_secret_or_can_not_sign_are_refused(key: ECKey | OctKey, tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.json", ECKey.generate_key("P-256"), key)
    with pytest.raises(SettingsError, match="TOKEN_KEYS"):
        AccessTokens(Settings(token_keys=Path(path)))


def test_reload_with_an_invalid_file_of_keys_uses_the_previous_keys(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    path = write_keys(tmp_path / "keys.json", ECKey.generate_key("P-256", {"kid": "old"}))
    service = start(WITHOUT_LIMITS | {"TOKEN_KEYS": path, "WEB_CONCURRENCY": "1"})
    (tmp_path / "keys.json").write_text('{"keys": [')
    service.reload()
    service.wait_for_log("The previous settings stay in use: TOKEN_KEYS")
    (key,) = service.client.get("/auth/jwks.json").json()["keys"]
    assert key["kid"] == "old"


def test_document_describes_form_and_json(running: Service) -> None:
    document = httpx.get(f"{running.client.base_url}/openapi.json").json()
    for path in ("/auth/token", "/auth/revoke"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert set(content) == {FORM, "application/json"}
    flow = document["components"]["securitySchemes"]["account"]["flows"]["password"]
    assert flow["tokenUrl"] == "auth/token"
