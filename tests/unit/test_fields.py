"""Field types of every CQL type: the values that they accept and refuse, and their JSON Schema."""

from __future__ import annotations

import base64
import re
import sys
import unicodedata
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import orjson
import pytest
from jsonschema_rs import Draft202012Validator
from pydantic import Field, TypeAdapter, ValidationError, create_model

from schemas import fields, parameters
from schemas.base import Body, InvalidInput
from schemas.fields import DurationValue, ListOf, MapOf, SetOf
from storage.cql.json_values import encoder
from storage.cql.types import parse_type

ID = "0192d3f5-3b1a-7c6e-8f21-5a0c9d7e4b13"
TIME_ID = "8f2b7d10-c6a4-11f0-9a3e-325096b39f47"
FEW_FLOATS = Annotated[list[fields.Float], Field(min_length=2, max_length=2)]


def moment(text: str) -> datetime:
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# A type, JSON values that it accepts, each with its Python value, and JSON values that it refuses.
FIELDS: dict[str, tuple[Any, list[tuple[Any, Any]], list[Any]]] = {
    "Text": (fields.Text, [("", ""), ("a\n\x00é😀", "a\n\x00é😀"), ("é" * 10_000,) * 2], ["a" * 10_001, 5, None]),
    "Ascii": (fields.Ascii, [("", ""), ("a\x00~\x7f",) * 2], ["é", "a\x80", "a" * 10_001, 5]),
    "Boolean": (fields.Boolean, [(True, True), (False, False)], ["true", 1, 0, None]),
    "TinyInt": (fields.TinyInt, [(-128, -128), (127, 127)], [-129, 128, "5", 5.5, True, None]),
    "SmallInt": (fields.SmallInt, [(-32768, -32768), (32767, 32767)], [-32769, 32768, "5"]),
    "Int": (fields.Int, [(-(2**31), -(2**31)), (2**31 - 1, 2**31 - 1)], [-(2**31) - 1, 2**31, "5", 1e30]),
    "Segment": (
        fields.Segment,
        [("A-1 é", "A-1 é"), ("...", "..."), ("é" * 100,) * 2],
        ["", " ", "\u200b", "\ufeff \u2060", "a/b", ".", "..", "a\n", "x" * 101, 7, None],
    ),
    "Name": (
        fields.Name,
        [("Ada", "Ada"), (" .", " ."), ("/", "/"), ("\u200bé", "\u200bé"), ("👩\u200d🔬", "👩\u200d🔬")],
        ["", " ", "\u200b", "\ufeff", "\u3164\u115f", "\u2800", "\U000e0041\U000e007f", "a\x85", "x" * 101, 7, None],
    ),
    "AsciiSegment": (
        fields.AsciiSegment,
        [("A-1", "A-1"), ("a b", "a b"), ("x" * 100, "x" * 100)],
        ["", " ", "a/b", "..", "é", "a\n", "x" * 101, 7, None],
    ),
    "BlobSegment": (
        fields.BlobSegment,
        [("AA==", b"\0"), ("+/8=", b"\xfb\xff"), ("AAAA" * 85, b"\0" * 255)],
        ["", "AAAA" * 85 + "AA==", "-_8=", 7, None],
    ),
    "BigInt": (
        fields.BigInt,
        [("9", 9), ("-0", 0), ("-9223372036854775808", -(2**63)), ("9223372036854775807", 2**63 - 1)],
        ["9223372036854775808", "-9223372036854775809", "", "+1", "1_0", " 1", "1\n", "1.0", "٣", 9, "1" * 20_000],
    ),
    "VarInt": (
        fields.VarInt,
        [("-5", -5), ("9" * 1000, 10**1000 - 1)],
        ["9" * 1001, "9" * 1_000_000, "0x1", "1e5", "", "-", 9, None],
    ),
    "Decimal": (
        fields.Decimal,
        [
            ("21.350", Decimal("21.350")),
            ("-1E+5", Decimal("-1E+5")),
            ("1e-7", Decimal("1E-7")),
            ("9" * 1000, Decimal("9" * 1000)),
            # The longest canonical text: str(Decimal) writes up to six zeros before the digits.
            ("-0.000001" + "1" * 999, Decimal("-0.000001" + "1" * 999)),
            ("9.99E+6144", Decimal("9.99E+6144")),
            ("1E-6144", Decimal("1E-6144")),
            ("0E-6144", Decimal("0E-6144")),
        ],
        [
            *("1E+6145", "10E+6144", "1E-6145", "1E+1000000000", "1E+" + "9" * 100_000, "9" * 1001, "0" * 1101),
            *("NaN", "Infinity", "-inf", "sNaN", "", ".5", "5.", "+1", "1_0", " 1", "1\n", "٣", 21.35, 5, None),
        ],
    ),
    "Float": (
        fields.Float,
        [
            *((0.1, 0.1), (21.35, 21.35), (5, 5.0), (16777216, 16777216.0), (3.4028235e38, 3.4028235e38)),
            *((1.4013e-45, 1.4013e-45), (1.1754944e-38, 1.1754944e-38), (-0.0, -0.0)),
        ],
        [0.123456789, 0.10000000149011612, 16777217, 2**60, 1e39, 1e-45, 1e-46, 10**400, "0.1", True, None],
    ),
    "Double": (
        fields.Double,
        [(0.1, 0.1), (1e308, 1e308), (5e-324, 5e-324), (2**53, 2.0**53), (0.123456789, 0.123456789)],
        [2**53 + 1, 10**400, float("nan"), float("inf"), "0.1", "NaN", True, None],
    ),
    "Timestamp": (
        fields.Timestamp,
        [
            ("2026-11-21T06:50:04.610Z", moment("2026-11-21T06:50:04.610")),
            ("2026-11-21t06:50:04.6z", moment("2026-11-21T06:50:04.600")),
            ("2026-11-21T06:50:04+05:30", moment("2026-11-21T01:20:04")),
            ("2024-02-29T00:00:00-00:00", moment("2024-02-29T00:00:00")),
            ("0001-01-01T00:00:00.000Z", moment("0001-01-01T00:00:00")),
            ("9999-12-31T23:59:59.999Z", moment("9999-12-31T23:59:59.999")),
        ],
        [
            *("2026-11-21T06:50:04", "2026-11-21T06:50Z", "2026-11-21 06:50:04Z", "2026-11-21", 1795243804, 0.5, None),
            *("2026-11-21T06:50:04.6100Z", "2026-11-21T06:50:04.Z", "2026-11-21T06:50:04,610Z", "20261121T065004Z"),
            *("2026-11-21T23:59:60Z", "2026-11-21T24:00:00Z", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z"),
            *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"),
            *("9999-12-31T23:59:59-01:00", "2026-11-21T06:50:04+24:00", "2026-11-21T06:50:04+0530"),
            *("٢٠٢٦-11-21T06:50:04Z", "2026-11-21T06:50:04Z\n", "2026-11-21T06:50:04." + "1" * 100_000),
        ],
    ),
    "Date": (
        fields.Date,
        [("2026-11-21", date(2026, 11, 21)), ("0001-01-01", date.min), ("9999-12-31", date.max)],
        ["2026-02-30", "2026-2-3", "20260203", "2026-W01-1", "0000-01-01", "-0001-01-01", "2026-11-21T00:00", 5, None],
    ),
    "Time": (
        fields.Time,
        [
            *(("08:30:00", "08:30:00"), ("08:30:00.500", "08:30:00.5"), ("23:59:59.000", "23:59:59")),
            ("00:00:00.000000001", "00:00:00.000000001"),
        ],
        ["24:00:00", "08:30", "08:30:60", "08:30:00.", "08:30:00.0000000001", "08:30:00Z", "8:30:00", 30600, None],
    ),
    "Duration": (
        fields.Duration,
        [
            ("P1Y2M3DT4H5M6.5S", DurationValue(14, 3, 14_706_500_000_000)),
            ("-P1Y2M3DT4H5M6.5S", DurationValue(-14, -3, -14_706_500_000_000)),
            *(("PT0S", DurationValue(0, 0, 0)), ("P2W1D", DurationValue(0, 15, 0)), ("P0D", DurationValue(0, 0, 0))),
            ("PT0.000000001S", DurationValue(0, 0, 1)),
            ("P178956970Y7M2147483647D", DurationValue(2**31 - 1, 2**31 - 1, 0)),
            ("PT2562047H47M16.854775807S", DurationValue(0, 0, 2**63 - 1)),
            ("-P2147483648M", DurationValue(-(2**31), 0, 0)),
        ],
        [
            *("P", "PT", "P1DT", "-P", "1D", "P1", "P1H", "PT1D", "P1D2M", "P1.5D", "PT1.S", "PT.5S", "P-1D", "+P1D"),
            *("PT1,5S", "pt1s", "PT0.0000000001S", "P2147483648M", "P178956970Y8M", "P2147483648D", "P306783379W"),
            *("PT2562047H47M16.854775808S", "P" + "1" * 100_000 + "D", 5, None),
        ],
    ),
    "Inet": (
        fields.Inet,
        [
            ("10.0.0.1", "10.0.0.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("::", "::"),
            ("::FFFF:A00:1", "::ffff:10.0.0.1"),
        ],
        ["10.0.0", "010.0.0.1", "10.0.0.1/32", "::1%eth0", "fe80::1%1", "::/0", "localhost", "", 167772161, None],
    ),
    "Blob": (
        fields.Blob,
        [("", b""), ("+/8=", b"\xfb\xff"), ("QQ==", b"A"), (base64.b64encode(bytes(65_536)).decode(), bytes(65_536))],
        [
            *("QR==", "QQ=", "QQ", "QQ==\n", "Q Q=", "-_8=", "é", "====", "=", 5, None),
            *(base64.b64encode(bytes(65_537)).decode(), "A" * 1_000_000),
        ],
    ),
    "Uuid": (
        fields.Uuid,
        [(ID, UUID(ID)), (ID.upper(), UUID(ID)), (TIME_ID, UUID(TIME_ID))],
        [ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}", f"{ID} ", ID[:-1], "", 5, None],
    ),
    "TimeUuid": (fields.TimeUuid, [(TIME_ID, UUID(TIME_ID)), (TIME_ID.upper(), UUID(TIME_ID))], [ID, "", 5, None]),
    "ListOf": (ListOf[fields.Int], [([], []), ([2, 1, 1], [2, 1, 1])], [[1.5], [None], "12", {}, [0] * 1001, None]),
    "SetOf": (
        SetOf[fields.Decimal],
        [([], []), (["2", "1.0"], [Decimal("1.0"), Decimal("2")])],
        [["1", "1"], ["1.0", "1.00"], ["1", None], {}, [str(each) for each in range(1001)]],
    ),
    "SetOf SetOf": (
        SetOf[SetOf[fields.Int]],
        [([[3, 1], [2]], [[1, 3], [2]])],
        [[[1, 2], [2, 1]], [[1], [1]], [[1, 1]], [1]],
    ),
    "SetOf MapOf": (
        SetOf[MapOf[parameters.Text, ListOf[fields.Int]]],
        [([{"a": [1], "b": [2]}, {}], [{}, {"a": [1], "b": [2]}])],
        [[{"a": [1], "b": []}, {"b": [], "a": [1]}], [[]]],
    ),
    "MapOf text": (
        MapOf[parameters.Text, fields.Int],
        [({}, {}), ({"": 1, "é": 2}, {"": 1, "é": 2})],
        [{"a": "1"}, {"a": None}, [], {"a" * 10_001: 1}, {str(each): 1 for each in range(1001)}, None],
    ),
    "MapOf int": (
        MapOf[parameters.Int, fields.Text],
        [({"-5": "a", "7": "b"}, {-5: "a", 7: "b"})],
        [{"7": "a", "07": "b"}, {"a": "a"}, {"1.0": "a"}, {"+1": "a"}, {"2147483648": "a"}],
    ),
    "MapOf timestamp": (
        MapOf[parameters.Timestamp, ListOf[fields.BigInt]],
        [({"2026-11-21T06:50:04.610Z": ["1"]}, {moment("2026-11-21T06:50:04.610"): [1]})],
        [{"2026-11-21T01:00:00Z": [], "2026-11-21T02:00:00+01:00": []}, {"0": []}],
    ),
    "MapOf double": (
        MapOf[parameters.Double, fields.Int],
        [({"1.5": 1}, {1.5: 1})],
        [{"1.5": 1, "15e-1": 1}, {"x": 1}],
    ),
    "MapOf boolean": (MapOf[parameters.Boolean, fields.Int], [({"true": 1}, {True: 1})], [{"True": 1}, {"1": 1}]),
    "MapOf blob": (MapOf[parameters.Blob, fields.Int], [({"-_8": 1}, {b"\xfb\xff": 1})], [{"+/8=": 1}]),
    "vector": (FEW_FLOATS, [([1, 0.5], [1.0, 0.5])], [[1], [1, 2, 3], [1, None], ["1", "2"], {}, None]),
    "nullable": (fields.Timestamp | None, [(None, None)], ["", 0]),
    "bounded Decimal": (
        Annotated[fields.Decimal, Field(ge=0, le=100)],
        [("0", Decimal(0)), ("100.00", Decimal("100.00"))],
        ["-1", "100.01", 5],
    ),
    "bounded BigInt": (Annotated[fields.BigInt, Field(gt=0)], [("1", 1)], ["0", "-1", 1]),
    "bounded Double": (Annotated[fields.Double, Field(gt=0, le=9)], [(0.5, 0.5)], [0, 9.5, "1"]),
    "bounded Int": (Annotated[fields.Int, Field(ge=0)], [(0, 0)], [-1, 2**31]),
    "short Text": (Annotated[fields.Text, Field(min_length=1, max_length=3)], [("abc", "abc")], ["", "abcd"]),
}

# Refused values that the JSON Schema accepts, because it can't express the rule, or the rule is about digits.
BEYOND_SCHEMA = {
    "BigInt": ["9223372036854775808", "-9223372036854775809"],
    "Decimal": ["1E+6145", "10E+6144", "1E-6145", "9" * 1001],
    "Float": [0.123456789, 0.10000000149011612, 16777217, 2**60, 1e39, 1e-45, 1e-46, 10**400],
    "Double": [2**53 + 1, 10**400],
    "Timestamp": ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"],
    "Duration": ["P2147483648M", "P178956970Y8M", "P2147483648D", "P306783379W", "PT2562047H47M16.854775808S"],
    "Blob": [base64.b64encode(bytes(65_537)).decode()],
    "SetOf": [["1.0", "1.00"]],
    "SetOf SetOf": [[[1, 2], [2, 1]]],
    "MapOf int": [{"7": "a", "07": "b"}, {"2147483648": "a"}],
    "MapOf timestamp": [{"2026-11-21T01:00:00Z": [], "2026-11-21T02:00:00+01:00": []}],
    "MapOf double": [{"1.5": 1, "15e-1": 1}],
    "bounded Decimal": ["-1", "100.01"],
    "bounded BigInt": ["0", "-1"],
}

# CQL types, to write accepted values in the form that responses have.
CQL_TYPES = {
    **{name: name.removesuffix("Segment").lower() or "text" for name in parameters.__all__},
    "ListOf": "list<int>",
    "SetOf": "set<decimal>",
    "SetOf SetOf": "set<frozen<set<int>>>",
    "SetOf MapOf": "set<frozen<map<text, frozen<list<int>>>>>",
    "MapOf text": "map<text, int>",
    "MapOf int": "map<int, text>",
    "MapOf timestamp": "map<timestamp, frozen<list<bigint>>>",
    "MapOf double": "map<double, int>",
    "MapOf boolean": "map<boolean, int>",
    "vector": "vector<float, 2>",
}

PYTHON_TERMS = re.compile(
    r"\b(str|int|bool|dict|dictionary|list|tuple|datetime|NoneType|Python|instance|Decimal input)\b",
    re.IGNORECASE,
)


def cases(table: dict[str, tuple[Any, list[Any], list[Any]]], column: int) -> list[Any]:
    """Return test parameters: name, type and one value of a column of a table."""
    return [
        pytest.param(name, row[0], value, id=f"{name} {str(value)[:50]!a}")
        for name, row in table.items()
        for value in row[column]
    ]


def body_of(kind: Any) -> type[Body]:
    """Return a body with one field `value` of this type."""
    model = create_model("Example", __base__=Body, value=(kind, ...))
    assert issubclass(model, Body)
    return model


def schema_of(kind: Any) -> Draft202012Validator:
    """Return a validator of the JSON Schema of a body with one field `value` of this type."""
    return Draft202012Validator(body_of(kind).model_json_schema(), validate_formats=True)


@pytest.mark.parametrize(("name", "kind", "case"), cases(FIELDS, 1))
def test_accepted_values(name: str, kind: Any, case: tuple[Any, Any]) -> None:
    given_value, expected = case
    value = body_of(kind).model_validate({"value": given_value}).value  # type: ignore[attr-defined]
    assert value == expected
    assert repr(value) == repr(expected)
    assert schema_of(kind).is_valid({"value": given_value})


@pytest.mark.parametrize(("name", "kind", "value"), cases(FIELDS, 2))
def test_refused_values(name: str, kind: Any, value: Any) -> None:
    """The error names the rule, without Python's terms and without the value. The JSON Schema refuses it too."""
    with pytest.raises(InvalidInput) as caught:
        body_of(kind).model_validate({"value": value})
    for error in caught.value.errors:
        assert error["loc"][:2] == ["body", "value"]
        assert not PYTHON_TERMS.search(error["msg"])
        assert len(error["msg"]) < 200
    beyond = repr(value) in map(repr, BEYOND_SCHEMA.get(name, []))
    assert schema_of(kind).is_valid({"value": value}) == beyond


@pytest.mark.parametrize("name", CQL_TYPES)
def test_responses_match_the_schema_and_are_accepted_again(name: str) -> None:
    kind, accepted, _ = FIELDS[name]
    model = body_of(kind)
    schemas = [
        Draft202012Validator(model.model_json_schema(mode=mode), validate_formats=True)
        for mode in ("validation", "serialization")
    ]
    for _, value in accepted:
        document = orjson.loads(orjson.dumps({"value": encoder(parse_type(CQL_TYPES[name]))(value)}))
        assert all(schema.is_valid(document) for schema in schemas)
        assert repr(model.model_validate(document).value) == repr(value)  # type: ignore[attr-defined]


# Control and format characters, and white space.
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}
# Characters of other Unicode categories that show nothing: fillers, variation selectors, and the empty Braille pattern.
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u2800\u3164\ufe00\ufe0f\uffa0\U000e0100\U000e01ef"


def test_text_without_a_visible_character_is_refused() -> None:
    """Validator and JSON Schema agree on each invisible character of Unicode, alone and before a letter."""
    validators = [(TypeAdapter(kind), schema_of(kind)) for kind in (fields.Name, fields.Segment)]
    invisible = {chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in INVISIBLE}
    for character in {*invisible, *FILLERS}:
        is_control = unicodedata.category(character) == "Cc"
        for adapter, schema in validators:
            for text, is_valid in ((character, False), (f"{character} {character}", False), (f"{character}a", True)):
                expected = is_valid and not is_control
                assert schema.is_valid({"value": text}) == expected, ascii(text)
                if expected:
                    assert adapter.validate_python(text) == text
                else:
                    with pytest.raises(ValidationError, match="must not"):
                        adapter.validate_python(text)


def test_lone_surrogates_are_refused() -> None:
    for kind in (fields.Text, fields.Ascii):
        with pytest.raises(InvalidInput):
            body_of(kind).model_validate({"value": "a\ud800"})


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (fields.Timestamp, "2026-11-21T06:50:04.6101Z", "at most three fractional digits"),
        (fields.Timestamp, "2026-11-21T23:59:60Z", "leap second"),
        (fields.Timestamp, 5, "RFC 3339"),
        (fields.Timestamp, "9999-12-31T23:59:59-01:00", "years 0001 to 9999"),
        (fields.Decimal, 21.35, "must be a string, because JSON numbers lose digits"),
        (fields.BigInt, 9, "must be a string, because JSON numbers lose digits"),
        (fields.VarInt, 9, "must be a string, because JSON numbers lose digits"),
        (fields.Decimal, "1E+7000", "from -6144 to 6144"),
        (fields.Float, 0.123456789, "more digits than a float holds"),
        (fields.Float, 1e39, "from -3.4028235e38"),
        (fields.Blob, "A" * 100_000, "at most 65536 bytes"),
        (SetOf[fields.Decimal], ["1.0", "1.00"], "must not repeat"),
        (MapOf[parameters.Int, fields.Int], {"1": 1, "01": 1}, "must not repeat"),
        (MapOf[parameters.Int, fields.Int], {f"{each}x": "x" for each in range(1001)}, "at most 1000 items, not 1001"),
        (MapOf[parameters.Int, fields.Int], [], "Input should be an object"),
        (ListOf[fields.Int], {}, "Input should be an array"),
        (FEW_FLOATS, [1], "Array should have at least 2 items, not 1"),
    ],
)
def test_messages_name_the_rule(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body_of(kind).model_validate({"value": value})
    (error,) = caught.value.errors
    assert message in error["msg"]


@pytest.mark.parametrize(("kind", "value"), [(fields.Boolean, "true"), (fields.Int, "5"), (fields.Text, b"a")])
def test_types_are_strict_in_every_model(kind: Any, value: Any) -> None:
    """A type needs no Body around it, for example in a model that is part of a body."""
    with pytest.raises(ValueError, match="Input should be a valid"):
        TypeAdapter(kind).validate_python(value)


def test_absent_collections_are_empty_and_not_shared() -> None:
    model = create_model("Example", __base__=Body, tags=(SetOf[fields.Text], []), note=(fields.Text | None, None))
    first, second = model.model_validate({}), model.model_validate({})
    assert first.model_dump() == {"tags": [], "note": None}
    assert first.tags is not second.tags  # type: ignore[attr-defined]


def test_schema_keeps_the_bounds_of_a_field() -> None:
    model = create_model(
        "Example",
        __base__=Body,
        share=(Annotated[fields.Double, Field(ge=0, lt=1)], ...),
        codes=(MapOf[parameters.Uuid, fields.Int], ...),
    )
    properties = model.model_json_schema()["properties"]
    assert properties["share"] == {"title": "Share", "type": "number", "minimum": 0, "exclusiveMaximum": 1}
    assert properties["codes"]["propertyNames"]["format"] == "uuid"
    assert "patternProperties" not in properties["codes"]
