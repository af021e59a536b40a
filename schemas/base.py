"""Base classes of request models, their error, and the documents that resources share."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema

from schemas.fields import Number, optional

# JSON terms instead of pydantic's messages that name Python types.
_MESSAGES = {
    "model_type": "Input should be an object",
    "list_type": "Input should be an array",
    "dict_type": "Input should be an object",
    "extra_forbidden": "There is no such field",
}

# Limits of an error response, so that it is never much larger than the request: the number of errors in it, and the
# characters of a name or a message.
MAX_ERRORS = 100
_MAX_TEXT = 500


class InvalidInput(Exception):
    """A value in a request is not valid. The response is 422 and names the values and their rules.

    :ivar errors: the first MAX_ERRORS errors: dicts with `loc`, `msg` and `type`, as in :class:`FieldError`.
    :ivar count: number of all errors.
    """

    def __init__(self, errors: list[dict[str, Any]], count: int | None = None) -> None:
        """Create the exception.

        :param count: number of all errors, if `errors` has only the first ones.
        """
        self.count = len(errors) if count is None else count
        self.errors = [
            {"loc": [_shortened(part) for part in each["loc"]], "msg": _shortened(each["msg"]), "type": each["type"]}
            for each in errors[:MAX_ERRORS]
        ]
        super().__init__(self.errors)

    @classmethod
    def at(cls, where: str, name: str, message: str) -> InvalidInput:
        """The exception with one error.

        :param where: `header`, `path`, `query` or `body`.
        :param name: of the header, parameter or field.
        :param message: the rule.
        """
        return cls([{"loc": [where, name], "msg": message, "type": "value_error"}])

    @classmethod
    def of(cls, where: str, error: ValidationError) -> InvalidInput:
        """The exception with the errors that pydantic found, without the client's values.

        :param where: `path`, `query` or `body`.
        """
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return cls(
            [
                {
                    "loc": [where, *item["loc"]],
                    "msg": _message(where, item["type"], item["msg"]),
                    "type": item["type"],
                }
                for item in found
            ]
        )


def _shortened(text: Any) -> Any:
    """The text without its end if it is very long. Names of unknown fields and keys of maps come from the client.

    Positions in arrays are numbers and stay as they are.
    """
    return f"{text[:_MAX_TEXT]}…" if isinstance(text, str) and len(text) > _MAX_TEXT else text


def _message(where: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden" and where == "query":
        return "There is no such parameter"
    if kind in ("too_short", "too_long"):
        # "List should have at most 3 items after validation, not 4"
        message = message.replace("List", "Array").replace("Dictionary", "Object").replace(" after validation", "")
    return _MESSAGES.get(kind, message).removeprefix("Value error, ")


class RuleJsonSchema(GenerateJsonSchema):
    """JSON Schema with the bounds of types that have their own validator.

    pydantic does not convert these bounds to JSON Schema.
    """

    _KEYWORDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        # pydantic writes Field(ge=0) as {"ge": 0} there. The caller needs the same object back.
        document = super().generate_inner(schema)
        for name, keyword in self._KEYWORDS.items():
            if name in document:
                document[keyword] = document.pop(name)
        return document


class _TextJsonSchema(RuleJsonSchema):
    """JSON Schema of a path or query string. A parameter may be absent, but is never null."""

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])


class _Input(BaseModel):
    """Base of the models of client input: validation raises InvalidInput."""

    # First element of `loc` in errors.
    _part: ClassVar[str]
    _schema_generator: ClassVar[type[GenerateJsonSchema]] = RuleJsonSchema

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate the input.

        :raises InvalidInput: names each field or parameter and its rule.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of(cls._part, error) from None

    @classmethod
    @cache
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The JSON Schema; cached, because flask-openapi3 calls this on every request with a query string."""
        return super().model_json_schema(*arguments, **{"schema_generator": cls._schema_generator, **options})


class Body(_Input):
    """Base of request bodies: JSON types are not converted, and unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", strict=True)
    _part = "body"

    @model_validator(mode="before")
    @classmethod
    def _has_few_unknown_fields(cls, value: Any) -> Any:
        # pydantic would report each unknown field, which takes more time than to parse the whole body.
        if isinstance(value, dict) and len(value) > MAX_ERRORS and cls.model_config.get("extra") == "forbid":
            known = len(cls.model_fields)
            if len(value) > known + MAX_ERRORS:
                raise ValueError(f"Object should have at most {known} fields, not {len(value)}")
        return value

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Validate a body that is a JSON string.

        flask-openapi3 calls this with the string already parsed, so it is not parsed again.
        """
        return cls.model_validate(json_data)


class Path(_Input):
    """Base of paths. The types of the fields are those of `schemas.parameters`."""

    _part = "path"
    _schema_generator = _TextJsonSchema


class Query(_Input):
    """Base of query strings: unknown parameters are rejected.

    The types of the fields are those of `schemas.parameters`.
    """

    model_config = ConfigDict(extra="forbid")
    _part = "query"
    _schema_generator = _TextJsonSchema


class ListQuery(Query):
    """Query parameters of a list of rows.

    Subclasses add `from` and `to`: a range over the first clustering column.
    """

    order: Literal["asc", "desc"] | None = optional(
        description="Order of the first clustering column; by default that of the table."
    )
    limit: Annotated[Number, Field(ge=1, le=1000)] | None = optional(
        description="Number of rows in this response, whose `Link` header has the next page. By default all rows."
    )
    page_state: str | None = optional(description="From the `Link` header of the previous response; needs `limit`.")

    @field_validator("page_state")
    @classmethod
    def _needs_limit(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Without it, a client that drops `limit` by mistake would get all rows again.
        if value is not None and info.data.get("limit", 0) is None:
            raise ValueError("page_state needs the limit of the request that returned it")
        return value


class Inserted(BaseModel):
    """The response to a write that inserts or replaces a row."""

    inserted: bool


class FieldError(BaseModel):
    """One value that is not valid, and the rule that it breaks."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """An error document (RFC 9457, problem details)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None
    errors: list[FieldError] = optional(
        max_length=MAX_ERRORS,
        description="Status 422 only: the values that are not valid. If there are more, `detail` has their number.",
    )
