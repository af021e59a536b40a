"""Idempotency keys: a retry with the key of an earlier request gets its response.

The complete response is stored before the rows are written. A retry can therefore return it, and can finish the write
if the first request stopped midway. Two requests may still write at the same time: `busy_until` only decides which
request is told to wait. The caller's write must therefore have the same effect however often it runs.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from cassandra.cluster import Session

from settings import MAX_REQUEST_TIMEOUT
from storage.cql import QueryOptions, Statement, execute
from storage.cql.consistency import serial_level
from storage.errors import KeyBusy, KeyReused

# Seconds for which a retry gets the first response.
LIFETIME = 24 * 3600
# The form of the stored answer; docs/transactions.md has the earlier forms. An added or removed column does not change
# it.
FORMAT = 3
# Seconds. No request lasts longer. The TTL of a mark is shorter by this time, so that no mark outlives its claim.
_LONGEST_REQUEST = int(MAX_REQUEST_TIMEOUT)

# The values of a row by column, in the native protocol's encoding, because it preserves the values of every CQL type.
RowValues = Mapping[str, bytes | None]

# If the row does not exist, `answer` is null too. It is also null in a row of which only a mark is left.
CLAIM_KEY = Statement(
    "claim_idempotency_key",
    f"UPDATE {{keyspace}}.idempotency_keys USING TTL {LIFETIME} SET {{assignments}} "
    "WHERE scope = ? AND key = ? IF answer = null",
    ("fingerprint", "answer", "busy_until"),
    kind="lwt",
    idempotent=False,
)
SELECT_KEY = Statement(
    "select_idempotency_key",
    "SELECT fingerprint, answer, busy_until, finished, WRITETIME(finished), TTL(answer) "
    "FROM {keyspace}.idempotency_keys WHERE scope = ? AND key = ?",
)
# Says that the write is complete. A plain write, because every request with a key waits for it: if it is lost, a retry
# performs the write again, which changes nothing. The timestamp names the claim that the mark belongs to.
FINISH_KEY = Statement(
    "finish_idempotency_key",
    "UPDATE {keyspace}.idempotency_keys USING TIMESTAMP ? AND TTL ? SET finished = true WHERE scope = ? AND key = ?",
    kind="write",
)
# Says that no request is at work. Only failed requests wait for this transaction.
RELEASE_KEY = Statement(
    "release_idempotency_key",
    "UPDATE {keyspace}.idempotency_keys USING TTL ? SET busy_until = ? WHERE scope = ? AND key = ? IF answer = ?",
    kind="lwt",
    idempotent=False,
)
# Not the row: that would also delete the mark of the next claim, if the clock of its instance is behind Cassandra's.
FORGET_KEY = Statement(
    "forget_idempotency_key",
    "DELETE fingerprint, answer, busy_until FROM {keyspace}.idempotency_keys WHERE scope = ? AND key = ? IF answer = ?",
    kind="lwt",
    idempotent=False,
)


class IdempotencyKey(NamedTuple):
    """A client's key.

    :ivar scope: caller and route; the same key in another scope is another key.
    :ivar fingerprint: digest of the request body, to detect a key that is used with another body.
    :ivar earlier_fingerprint: returns the digest that earlier versions of the service stored for this body.
    """

    scope: str
    key: str
    fingerprint: bytes
    earlier_fingerprint: Callable[[], bytes]


class Claim(NamedTuple):
    """A key that is claimed, with the rows that every request with the key gets.

    :ivar answer: the rows as they are stored; no other claim has the same text.
    :ivar rows: the rows of the first request with this key.
    :ivar mark: timestamp of the mark that the write is complete, in microseconds.
    :ivar finished: the write is known to be complete.
    :ivar ttl: seconds that a mark on the key may live.
    :ivar is_retry: an earlier request claimed the key.
    """

    answer: str
    rows: Sequence[RowValues]
    mark: int
    finished: bool
    ttl: int
    is_retry: bool = False


def claim_key(session: Session, key: IdempotencyKey, rows: Sequence[RowValues], options: QueryOptions) -> Claim:
    """Store the rows under the key, unless an earlier request stored its own.

    :raises KeyBusy: the earlier request is still being processed, or only a newer version of the service can read its
        rows.
    :raises KeyReused: the earlier request had another body.
    :raises StorageTimeout: with `may_have_applied` if it is not known whether the key is claimed.
    """
    # The client's consistency level is for the rows that it writes, not for the key.
    options = replace(options, consistency_level=None)
    serial = replace(options, consistency_level=serial_level(session))
    mark = time.time_ns() // 1000
    answer = _to_text(rows, mark)
    while True:
        busy_until = datetime.now(UTC) + timedelta(seconds=options.remaining())
        values = (key.fingerprint, answer, busy_until, key.scope, key.key)
        if execute(session, CLAIM_KEY, values, options).rows[0][0]:
            return Claim(answer, rows, mark, False, LIFETIME - _LONGEST_REQUEST)
        found = execute(session, SELECT_KEY, (key.scope, key.key), serial).rows
        if found and found[0][1] is not None:
            return _earlier_claim(key, *found[0])
        # The earlier claim has expired or was deleted in the meantime: claim again.
        time.sleep(min(0.01, options.remaining()))


def _earlier_claim(
    key: IdempotencyKey,
    fingerprint: bytes,
    answer: str,
    busy_until: datetime | None,
    finished: bool | None,
    finished_at: int | None,
    ttl: int,
) -> Claim:
    """The claim of an earlier request, from its columns."""
    rows, mark = _from_text(answer)
    expected = key.earlier_fingerprint() if mark is None else key.fingerprint
    if fingerprint != expected:
        raise KeyReused("This key was used with another body.")
    # A mark with another timestamp belongs to a claim that was deleted. Earlier versions chose no timestamp.
    is_finished = bool(finished) and mark in (None, finished_at)
    if not is_finished and busy_until is not None and busy_until.replace(tzinfo=UTC) > datetime.now(UTC):
        raise KeyBusy("The first request with this key is still being processed.")
    if mark is None:
        mark = time.time_ns() // 1000
    return Claim(answer, rows, mark, is_finished, ttl - _LONGEST_REQUEST, is_retry=True)


def finish_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Mark the write as complete."""
    if claim.ttl > 0:
        values = (claim.mark, claim.ttl, key.scope, key.key)
        execute(session, FINISH_KEY, values, replace(options, consistency_level=None))


