"""The fingerprints of a request body."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
import pytest
from flask import Flask, g, request
from pydantic import BaseModel

from auth.callers import ANONYMOUS
from web.idempotency import earlier_fingerprint, fingerprint, requested_key
from web.request_body import FieldbookRequest


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
def test_different_values_have_different_earlier_fingerprints(change: dict[str, Any]) -> None:
    assert earlier_fingerprint([Everything(**change)]) != earlier_fingerprint([Everything()])


def test_order_of_the_entries_of_a_map_makes_no_difference_to_the_earlier_fingerprint() -> None:
    assert earlier_fingerprint([Everything(by_name={"b": 2, "a": 1})]) == earlier_fingerprint([Everything()])


class Named(BaseModel):
    """The body of a version of the service."""

    name: str
    age: int


class NamedWithNote(Named):
    """The body of a later version, which has another optional field."""

    note: str | None = None


def test_fingerprints_are_digests_of_canonical_json() -> None:
    """Keys that an earlier version of the service stored stay valid."""
    body = {"name": 'Grace 🐢 "\\\u007f\u2028', "age": 36}
    text = '{"age":36,"name":"Grace 🐢 \\"\\\\\u007f\u2028"}'
    assert fingerprint(body) == sha256(text.encode()).digest()
    assert earlier_fingerprint([Named.model_validate(body)]) == sha256(f"[{text}]".encode()).digest()


def key_of(body: str, model: type[Named] = Named) -> bytes:
    """The fingerprint that a request with this body gets from a version with this model."""
    app = Flask(__name__)
    app.request_class = FieldbookRequest
    headers = {"Idempotency-Key": "a", "Content-Type": "application/json"}
    with app.test_request_context("/", method="POST", data=body, headers=headers):
        g.caller = ANONYMOUS
        key = requested_key([model.model_validate(request.get_json())])
    assert key is not None
    return key.fingerprint


def test_a_new_optional_field_does_not_change_the_fingerprint() -> None:
    body = '{"name": "Ada", "age": 36}'
    assert key_of(body, NamedWithNote) == key_of(body)
    # A field that is null is not the same as one that the client left out.
    assert key_of('{"name": "Ada", "age": 36, "note": null}', NamedWithNote) != key_of(body)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ('{"a": 1, "b": [2, 3]}', '{"b":[2,3],"a":1}', True),
        ('{"a": {"x": 1, "y": 2}}', '{"a": {"y": 2, "x": 1}}', True),
        ('{"a": [2, 3]}', '{"a": [3, 2]}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1}', '{"a": true}', False),
        # An integer and a decimal fraction are different JSON, although their values are equal.
        ('{"a": 1}', '{"a": 1.0}', False),
        ('{"a": 1e2}', '{"a": 100.0}', True),
        ('{"a": 18446744073709551615}', '{"a": 18446744073709551614}', False),
        # The parser reads larger integers as floating-point numbers, and so does the validation of the body.
        ('{"a": 18446744073709551616}', '{"a": 18446744073709551616.0}', True),
        # Of two fields with the same name the last one counts, as in the validation of the body.
        ('{"a": 1, "a": 2}', '{"a": 2}', True),
        ('{"a": 1, "a": 2}', '{"a": 1}', False),
        ('{"a": "\\u00e9"}', '{"a": "é"}', True),
        ("[1]", "1", False),
    ],
)
def test_fingerprint_is_that_of_the_parsed_json(first: str, second: str, same: bool) -> None:
    digests = {fingerprint(orjson.loads(text)) for text in (first, second)}
    assert len(digests) == (1 if same else 2)
