"""Idempotency keys: an answer is promised before it is carried out, so that a repeat can be told, or finish, the same.

Nothing here keeps two requests from carrying out the same promise at once. What is promised must therefore be
the same however often it is carried out: the claim's clocks only decide who is asked to wait.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cassandra.cluster import Session

from settings import get_settings
from storage.cql.execution import QueryOptions
from storage.cql.statements import Statement, run
from storage.errors import KeyBusy, KeyReused

# Seconds.
LIFETIME = 24 * 3600
# No request lasts longer: a mark that it makes is gone before the claim that it belongs to.
_LONGEST_REQUEST = 60

CLAIM_KEY = Statement(
    "claim_idempotency_key",
    "INSERT INTO {keyspace}.idempotency_keys (scope, key, fingerprint, answer, busy_until) VALUES (?, ?, ?, ?, ?) "
    f"IF NOT EXISTS USING TTL {LIFETIME}",
    "lwt",
    idempotent=False,
)
SELECT_KEY = Statement(
    "select_idempotency_key",
    "SELECT fingerprint, answer, busy_until, finished, TTL(answer) FROM {keyspace}.idempotency_keys "
    "WHERE scope = ? AND key = ?",
)
# Marks are no transactions: should one get lost, a repeat carries the promise out again, which changes nothing.
FINISH_KEY = Statement(
    "finish_idempotency_key",
    "UPDATE {keyspace}.idempotency_keys USING TTL ? SET finished = true WHERE scope = ? AND key = ?",
    "write",
)
RELEASE_KEY = Statement(
    "release_idempotency_key",
    "UPDATE {keyspace}.idempotency_keys USING TTL ? SET busy_until = ? WHERE scope = ? AND key = ?",
    "write",
)


FORGET_KEY = Statement(
    "forget_idempotency_key",
    "DELETE FROM {keyspace}.idempotency_keys WHERE scope = ? AND key = ? IF answer = ?",
    "lwt",
    idempotent=False,
)


class IdempotencyKey(NamedTuple):
    """A client's key.

    :ivar scope: caller and route; the same key elsewhere is another one.
    :ivar fingerprint: of the request's body.
    """

    scope: str
    key: str
    fingerprint: bytes


class Claim(NamedTuple):
    """What a key stands for.

    :ivar answer: the one that the first request promised.
    :ivar finished: it is known to be carried out.
    :ivar ttl: seconds that a mark on the key may live.
    :ivar repeat: another request made the promise.
    """

    answer: str
    finished: bool
    ttl: int
    repeat: bool = False


def claim_key(session: Session, key: IdempotencyKey, answer: str, options: QueryOptions) -> Claim:
    """Promises `answer` under the key, unless a request before this one promised another.

    :raises KeyBusy: that one is still at work.
    :raises KeyReused: it had another body.
    :raises StorageTimeout: with `may_have_applied` when it is not known whether the key is claimed.
    """
    # The levels of the caller's own are for what is written, not for the promise.
    options = replace(options, consistency_level=None)
    serial = replace(options, consistency_level=get_settings().cassandra_serial_consistency_level)
    while True:
        busy_until = datetime.now(UTC) + timedelta(seconds=options.remaining())
        values = (key.scope, key.key, key.fingerprint, answer, busy_until)
        if run(session, CLAIM_KEY, values, options).rows[0][0]:
            return Claim(answer, False, LIFETIME - _LONGEST_REQUEST)
        rows = run(session, SELECT_KEY, (key.scope, key.key), serial).rows
        if rows and rows[0][1] is not None:
            break
        # It has expired since, or was taken back.
        time.sleep(min(0.01, options.remaining()))
    fingerprint, promised, busy_until, finished, ttl = rows[0]
    if fingerprint != key.fingerprint:
        raise KeyReused("This key was used with another body.")
    if not finished and busy_until is not None and busy_until.replace(tzinfo=UTC) > datetime.now(UTC):
        raise KeyBusy("The first request with this key is still at work.")
    return Claim(promised, bool(finished), ttl - _LONGEST_REQUEST, repeat=True)


def finish_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Marks the promise as carried out."""
    if claim.ttl > 0:
        run(session, FINISH_KEY, (claim.ttl, key.scope, key.key), replace(options, consistency_level=None))


def forget_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Takes the promise back, which was refused and so is not carried out: the key may be used for something else."""
    run(session, FORGET_KEY, (key.scope, key.key, claim.answer), replace(options, consistency_level=None))


def release_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Lets a repeat carry the promise out at once: this request has given up."""
    if claim.ttl > 0:
        values = (claim.ttl, datetime.fromtimestamp(0, UTC), key.scope, key.key)
        run(session, RELEASE_KEY, values, replace(options, consistency_level=None))
