"""What comes in and what goes out, as pydantic models: the rules of the contract and the schemas of its document."""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Self
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from web.errors import InvalidInput

MAX_INT = 2**31 - 1

# --- rules for one value -----------------------------------------------------------------------------------

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


# The same rules for the readers of the OpenAPI document.
_TEXT_SCHEMA = {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"}
_SEGMENT_SCHEMA = {
    "pattern": r"^[^/\x00-\x1f\x7f-\x9f]*[^/\s\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*$",
    "not": {"enum": [".", ".."]},
}

_Length = StringConstraints(min_length=1, max_length=100)
Name = Annotated[str, _Length, AfterValidator(_text), Field(json_schema_extra=_TEXT_SCHEMA)]
Segment = Annotated[str, _Length, AfterValidator(_segment), Field(json_schema_extra=_SEGMENT_SCHEMA)]


# What most addresses are: nothing in them has to be brought into a normal form before it is measured.
_PLAIN_EMAIL = re.compile(r"([a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*)@((?!.*xn--)[a-z0-9.-]+)", re.ASCII)


def _email(value: str) -> str:
    # Not pydantic's own type, which takes "Ada <ada@example.org>" and drops the name without a word.
    try:
        plain = _PLAIN_EMAIL.fullmatch(value)
        if plain and len(plain[1]) <= 64:
            return f"{plain[1]}@{_domain(plain[2])}"
        return validate_email(value, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


@lru_cache(maxsize=1000)
def _domain(domain: str) -> str:
    """The domain of an address in its normal form. Checking it is most of the work, and the same ones come again.

    :raises EmailNotValidError: it can't be one.
    """
    return validate_email(f"a@{domain}", check_deliverability=False).domain


Email = Annotated[
    str, StringConstraints(max_length=254), AfterValidator(_email), Field(json_schema_extra={"format": "email"})
]

_http_url = TypeAdapter(HttpUrl)
_URL = re.compile(r"https?://[^/\s\x00-\x1f\x7f-\x9f][^\s\x00-\x1f\x7f-\x9f]*")


def _valid_url(value: str) -> str:
    # Checked, and kept as it was sent.
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
Sightings = Annotated[int, Field(ge=0, le=MAX_INT)]
Age = Annotated[int, Field(ge=0, le=150)]


def _digits(value: object) -> object:
    # int() takes 1_0, 5.0 and digits of every script.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,20}", value):
        raise ValueError("Input should be a whole number")
    return value


# A number in a query string.
Number = Annotated[int, BeforeValidator(_digits)]


def optional(**arguments: Any) -> Any:
    """A field that may be left out, but is never null in JSON; its absence is None in Python.

    A factory, unlike a default, does not appear in the schema.
    """
    return Field(default_factory=lambda: None, **arguments)


# --- where models meet the request -------------------------------------------------------------------------


class Body(BaseModel):
    """Base of request bodies: JSON types are taken as they are, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """:raises InvalidInput: naming each field and its rule."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of("body", error) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Never parses: what arrives here is a body that is one JSON string, which may itself look like JSON."""
        return cls.model_validate(json_data)


class Query(BaseModel):
    """Base of query strings: all text, so that numbers are parsed; unknown names are refused."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """:raises InvalidInput: naming each parameter and its rule."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of("query", error) from None

    @classmethod
    @cache
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Cached, because flask-openapi3 asks for it with every request."""
        return super().model_json_schema(*arguments, **options)


# --- animals and plants ------------------------------------------------------------------------------------


class Animal(Body):
    genus: Segment
    species: Segment
    image_url: Url | None = None
    size_cm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sightings: Sightings = 0
    taxonomy: Annotated[list[Name], Field(max_length=100)] = []


class Plant(Body):
    genus: Segment
    species: Segment
    sightings: Sightings = 0


class GenusPath(BaseModel):
    genus: str = Field(description="First part of the Latin name, for example `Vulpes`.")


class SpeciesPath(GenusPath):
    species: str = Field(description="Second part of the Latin name, for example `zerda`.")


class Inserted(BaseModel):
    inserted: bool


# --- users -------------------------------------------------------------------------------------------------


class NewUser(Body):
    name: Name
    email: Email
    age: Age


class UserChanges(Body):
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name = optional()
    email: Email = optional()
    age: Age = optional()

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("Give at least one of name, email and age")
        return self


class UserBatch(RootModel[Annotated[list[NewUser], Field(min_length=1, max_length=100)]], Body):
    """1 to 100 users."""

    model_config = ConfigDict(extra=None)


class User(BaseModel):
    id: UUID
    name: str
    email: str
    age: int
    created_at: datetime
    updated_at: datetime


class UsersCreated(BaseModel):
    created: int
    users: list[User]


class UsersPage(BaseModel):
    users: list[User]
    has_more: bool
    page_state: str | None


class UserPath(BaseModel):
    id: str = Field(description="UUID of the user.")


class UserListQuery(Query):
    limit: Annotated[Number, Field(ge=1, le=100, description="Users in this answer.")] = 10
    page_state: str = optional(description="From the `Link` header of the answer before.")


class UserStreamQuery(Query):
    limit: Annotated[Number, Field(ge=0, description="Users in all; there is no upper limit.")] = 1000
    fetch_size: Annotated[Number, Field(ge=10, le=5000, description="Rows a page from Cassandra.")] = 1000
    age_filter: Annotated[Number, Field(ge=0, le=150)] = optional(description="Minimum age.")


class UserPageQuery(Query):
    fetch_size: Annotated[Number, Field(ge=10, le=5000, description="Users in this answer.")] = 100
    age_filter: Annotated[Number, Field(ge=0, le=150)] = optional(description="Minimum age.")
    page_state: str = optional(description="From the answer before.")


# --- the service -------------------------------------------------------------------------------------------


class FilePath(BaseModel):
    filename: str


class Home(BaseModel):
    message: str
    version: str
    docs: str
    openapi: str
    health: str
    metrics: str
    resources: dict[str, str]


class Nodes(BaseModel):
    up: int
    down: int


class Health(BaseModel):
    status: str
    cassandra: str
    keyspace: str
    nodes: Nodes
    timestamp: datetime


class Live(BaseModel):
    status: str


class Message(BaseModel):
    message: str


class Latency(BaseModel):
    """Milliseconds, estimated from a histogram; null before the first."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


class Metrics(BaseModel):
    total_queries: int = Field(description="Answers of Cassandra; of a stream, each page.")
    active_connections: int = Field(description="Open connections to nodes.")
    queries_per_second: float = Field(description="Over the last 60 seconds.")
    average_query_time_ms: float
    errors_count: int = Field(description="Exceptions of the Cassandra driver.")
    total_requests: int = Field(description="Answers to clients.")
    requests_in_flight: int = Field(description="Those that take a slot now.")
    request_latency_ms: Latency
    query_latency_ms: Latency
    workers: int = Field(description="Processes that have counted, and live.")


class FieldError(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None
    errors: list[FieldError] = optional(description="With 422: each value that breaks a rule.")
