"""Access tokens: JSON Web Tokens (RFC 9068) that any instance can verify without the database.

A token is valid until it expires, at most 15 minutes, also if its account is disabled in the meantime.

The keys are those of the JWK Set in the file TOKEN_KEYS. Without that file, the tokens are signed with HMAC, with keys
that are derived from SECRET_KEY and SECRET_KEY_PREVIOUS. In both cases one key signs and all keys verify, so that a key
can be rotated.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, OctKey, RSAKey

from auth.callers import SCOPES, Caller, account_caller
from settings import Settings, SettingsError

# Seconds by which the clocks of two instances may differ.
LEEWAY = 5
# How many verified tokens a process keeps in memory: at most about 0.5 MB.
_CACHED_TOKENS = 1000
# The algorithm of each kind of key (RFC 7518, RFC 9864).
_ALGORITHMS = {"RSA": "RS256", "P-256": "ES256", "Ed25519": "Ed25519"}


class InvalidToken(Exception):
    """The token is not valid. The message says why, and contains no part of the token."""


class AccessTokens:
    """Issues and verifies access tokens."""

    def __init__(self, settings: Settings) -> None:
        """Read the keys.

        :raises SettingsError: the file TOKEN_KEYS is not a set of private keys that can sign.
        """
        self.lifetime = settings.access_token_lifetime
        self._issuer, self._audience = settings.token_issuer, settings.token_audience
        if settings.token_key_set is None:
            # The last one signs; see Settings.signing_keys.
            self._keys = KeySet([_derived(key) for key in reversed(settings.signing_keys)])
        else:
            self._keys = _from_text(settings.token_key_set)
        self._signing_key = self._keys.keys[0]
        # `alg` comes from the client: accept only the algorithms of our keys.
        self._algorithms = sorted({_algorithm(key) for key in self._keys.keys})
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            sub={"essential": True},
        )
        # A client sends the same token with many requests. Invalid tokens raise an exception, so they are not cached.
        self._decode_once = lru_cache(maxsize=_CACHED_TOKENS)(self._decode)

    def issue(self, account_id: UUID, email: str, scopes: frozenset[str]) -> str:
        """A new token for an account.

        :param email: normalized address of the account.
        """
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(account_id),
            "email": email,
            "scope": " ".join(scope for scope in SCOPES if scope in scopes),
            "iat": now,
            "exp": now + self.lifetime,
            "jti": str(uuid4()),
        }
        header = {"alg": _algorithm(self._signing_key), "kid": self._signing_key.kid, "typ": "at+jwt"}
        return jwt.encode(header, claims, self._signing_key, algorithms=self._algorithms)

    def verify(self, token: str) -> Caller:
        """The caller that a token belongs to.

        :raises InvalidToken: the token is malformed, expired, not signed with one of the keys, or for another service.
        """
        caller, expires = self._decode_once(token)
        if time.time() > expires + LEEWAY:
            raise InvalidToken("The access token has expired.")
        return caller

    def _decode(self, token: str) -> tuple[Caller, float]:
        """The caller that a token belongs to, and when the token expires, in seconds since 1970."""
        try:
            decoded = jwt.decode(token, self._keys, algorithms=self._algorithms)
            claims = decoded.claims
            self._claims.validate({name: value for name, value in claims.items() if name != "exp"})
            if decoded.header.get("typ") != "at+jwt":
                raise InvalidToken("The token is not an access token.")
            caller = account_caller(UUID(claims["sub"]), str(claims["email"]), str(claims["scope"]).split())
            return caller, float(claims["exp"])
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            raise InvalidToken("The access token is not valid.") from None

    def public_keys(self) -> dict[str, Any]:
        """The public keys as a JWK Set (RFC 7517), for other services that verify tokens; empty with HMAC keys."""
        return {"keys": [key.as_dict(private=False) for key in self._keys.keys if not isinstance(key, OctKey)]}


def derived_key(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, derived from a SECRET_KEY."""
    return hmac.digest(key, f"fieldbook {purpose}".encode(), hashlib.sha256)


def _derived(secret: bytes) -> OctKey:
    key = derived_key(secret, "access tokens")
    return OctKey.import_key(key, {"kid": hashlib.sha256(key).hexdigest()[:16], "alg": "HS256", "use": "sig"})


def _from_text(key_set: str) -> KeySet:
    """The keys in the file TOKEN_KEYS, the signing key first."""
    try:
        stored = json.loads(key_set)
        keys = KeySet.import_key_set(stored)
        for key in keys.keys:
            # The public part of a symmetric key is the secret itself.
            if isinstance(key, OctKey) or not key.is_private:
                raise ValueError("each key must be asymmetric and have its private part")
            key.ensure_kid()
            # Fails if `alg`, `use` or `key_ops` of the key forbid to sign or to verify.
            algorithm = _algorithm(key)
            jwt.decode(jwt.encode({"alg": algorithm}, {}, key, [algorithm]), key, [algorithm])
        if not keys.keys:
            raise ValueError("there is no key")
    except (ValueError, KeyError, TypeError, AttributeError, JoseError) as error:
        raise SettingsError(f"TOKEN_KEYS: the file is not a JWK Set of private keys: {error}") from None
    return keys


def _algorithm(key: Key) -> str:
    """The algorithm that a key signs with.

    :raises ValueError: the service does not use keys of this kind.
    """
    if isinstance(key, OctKey):
        return "HS256"
    kind = key.key_type if isinstance(key, RSAKey) else key.curve_name
    if kind not in _ALGORITHMS:
        raise ValueError(f"the kind of key must be one of {', '.join(_ALGORITHMS)}, not {kind}")
    return _ALGORITHMS[kind]
