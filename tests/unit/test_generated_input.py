"""Field and parameter types with generated input."""

from __future__ import annotations

import base64
import re
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, create_model

from schemas import fields, formats, parameters
from schemas.base import InvalidInput, Path
from tests.unit.test_fields import FIELDS, body_of, schema_of

# Text that looks like values of the types, and any text.
TEXTS = st.text() | st.one_of(
    *(
        st.from_regex(re.compile(pattern.pattern, re.ASCII), fullmatch=True)
        for pattern in vars(formats).values()
        if isinstance(pattern, re.Pattern)
    ),
    st.text("0123456789-+.:eETZPYMWDHSnaif"),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXTS, values, max_size=4),
    max_leaves=8,
)
BODY_TYPES = {name: (body_of(row[0]), schema_of(row[0])) for name, row in FIELDS.items()}


@given(value=JSON_VALUES)
@settings(derandomize=True, deadline=None, max_examples=400)
def test_any_json_value_is_accepted_or_refused(value: Any) -> None:
    """No input raises another exception, and the JSON Schema accepts what a field accepts."""
    for name, (model, schema) in BODY_TYPES.items():
        try:
            model.model_validate({"value": value})
        except InvalidInput:
            continue
        assert schema.is_valid({"value": value}), name


PATH_TYPES = [
    create_model(name, __base__=Path, value=(getattr(parameters, name), ...)) for name in sorted(parameters.__all__)
]


@given(text=TEXTS)
@settings(derandomize=True, deadline=None, max_examples=400)
def test_any_text_is_accepted_or_refused(text: str) -> None:
    """No text raises another exception in a parameter type."""
    for model in PATH_TYPES:
        try:
            model.model_validate({"value": text})
        except InvalidInput as error:
            (each,) = error.errors
            assert each["loc"] == ["path", "value"]


@given(data=st.binary(max_size=100))
@settings(derandomize=True, deadline=None)
def test_blobs_have_one_text(data: bytes) -> None:
    assert TypeAdapter(fields.Blob).validate_python(base64.b64encode(data).decode()) == data
    text = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert TypeAdapter(parameters.Blob).validate_python(text) == data


@given(number=st.decimals(allow_nan=False, allow_infinity=False, places=None))
@settings(derandomize=True, deadline=None)
def test_decimals_keep_their_digits(number: Decimal) -> None:
    text = str(number)
    try:
        value = TypeAdapter(fields.Decimal).validate_python(text)
    except ValueError:
        assert len(number.as_tuple().digits) > 1000 or abs(number.adjusted()) > 6144
    else:
        assert str(value) == text


@given(digits=st.integers(1, 999_999), exponent=st.integers(-36, 32))
@settings(derandomize=True, deadline=None)
def test_floats_hold_six_digits(digits: int, exponent: int) -> None:
    """IEEE 754: every decimal number of six digits in the range of a float survives it."""
    number = float(f"{digits}e{exponent}")
    assert TypeAdapter(fields.Float).validate_python(number) == number
