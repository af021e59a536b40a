"""Types of path parts, query parameters and keys of maps."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter, create_model

from schemas import parameters
from schemas.base import InvalidInput, Path
from tests.unit.test_fields import PYTHON_TERMS, cases

# Text that parameter types accept, with its Python value, and text that they refuse.
PARAMETERS: dict[str, tuple[Any, list[tuple[str, Any]], list[str]]] = {
    "Boolean": (parameters.Boolean, [("true", True), ("false", False)], ["True", "1", "0", "", "yes"]),
    "TinyInt": (parameters.TinyInt, [("-128", -128), ("127", 127)], ["128", "-129"]),
    "SmallInt": (parameters.SmallInt, [("-32768", -32768), ("32767", 32767)], ["32768", "-32769"]),
    "Int": (
        parameters.Int,
        [("-2147483648", -(2**31)), ("2147483647", 2**31 - 1), ("-0", 0)],
        ["2147483648", "+1", "1_0", " 1", "1 ", "1\n", "1.0", "٣", "", "-", "1" * 100_000],
    ),
    "Float": (parameters.Float, [("21.35", 21.35), ("1e-3", 0.001), ("5", 5.0)], ["0.123456789", "1e39", "NaN"]),
    "Double": (
        parameters.Double,
        [("21.35", 21.35), ("-1.5E+300", -1.5e300), ("9007199254740992", 2.0**53), ("-0", 0.0)],
        ["9007199254740993", "1e309", "NaN", "Infinity", "inf", "1_0", " 1", ".5", "5.", "01", "+1", "", "1" * 100_000],
    ),
    "Blob": (
        parameters.Blob,
        [("-_8", b"\xfb\xff"), ("", b""), ("QQ", b"A")],
        ["+/8", "-_8=", "QR", "Q", "A" * 1_000_000],
    ),
    "BlobSegment": (
        parameters.BlobSegment,
        [("-_8", b"\xfb\xff"), ("AAAA" * 85, b"\0" * 255)],
        ["", "AAAA" * 85 + "AA"],
    ),
    "Decimal": (parameters.Decimal, [("21.350", Decimal("21.350"))], ["1E+6145", "NaN"]),
    "BigInt": (parameters.BigInt, [("9", 9)], ["9223372036854775808"]),
}


@pytest.mark.parametrize(("name", "kind", "case"), cases(PARAMETERS, 1))
def test_accepted_parameters(name: str, kind: Any, case: tuple[str, Any]) -> None:
    text, expected = case
    value = TypeAdapter(kind).validate_python(text)
    assert (type(value), value) == (type(expected), expected)


@pytest.mark.parametrize(("name", "kind", "text"), cases(PARAMETERS, 2))
def test_refused_parameters(name: str, kind: Any, text: str) -> None:
    model = create_model("Example", __base__=Path, value=(kind, ...))
    with pytest.raises(InvalidInput) as caught:
        model.model_validate({"value": text})
    (error,) = caught.value.errors
    assert error["loc"] == ["path", "value"]
    assert not PYTHON_TERMS.search(error["msg"])
