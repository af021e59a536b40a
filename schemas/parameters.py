"""Types of path parts, query parameters and keys of maps, named after CQL.

Their values are text. Types whose JSON form is a string have the same text here. Blobs are in base64url, which needs no
escapes in a URL.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from schemas import formats
from schemas.fields import (
    MAX_INT,
    Ascii,
    AsciiSegment,
    BigInt,
    Date,
    Decimal,
    Duration,
    Inet,
    Number,
    Segment,
    Text,
    Time,
    Timestamp,
    TimeUuid,
    Uuid,
    VarInt,
)

__all__ = [
    "Ascii",
    "AsciiSegment",
    "BigInt",
    "Blob",
    "BlobSegment",
    "Boolean",
    "Date",
    "Decimal",
    "Double",
    "Duration",
    "Float",
    "Inet",
    "Int",
    "Segment",
    "SmallInt",
    "Text",
    "Time",
    "TimeUuid",
    "Timestamp",
    "TinyInt",
    "Uuid",
    "VarInt",
]

Boolean = Annotated[bool, BeforeValidator(formats.boolean)]
TinyInt = Annotated[Number, Field(ge=-(2**7), lt=2**7)]
SmallInt = Annotated[Number, Field(ge=-(2**15), lt=2**15)]
Int = Annotated[Number, Field(ge=-(2**31), le=MAX_INT)]
Float = Annotated[float, BeforeValidator(lambda text: formats.single(formats.number_of_text(text)))]
Double = Annotated[float, BeforeValidator(lambda text: formats.number(formats.number_of_text(text)))]
Blob = Annotated[
    bytes,
    PlainValidator(formats.blob_url),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64url",
            "pattern": f"^{formats.BASE64URL.pattern}$",
            "maxLength": formats.base64_length(formats.MAX_BLOB),
        }
    ),
]
BlobSegment = Annotated[
    bytes,
    PlainValidator(formats.blob_url),
    AfterValidator(formats.short_blob),
    WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64url",
            "pattern": f"^{formats.BASE64URL.pattern}$",
            "minLength": 2,
            "maxLength": formats.base64_length(formats.MAX_KEY),
        }
    ),
]
