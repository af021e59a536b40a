"""Field types that resources share, each with its rule and its JSON Schema."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, StringConstraints, TypeAdapter

# The greatest value of a CQL int.
MAX_INT = 2**31 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _text(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("Text must not contain control characters")
    if not value.strip():
        raise ValueError("Text must not be blank")
    return value


def _segment(value: str) -> str:
    if "/" in value or value in (".", ".."):
        raise ValueError("Text must not contain '/' nor be '.' or '..': it is part of a URL")
    return _text(value)


# The same rules in JSON Schema, for the OpenAPI document.
_TEXT_SCHEMA = {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"}
_SEGMENT_SCHEMA = {
    "pattern": r"^[^/\x00-\x1f\x7f-\x9f]*[^/\s\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*$",
    "not": {"enum": [".", ".."]},
}

_Length = StringConstraints(min_length=1, max_length=100)

# Text of 1 to 100 characters, not blank, without control characters.
Name = Annotated[str, _Length, AfterValidator(_text), Field(json_schema_extra=_TEXT_SCHEMA)]

# A name that is also a segment of the resource's URL.
Segment = Annotated[str, _Length, AfterValidator(_segment), Field(json_schema_extra=_SEGMENT_SCHEMA)]

# A whole number from 0 that fits a CQL int.
Count = Annotated[int, Field(ge=0, le=MAX_INT)]

# Most addresses have this form: the local part needs no normalization, so only its length and the domain are checked.
_PLAIN_EMAIL = re.compile(r"([a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*)@((?!.*xn--)[a-z0-9.-]+)", re.ASCII)
_MAX_LOCAL_PART = 64


def _email(value: str) -> str:
    # pydantic's EmailStr accepts "Ada <ada@example.org>" and drops the name without an error.
    try:
        plain = _PLAIN_EMAIL.fullmatch(value)
        if plain and len(plain[1]) <= _MAX_LOCAL_PART:
            return f"{plain[1]}@{_email_domain(plain[2])}"
        return validate_email(value, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


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
    Field(json_schema_extra={"format": "uri", "pattern": f"^{_URL.pattern}$"}),
]


def _digits(value: object) -> object:
    # pydantic also accepts 1_0, 5.0, +5 and surrounding spaces.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,20}", value):
        raise ValueError("Input should be a whole number")
    return value


# A whole number in a query string.
Number = Annotated[int, BeforeValidator(_digits)]


def optional(**arguments: Any) -> Any:
    """A field that may be absent but is never null in JSON. In Python an absent field is None.

    A default value of None would put null into the JSON Schema; a factory does not.

    :param arguments: passed to :func:`pydantic.Field`.
    """
    return Field(default_factory=lambda: None, **arguments)