def forget_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Delete the claim after a refused write, so that the key can be used again."""
    values = (key.scope, key.key, claim.answer)
    execute(session, FORGET_KEY, values, replace(options, consistency_level=None))


def release_key(session: Session, key: IdempotencyKey, claim: Claim, options: QueryOptions) -> None:
    """Allow a retry to perform the write at once, because this request has stopped."""
    if claim.ttl > 0:
        values = (claim.ttl, datetime.fromtimestamp(0, UTC), key.scope, key.key, claim.answer)
        execute(session, RELEASE_KEY, values, replace(options, consistency_level=None))


# --- the stored answer -------------------------------------------------------------------------------------


def _to_text(rows: Sequence[RowValues], mark: int) -> str:
    """Rows as JSON with base64.

    With the names of the columns, because a later version of the service may have other columns.
    """
    return orjson.dumps({"format": FORMAT, "mark": mark, "rows": rows}, default=_base64_text).decode()


def _base64_text(data: bytes) -> str:
    return b64encode(data).decode()


def _from_text(text: str) -> tuple[list[RowValues], int | None]:
    """The rows in a stored answer, and its mark; None in the formats of earlier versions.

    :raises KeyBusy: a newer version of the service stored the answer.
    :raises KeyReused: a development version stored the answer.
    """
    stored: Any = orjson.loads(text)
    if isinstance(stored, list):
        return [_earlier_row(row) for row in stored], None
    if stored.get("format") != FORMAT:
        # During a rolling deployment the retry reaches an instance of that version sooner or later.
        raise KeyBusy("A newer version of the service stored the response to the first request with this key.")
    return [_from_base64(row) for row in stored["rows"]], stored["mark"]


def _from_base64(row: Mapping[str, str | None]) -> RowValues:
    return {column: None if data is None else b64decode(data) for column, data in row.items()}


def _milliseconds(text: str) -> bytes:
    since_1970 = datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)
    return (since_1970 // timedelta(milliseconds=1)).to_bytes(8, "big", signed=True)


# Version 0.2.0 had one table with such rows, users, and stored the values of these columns in this order.
_COLUMNS_0_2_0: dict[str, Callable[[Any], bytes]] = {
    "id": lambda text: UUID(text).bytes,
    "name": str.encode,
    "email": str.encode,
    "age": lambda number: int(number).to_bytes(4, "big", signed=True),
    "created_at": _milliseconds,
    "updated_at": _milliseconds,
    "version": lambda text: UUID(text).bytes,
}


def _earlier_row(row: Any) -> RowValues:
    """A row in an answer that an earlier version of the service stored: a list of rows without a format number."""
    if isinstance(row, dict):
        return _from_base64(row)
    try:
        pairs = zip(_COLUMNS_0_2_0.items(), row, strict=True)
        return {column: encode(value) for (column, encode), value in pairs}
    except (ValueError, TypeError):
        # Positions without names, from a development version between 0.2.0 and format 2.
        raise KeyReused("This key was used before the service was upgraded. Use a new key.") from None
