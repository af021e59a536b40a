"""The fingerprint of a request body, and the answers that are stored under a key."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from storage.db_io.versioned import _from_text, _to_text
from storage.errors import KeyReused
from tests.testbed.db_io import observers
from web.idempotency import fingerprint


class Everything(BaseModel):
    """A body with a value of each kind."""

    amount: Decimal = Decimal("1.10")
    big: int = 2**100
    ratio: float = 0.1
    content: bytes = b"\xff\x00"
    day: date = date(2026, 1, 1)
    moment: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)
    id: UUID = UUID(int=1)
    pair: tuple[int, str] = (1, "a")
    by_name: dict[str, int] = {"a": 1, "b": 2}
    by_content: dict[bytes, Decimal] = {b"\xfe": Decimal(1)}
    note: str | None = None


@pytest.mark.parametrize(
    "change",
    [
        {"amount": Decimal("1.11")},
        {"big": 2**100 + 1},
        {"ratio": 0.2},
        {"content": b"\xff\x01"},
        {"day": date(2026, 1, 2)},
        {"moment": datetime(2026, 1, 1, 13, tzinfo=UTC)},
        {"id": UUID(int=2)},
        {"pair": (1, "b")},
        {"by_name": {"a": 1}},
        {"by_content": {b"\xff": Decimal(1)}},
        {"note": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_bodies_with_different_values_have_different_fingerprints(change: dict[str, Any]) -> None:
    assert fingerprint([Everything(**change)]) != fingerprint([Everything()])


def test_order_of_the_entries_of_a_map_makes_no_difference() -> None:
    assert fingerprint([Everything(by_name={"b": 2, "a": 1})]) == fingerprint([Everything()])


def test_fingerprint_is_the_digest_of_canonical_json() -> None:
    """Keys that an earlier version of the service stored stay valid."""

    class Named(BaseModel):
        name: str
        age: int

    expected = sha256('[{"age":36,"name":"Grace 🐢 \\"\\\\\u007f\u2028"}]'.encode()).digest()
    assert fingerprint([Named(name='Grace 🐢 "\\\u007f\u2028', age=36)]) == expected


def test_stored_answers_of_version_0_2_0_are_refused() -> None:
    with pytest.raises(KeyReused, match="before the service was upgraded"):
        _from_text('[["8a6e3a56-6c0f-4d2b-9d1e-3f3a5b7f9c10","Ada","ada@example.org",36]]')


def test_stored_answers_name_their_columns() -> None:
    """A later version of the service may have other columns, or another order."""
    observer = observers.TABLE.new({"name": "Ada", "email": "ada@example.org", "age": 36})
    text = _to_text(["age", "gone", "name"], [[b"\0\0\0\x24", b"x", b"Ada"]])
    (row,) = map(observers.TABLE.decode, _from_text(text))
    assert (row.name, row.age, row.email) == (observer.name, observer.age, None)
