"""Idempotency keys: the complete response is stored before anything is written, so that a retry can return it.

A retry can also finish the write if the first request stopped midway. Nothing here keeps two requests from writing at
the same time: `busy_until` only decides which request is asked to wait. The caller's write must therefore have the same
effect however often it runs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, execute
from storage.cql.consistency import serial_level
from storage.errors import KeyBusy, KeyReused

# Seconds for which a retry gets the first response.
LIFETIME = 24 * 3600
# Seconds. No request lasts longer, so a mark that it writes expires before the claim that the mark belongs to.
_LONGEST_REQUEST = 60


class _Key(NamedTuple):
    """The columns of `idempotency_keys` that a claim writes."""

    scope: str
    key: str
    fingerprint: bytes
    answer: str
    busy_until: datetime


CLAIM_KEY = Statement(
    "claim_idempotency_key",
    f"INSERT INTO {{keyspace}}.idempotency_keys ({{columns}}) VALUES ({{values}}) IF NOT EXISTS USING TTL {LIFETIME}",
    _Key._fields,
    kind="lwt",
    idempotent=False,
)
SELECT_KEY = Statement(
    "select_idempotency_key",
    "SELECT fingerprint, answer, busy_until, finished, TTL(answer) FROM {keyspace}.idempotency_keys "
    "WHERE scope = ? AND key = ?",
)
# Marks are plain writes: if one is lost, a retry performs the write again, which changes nothing.
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
    :ivar fingerprint: digest of the request body.
    """

    scope: str
    key: str
    fingerprint: bytes


class Claim(NamedTuple):
    """The response that a key stands for.

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
        if execute(session, CLAIM_KEY, _Key(*key, answer, busy_until), options).rows[0][0]:
            return Claim(answer, False, LIFETIME - _LONGEST_REQUEST)
        rows = execute(session, SELECT_KEY, (key.scope, key.key), serial).rows
        if rows and rows[0][1] is not None:
            break
        # The earlier claim has expired or was deleted since: claim again.
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
    """Delete the claim after the write was refused, so that the key can be used for another request."""
    values = (key.scope, key.key, claim.answer)
    execute(session, FORGET_KEY, values, replace(options, consistency_level=None))


def release_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Allow a retry to perform the write at once, because this request has stopped."""
    if claim.ttl > 0:
        values = (claim.ttl, datetime.fromtimestamp(0, UTC), key.scope, key.key)
        execute(session, RELEASE_KEY, values, replace(options, consistency_level=None))
