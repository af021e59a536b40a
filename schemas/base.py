"""Base classes of request models, their error, and the documents that resources share."""

from __future__ import annotations

from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.fields import optional

# JSON terms instead of pydantic's messages that name Python types.
_MESSAGES = {
    "model_type": "Input should be an object",
    "list_type": "Input should be an array",
    "extra_forbidden": "There is no such field",
}


class InvalidInput(Exception):
    """A value in a request is not valid. The response is 422 and names each value and its rule.

    :ivar errors: dicts with `loc`, `msg` and `type`, as in :class:`FieldError`.
    """

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = errors

    @classmethod
    def at(cls, where: str, name: str, message: str) -> InvalidInput:
        """The exception with one error.

        :param where: `header`, `query` or `body`.
        :param name: of the header, parameter or field.
        :param message: the rule.
        :param kind: the error type of pydantic that fits.
        """
        return cls([{"loc": [where, name], "msg": message, "type": "value_error"}])

    @classmethod
    def of(cls, where: str, error: ValidationError) -> InvalidInput:
        """The exception with all errors that pydantic found, without the client's values.

        :param where: `query` or `body`.
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


def _message(where: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden" and where == "query":
        return "There is no such parameter"
    return _MESSAGES.get(kind, message).removeprefix("Value error, ")


class Body(BaseModel):
    """Base of request bodies: JSON types are not converted, and unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate a body.

        :raises InvalidInput: names each field and its rule.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of("body", error) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Validate a body that is a JSON string.

        flask-openapi3 calls this with the string already parsed, so it is not parsed again.
        """
        return cls.model_validate(json_data)


class Query(BaseModel):
    """Base of query strings: text is converted to numbers, and unknown parameters are rejected."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate a query string.

        :raises InvalidInput: names each parameter and its rule.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of("query", error) from None

    @classmethod
    @cache
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The JSON Schema; cached, because flask-openapi3 calls this on every request."""
        return super().model_json_schema(*arguments, **options)


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
    errors: list[FieldError] = optional(description="Status 422 only: each value that is not valid.")
