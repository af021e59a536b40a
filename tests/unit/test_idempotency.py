"""The fingerprint of a request body."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

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
