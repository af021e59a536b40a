"""Base classes of request models, the error that they raise, and the documents that resources share."""

from __future__ import annotations

from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.fields import optional

# Messages in which pydantic speaks of Python types, in terms of JSON.
_MESSAGES = {
    "model_type": "Input should be an object",
    "list_type": "Input should be an array",
    "extra_forbidden": "There is no such field",
}


class InvalidInput(Exception):
    """A request breaks a rule of the contract. The response is 422 and names each field and its rule.

    :ivar errors: dicts with `loc`, `msg` and `type`, as in :class:`FieldError`.
    """

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors)
        self.errors = errors

    @classmethod
    def at(cls, where: str, name: str, message: str, kind: str = "value_error") -> InvalidInput:
        """One error.

        :param where: `header`, `query` or `body`.
        """
        return cls([{"loc": [where, name], "msg": message, "type": kind}])

    @classmethod
    def of(cls, where: str, error: ValidationError) -> InvalidInput:
        """All errors that pydantic found, without the values that the client sent.

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
    """Base of request bodies: JSON types are not converted, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """:raises InvalidInput: names each field and its rule."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of("body", error) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Validate without parsing: flask-openapi3 calls this when the whole body is one JSON string."""
        return cls.model_validate(json_data)


class Query(BaseModel):
    """Base of query strings: text is converted to numbers, and unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """:raises InvalidInput: names each parameter and its rule."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise InvalidInput.of("query", error) from None

    @classmethod
    @cache
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Cached, because flask-openapi3 calls this on every request."""
        return super().model_json_schema(*arguments, **options)


class Inserted(BaseModel):
    """The response to a write that inserts or replaces a row."""

    inserted: bool


class FieldError(BaseModel):
    """One value that breaks a rule."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """An error document of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None
    errors: list[FieldError] = optional(description="Status 422 only: each value that breaks a rule.")
