"""Hashes of passwords: Argon2id with the parameters of RFC 9106 for little memory.

A hash takes 64 MiB and some tens of milliseconds of four cores, so a process computes at most two at once.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from settings import Settings
from storage.cql import QueryOptions

_MAX_HASHES = 2  # at once, in a process

_hasher = PasswordHasher()
_hashes = threading.BoundedSemaphore(_MAX_HASHES)


class TooManyHashes(Exception):
    """Too many passwords are being hashed at the moment. A later attempt can succeed."""


def _hash_of_no_password() -> str:
    """A hash that no password has; a comparison with it takes as long as with a real hash."""
    parameters = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    salt, digest = (b64encode(bytes(size)).decode().rstrip("=") for size in (_hasher.salt_len, _hasher.hash_len))
    return f"$argon2id$v=19${parameters}${salt}${digest}"


_NO_PASSWORD = _hash_of_no_password()


class Passwords:
    """Hashes and compares passwords."""

    def __init__(self, settings: Settings, options: QueryOptions) -> None:
        """State how long a request may wait for other hashes.

        :param options: their deadline limits the wait too.
        """
        self._timeout = settings.queue_timeout
        self._options = options

    def hash(self, password: str) -> str:
        """The hash of a new password.

        :raises TooManyHashes: other requests are hashing passwords.
        """
        with self._turn():
            return _hasher.hash(password)

    def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether the hash is that of the password.

        :param password_hash: None for an account that does not exist. The answer is false, after the same time.
        :raises TooManyHashes: other requests are hashing passwords.
        """
        with self._turn():
            try:
                return _hasher.verify(password_hash or _NO_PASSWORD, password)
            except VerifyMismatchError:
                return False

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash has other parameters than new hashes."""
        return _hasher.check_needs_rehash(password_hash)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not _hashes.acquire(timeout=min(self._timeout, self._options.remaining())):
            raise TooManyHashes
        try:
            yield
        finally:
            _hashes.release()
