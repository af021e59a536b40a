"""Field types that resources share, each with its rule and its JSON Schema."""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from datetime import date, datetime
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Annotated, Any, TypeVar
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    HttpUrl,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from schemas import formats
from schemas.formats import DurationValue as DurationValue

# The greatest value of a CQL int.
MAX_INT = 2**31 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Invisible characters: control and format characters and white space (Unicode categories Cc, Cf, Zs, Zl and Zp), all
# that Unicode calls default ignorable, and the empty Braille pattern. Characters above U+FFFF stand in the JSON Schema
# without an escape, because Python and ECMAScript have no common escape for them.
_INVISIBLE = (
    r"\x00-\x20\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5"
    r"\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_BLANK = re.compile(f"[{_INVISIBLE}]*")


def _text(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("Text must not contain control characters")
    if _BLANK.fullmatch(value):
        raise ValueError("Text must not be blank: it must have a visible character")
    return value


def _segment(value: str) -> str:
    if "/" in value or value in (".", ".."):
        raise ValueError("Text must not contain '/' nor be '.' or '..': it is part of a URL")
    return _text(value)


# The same rules in JSON Schema, for the OpenAPI document.
_BLANK_SCHEMA = {"pattern": f"^{_BLANK.pattern}$"}
_TEXT_SCHEMA = {"pattern": r"^[^\x00-\x1f\x7f-\x9f]+$", "not": _BLANK_SCHEMA}
_SEGMENT_SCHEMA = {
    "pattern": r"^[^/\x00-\x1f\x7f-\x9f]+$",
    "not": {"anyOf": [_BLANK_SCHEMA, {"enum": [".", ".."]}]},
}

_Length = StringConstraints(min_length=1, max_length=100)

# Text of 1 to 100 characters, at least one of them visible, without control characters.
Name = Annotated[str, _Length, AfterValidator(_text), Field(json_schema_extra=_TEXT_SCHEMA)]

# A name that is also a segment of the resource's URL.
Segment = Annotated[str, _Length, AfterValidator(_segment), Field(json_schema_extra=_SEGMENT_SCHEMA)]

# A whole number from 0 that fits a CQL int.
Count = Annotated[int, Field(ge=0, le=MAX_INT)]

# Most addresses have this form: the local part needs no normalization, so only its length and the domain are checked.
_PLAIN_EMAIL = re.compile(r"([a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*)@((?!.*xn--)[a-z0-9.-]+)", re.ASCII)
# Bytes of a local part (RFC 5321, 4.5.3.1.1). email_validator checks the lengths of the domain and the whole address.
_MAX_LOCAL_PART = 64
# Part of a domain that is longer than any label. These four characters separate labels. The conversion of a label to
# ASCII takes quadratic time.
_LONG_LABEL = re.compile(r"[^.\u3002\uff0e\uff61]{64}")


def _email(value: str) -> str:
    # pydantic's EmailStr accepts "Ada <ada@example.org>" and drops the name without an error.
    try:
        plain = _PLAIN_EMAIL.fullmatch(value)
        if plain and len(plain[1]) <= _MAX_LOCAL_PART:
            return f"{plain[1]}@{_email_domain(plain[2])}"
        if _LONG_LABEL.search(value.rpartition("@")[2]):
            raise ValueError("The part after the @-sign is invalid: it has more than 63 characters without a period")
        address = validate_email(value, check_deliverability=False)
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None
    if len(address.local_part.encode()) > _MAX_LOCAL_PART:
        raise ValueError(f"The part before the @-sign is too long: it has more than {_MAX_LOCAL_PART} bytes")
    return address.normalized


@lru_cache(maxsize=1000)
def _email_domain(domain: str) -> str:
    """The normalized domain of an address. Cached: it is most of the work, and domains repeat.

    :raises EmailNotValidError: the domain is not valid.
    """
    return validate_email(f"a@{domain}", check_deliverability=False).domain


Email = Annotated[
    str, StringConstraints(max_length=254), AfterValidator(_email), Field(json_schema_extra={"format": "email"})
]

_http_url = TypeAdapter(HttpUrl)
_URL = re.compile(r"https?://[^/\s\x00-\x1f\x7f-\x9f][^\s\x00-\x1f\x7f-\x9f]*")


def _valid_url(value: str) -> str:
    # pydantic only checks the URL. The URL is stored as the client sent it, not in pydantic's normalized form.
    if not _URL.fullmatch(value):
        raise ValueError("A URL must begin with http:// or https:// and contain no spaces or control characters")
    _http_url.validate_python(value)
    return value


Url = Annotated[
    str,
    StringConstraints(max_length=2048),
    AfterValidator(_valid_url),
    Field(json_schema_extra={"format": "iri", "pattern": f"^{_URL.pattern}$"}),
]


# A whole number in a query string.
Number = Annotated[int, BeforeValidator(formats.whole_number)]

# --- CQL types ---------------------------------------------------------------------------------------------
#
# The JSON form of a type is the same in requests and responses. A request may also use another text of the same value,
# for example another UTC offset. The response has the canonical text.


def _string(pattern: re.Pattern[str], **keywords: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern.pattern})$", **keywords})


def _without_surrogates(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("Text must not contain lone surrogates") from None
    return value


def _ascii(value: str) -> str:
    if not value.isascii():
        raise ValueError("Text must contain only ASCII characters")
    return value


_CqlText = StringConstraints(strict=True, max_length=10_000)

Text = Annotated[str, _CqlText, AfterValidator(_without_surrogates)]
Ascii = Annotated[str, _CqlText, AfterValidator(_ascii), Field(json_schema_extra={"pattern": r"^[\x00-\x7f]*$"})]

# ASCII text that is also a segment of the resource's URL.
AsciiSegment = Annotated[
    Segment,
    AfterValidator(_ascii),
    Field(json_schema_extra={"pattern": r"^[ -.0-~]+$"}),
]

Boolean = Annotated[bool, Field(strict=True)]
TinyInt = Annotated[int, Field(strict=True, ge=-(2**7), lt=2**7)]
SmallInt = Annotated[int, Field(strict=True, ge=-(2**15), lt=2**15)]
Int = Annotated[int, Field(strict=True, ge=-(2**31), le=MAX_INT)]
# Strings, because many JSON parsers read numbers as doubles, which hold 53 bits.
BigInt = Annotated[int, PlainValidator(formats.bigint), _string(formats.BIGINT)]
VarInt = Annotated[int, PlainValidator(formats.varint), _string(formats.VARINT)]
Decimal = Annotated[
    decimal.Decimal, PlainValidator(formats.decimal), _string(formats.DECIMAL, maxLength=formats.MAX_DECIMAL_TEXT)
]
Float = Annotated[float, BeforeValidator(formats.single)]
Double = Annotated[float, BeforeValidator(formats.number)]

Timestamp = Annotated[datetime, PlainValidator(formats.timestamp), _string(formats.TIMESTAMP, format="date-time")]
Date = Annotated[date, PlainValidator(formats.calendar_date), _string(formats.DATE, format="date")]
Time = Annotated[str, PlainValidator(formats.time_of_day), _string(formats.TIME)]
Duration = Annotated[DurationValue, PlainValidator(formats.duration), _string(formats.DURATION)]

Inet = Annotated[
    str,
    PlainValidator(formats.inet),
    WithJsonSchema({"type": "string", "maxLength": 45, "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
Blob = Annotated[
    bytes,
    PlainValidator(formats.blob),
    _string(formats.BASE64, contentEncoding="base64", maxLength=formats.base64_length(formats.MAX_BLOB)),
]
# A blob that is also a segment of the resource's URL.
BlobSegment = Annotated[
    bytes,
    PlainValidator(formats.blob),
    AfterValidator(formats.short_blob),
    _string(formats.BASE64, contentEncoding="base64", minLength=4, maxLength=formats.base64_length(formats.MAX_KEY)),
]
Uuid = Annotated[UUID, PlainValidator(formats.uuid), _string(formats.UUID_TEXT, format="uuid")]
TimeUuid = Annotated[UUID, PlainValidator(formats.timeuuid), _string(formats.TIMEUUID, format="uuid")]

# --- Collections -------------------------------------------------------------------------------------------
#
# Elements and values are never null, because CQL collections hold no nulls.

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

_MAX_ELEMENTS = 1000
# Only the first invalid element is reported: nested collections could have hundreds of thousands.
_Size = Field(max_length=_MAX_ELEMENTS, fail_fast=True)


def _comparable(value: Any) -> Any:
    """The value of an element in a form that has an order."""
    if isinstance(value, list):
        return tuple(map(_comparable, value))
    if isinstance(value, dict):
        return tuple(sorted((key, _comparable(each)) for key, each in value.items()))
    return value


def _distinct(values: list[Any]) -> list[Any]:
    # Sorted, so that equal sets are equal lists when they are elements of another set. Not a dict or set, because the
    # hashes of numbers are no secret: a client could choose numbers whose hashes are all the same.
    ordered = sorted(((_comparable(value), value) for value in values), key=itemgetter(0))
    if any(one == next_one for (one, _), (next_one, _) in pairwise(ordered)):
        raise ValueError("Elements of a set must not repeat: two of them are the same value")
    return [value for _, value in ordered]


class _TextKeys:
    """Rules for the keys of a JSON object whose keys are text forms of CQL values."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    @staticmethod
    def _validate(value: Any, handler: Callable[[Any], dict[Any, Any]]) -> dict[Any, Any]:
        # pydantic would first validate all entries, and report an error for each.
        if isinstance(value, dict) and len(value) > _MAX_ELEMENTS:
            raise ValueError(f"Object should have at most {_MAX_ELEMENTS} items, not {len(value)}")
        result = handler(value)
        if len(result) != len(value):
            raise ValueError("Keys of a map must not repeat: two of them are the same value")
        return result

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        document = handler(schema)
        entries: Any = schema
        while entries["type"] != "dict":
            entries = entries["schema"]
        # In a tuple, because handler() ignores the JSON Schema of the annotations of the type itself.
        pair = handler(core_schema.tuple_schema([entries["keys_schema"], entries["values_schema"]]))
        keys, document["additionalProperties"] = pair["prefixItems"]
        # The schema of a parameter describes its value. A key is the value's text.
        document["propertyNames"] = _KEYS.get(keys.get("type", ""), keys)
        # pydantic writes the pattern of keys as patternProperties, which allows all other keys.
        document.pop("patternProperties", None)
        return document


_KEYS: dict[str, dict[str, Any]] = {
    "boolean": {"enum": ["false", "true"]},
    "integer": {"pattern": f"^{formats.WHOLE_NUMBER.pattern}$"},
    "number": {"pattern": f"^{formats.NUMBER.pattern}$"},
}

ListOf = Annotated[list[T], _Size]
# The value is a list without duplicates, in the order of its elements.
SetOf = Annotated[list[T], _Size, AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})]
# A JSON object. The type of its keys comes from `schemas.parameters`.
MapOf = Annotated[dict[K, V], _Size, _TextKeys()]


def optional(**arguments: Any) -> Any:
    """A field that may be absent but is never null in JSON. In Python an absent field is None.

    A default value of None would put null into the JSON Schema; a factory does not.

    :param arguments: passed to :func:`pydantic.Field`.
    """
    return Field(default_factory=lambda: None, **arguments)
