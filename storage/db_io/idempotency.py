"""Idempotency keys: a retry with the key of an earlier request gets its response.

The complete response is stored before the rows are written. A retry can therefore return it, and can finish the write
if the first request stopped midway. Two requests may still write at the same time: `busy_until` only decides which
request is told to wait. The caller's write must therefore have the same effect however often it runs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cassandra.cluster import Session

from settings import MAX_REQUEST_TIMEOUT
from storage.cql import QueryOptions, Statement, execute
from storage.cql.consistency import serial_level
from storage.errors import KeyBusy, KeyReused

# Seconds for which a retry gets the first response.
LIFETIME = 24 * 3600
# Seconds. No request lasts longer. The TTL of a mark is shorter by this time, so that no mark outlives its claim.
_LONGEST_REQUEST = int(MAX_REQUEST_TIMEOUT)


class _ClaimRow(NamedTuple):
    """The columns of `idempotency_keys` that a claim writes."""

    scope: str
    key: str
    fingerprint: bytes
    answer: str
    busy_until: datetime


CLAIM_KEY = Statement(
    "claim_idempotency_key",
    f"INSERT INTO {{keyspace}}.idempotency_keys ({{columns}}) VALUES ({{values}}) IF NOT EXISTS USING TTL {LIFETIME}",
    _ClaimRow._fields,
    kind="lwt",
    idempotent=False,
)
SELECT_KEY = Statement(
    "select_idempotency_key",
    "SELECT fingerprint, answer, busy_until, finished, TTL(answer) FROM {keyspace}.idempotency_keys "
    "WHERE scope = ? AND key = ?",
)
# A mark says that the write is complete, or that no request is at work. Marks are plain writes: if one is lost, a
# retry performs the write again, which changes nothing.
FINISH_KEY = Statement(
    "finish_idempotency_key",
    "UPDATE {keyspace}.idempotency_keys USING TTL ? SET finished = true WHERE scope = ? AND key = ?",
    kind="write",
)
RELEASE_KEY = Statement(
    "release_idempotency_key",
    "UPDATE {keyspace}.idempotency_keys USING TTL ? SET busy_until = ? WHERE scope = ? AND key = ?",
    kind="write",
)
FORGET_KEY = Statement(
    "forget_idempotency_key",
    "DELETE FROM {keyspace}.idempotency_keys WHERE scope = ? AND key = ? IF answer = ?",
    kind="lwt",
    idempotent=False,
)


class IdempotencyKey(NamedTuple):
    """A client's key.

    :ivar scope: caller and route; the same key in another scope is another key.
    :ivar fingerprint: digest of the request body, to detect a key that is used with another body.
    """

    scope: str
    key: str
    fingerprint: bytes


class Claim(NamedTuple):
    """A key that is claimed, with the response that every request with the key gets.

    :ivar answer: the response of the first request with this key.
    :ivar finished: the write is known to be complete.
    :ivar ttl: seconds that a mark on the key may live.
    :ivar is_retry: an earlier request claimed the key.
    """

    answer: str
    finished: bool
    ttl: int
    is_retry: bool = False


def claim_key(session: Session, key: IdempotencyKey, answer: str, options: QueryOptions) -> Claim:
    """Store the response under the key, unless an earlier request stored one.

    :raises KeyBusy: the earlier request is still being processed.
    :raises KeyReused: the earlier request had another body.
    :raises StorageTimeout: with `may_have_applied` if it is not known whether the key is claimed.
    """
    # The client's consistency level is for the rows that it writes, not for the key.
    options = replace(options, consistency_level=None)
    serial = replace(options, consistency_level=serial_level(session))
    while True:
        busy_until = datetime.now(UTC) + timedelta(seconds=options.remaining())
        if execute(session, CLAIM_KEY, _ClaimRow(*key, answer, busy_until), options).rows[0][0]:
            return Claim(answer, False, LIFETIME - _LONGEST_REQUEST)
        rows = execute(session, SELECT_KEY, (key.scope, key.key), serial).rows
        if rows and rows[0][1] is not None:
            break
        # The earlier claim has expired or was deleted in the meantime: claim again.
        time.sleep(min(0.01, options.remaining()))
    fingerprint, stored_answer, busy_until, finished, ttl = rows[0]
    if fingerprint != key.fingerprint:
        raise KeyReused("This key was used with another body.")
    if not finished and busy_until is not None and busy_until.replace(tzinfo=UTC) > datetime.now(UTC):
        raise KeyBusy("The first request with this key is still being processed.")
    return Claim(stored_answer, bool(finished), ttl - _LONGEST_REQUEST, is_retry=True)


def finish_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Mark the write as complete."""
    if claim.ttl > 0:
        values = (claim.ttl, key.scope, key.key)
        execute(session, FINISH_KEY, values, replace(options, consistency_level=None))


def forget_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Delete the claim after a refused write, so that the key can be used again."""
    values = (key.scope, key.key, claim.answer)
    execute(session, FORGET_KEY, values, replace(options, consistency_level=None))


def release_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Allow a retry to perform the write at once, because this request has stopped."""
    if claim.ttl > 0:
        values = (claim.ttl, datetime.fromtimestamp(0, UTC), key.scope, key.key)
        execute(session, RELEASE_KEY, values, replace(options, consistency_level=None))
