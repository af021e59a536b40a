"""The operations and resources that an OpenAPI document describes, and the validation of responses against it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

import httpx
import jsonschema_rs
import schemathesis
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from tests.integration.values import Values

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
# The `limit` of a stream. Written out instead of "no limit", which not every stream has.
ALL_ROWS = 10**9

# Schemathesis's checks of a response, without those that need several requests.
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# Response headers that the document describes, but that are only sent in some cases.
CONDITIONAL_HEADERS = {"link", "retry-after", "www-authenticate"}
_PARAMETER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    description: dict[str, Any] = field(hash=False, compare=False)
    components: dict[str, Any] = field(hash=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @cached_property
    def path_parameters(self) -> list[str]:
        return _PARAMETER.findall(self.path)

    @cached_property
    def parameters(self) -> list[dict[str, Any]]:
        given = self.description.get("parameters", [])
        return [
            self.components["parameters"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in given
        ]

    def takes(self, name: str, where: str = "query") -> bool:
        """Return whether the operation has this parameter."""
        return any(each["name"] == name and each["in"] == where for each in self.parameters)

    def idempotency_header(self, key: str) -> dict[str, str]:
        """The header `Idempotency-Key`, if the operation takes it."""
        return {"Idempotency-Key": key} if self.takes("Idempotency-Key", "header") else {}

    @cached_property
    def success(self) -> tuple[int, dict[str, Any]]:
        """The documented status of success, and its description; status 0 if there is none."""
        found = [(int(code), each) for code, each in self.description["responses"].items() if code.startswith("2")]
        return min(found, key=lambda pair: pair[0]) if found else (0, {})

    @cached_property
    def media_types(self) -> list[str]:
        """The media types of a successful response."""
        return list(self.success[1].get("content", {}))

    @cached_property
    def body_schema(self) -> dict[str, Any] | None:
        """The schema of the JSON body; None if the operation has no JSON body."""
        content = self.description.get("requestBody", {}).get("content", {})
        return content[JSON].get("schema") if JSON in content else None

    @property
    def needs_token(self) -> bool:
        return bool(self.description.get("security"))

    @property
    def needs_account(self) -> bool:
        """Whether the operation is about the caller's own account, which an operator token does not have."""
        return self.needs_token and not any("operator" in each for each in self.description["security"])

    def url(self, values: dict[str, str]) -> str:
        """The path, with its parameters replaced by these values. :raises KeyError: a value is missing."""
        return _PARAMETER.sub(lambda match: quote(values[match[1]], safe=""), self.path)


@dataclass
class Resource:
    """Rows that a POST creates and that have a URL of their own."""

    name: str
    create: Operation
    # All other operations below the path of `create`.
    operations: list[Operation]
    item: str

    @property
    def all_operations(self) -> list[Operation]:
        return [self.create, *self.operations]

    def operation(self, method: str, path: str) -> Operation | None:
        return next((each for each in self.operations if (each.method, each.path) == (method, path)), None)

    @cached_property
    def get(self) -> Operation | None:
        return self.operation("GET", self.item)

    @cached_property
    def delete(self) -> Operation | None:
        return self.operation("DELETE", self.item)

    @cached_property
    def update(self) -> Operation | None:
        """PATCH or PUT of a row, if it accepts `If-Match`."""
        found = [self.operation(method, self.item) for method in ("PATCH", "PUT")]
        return next((each for each in found if each and each.takes("If-Match", "header")), None)

    @cached_property
    def batch(self) -> Operation | None:
        """The POST of up to 100 rows."""
        return next((each for each in self.operations if each.method == "POST" and _is_batch(each)), None)

    @cached_property
    def lists(self) -> Operation | None:
        """The GET that can stream all rows: those of the table, or those of the partition of a row."""
        found = [each for each in self.operations if each.method == "GET" and NDJSON in each.media_types]
        item = _PARAMETER.findall(self.item)
        usable = [each for each in found if set(each.path_parameters) < set(item)]
        # A list of users has pages, and a stream of users has no page_state.
        return min(usable, key=lambda each: each.takes("page_state") and not each.path_parameters, default=None)

    @property
    def versioned(self) -> bool:
        return self.update is not None

    @property
    def idempotent(self) -> bool:
        """Whether a POST can be repeated: it has a key of the service, or writes a row whose key the client chose."""
        return self.create.takes("Idempotency-Key", "header") or not self.generates_key

    @cached_property
    def generates_key(self) -> bool:
        """Whether the service chooses the key of a row."""
        properties = self._body_properties
        return not set(_PARAMETER.findall(self.item)) <= properties.keys()

    @cached_property
    def _body_properties(self) -> dict[str, Any]:
        values = Values(self.create.components, "")
        return dict(values.resolve(self.create.body_schema or {}).get("properties", {}))

    def body(self, values: Values, number: int, group: int | None = None) -> dict[str, Any]:
        """The body of a POST.

        :param group: rows of the same group are in the same partition. By default, the values decide.
        """
        body = values.body(self.create.body_schema or {}, number)
        if group is not None and self.lists is not None:
            for name in set(self.lists.path_parameters) & body.keys():
                body[name] = values.value(self._body_properties[name], name, group)
        return body

    def key_in(self, body: dict[str, Any]) -> dict[str, str]:
        """The values of the path parameters in the body of a POST, for a key that the client chooses.

        A blob in a path is base64url without padding.
        """
        key = {}
        for name in _PARAMETER.findall(self.item):
            value = body[name]
            if self._body_properties[name].get("contentEncoding") == "base64":
                value = value.replace("+", "-").replace("/", "_").rstrip("=")
            key[name] = value if isinstance(value, str) else json.dumps(value)
        return key

    def key_of(self, location: str) -> dict[str, str]:
        """The values of the path parameters in the `Location` of a row. :raises ValueError: it has another form."""
        pattern = _PARAMETER.sub("([^/?]+)", self.item)
        match = re.search(f"{pattern}$", location)
        if match is None:
            raise ValueError(f"Location {location!r} does not end like {self.item}")
        return dict(zip(_PARAMETER.findall(self.item), map(unquote, match.groups()), strict=True))


def _is_batch(operation: Operation) -> bool:
    schema = Values(operation.components, "").resolve(operation.body_schema or {})
    return schema.get("type") == "array" and not operation.path_parameters


class Document:
    """An OpenAPI document."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._schema = schemathesis.openapi.from_dict(content)
        self.title = str(content["info"]["title"])
        self.version = str(content["info"]["version"])
        self.components = content.get("components", {})
        self.operations = [
            Operation(method.upper(), path, description, self.components)
            for path, methods in content["paths"].items()
            for method, description in methods.items()
            if method in ("get", "put", "post", "delete", "patch", "head", "options")
        ]
        self.resources = list(self._resources())

    def resource(self, name: str) -> Resource | None:
        return next((each for each in self.resources if each.name == name), None)

    def _resources(self) -> Iterator[Resource]:
        for create in self.operations:
            below = [each for each in self.operations if each.path.startswith(create.path) and each is not create]
            # The path of a row is that of the POST and path parameters. The longest has the whole key.
            pattern = re.compile(re.escape(create.path) + r"(/\{[^{}]+\})+")
            items = sorted((each.path for each in below if pattern.fullmatch(each.path)), key=len)
            created = create.method == "POST" and "Location" in create.success[1].get("headers", {})
            if created and items and create.body_schema is not None:
                below = [each for each in below if each.path == create.path or each.path.startswith(f"{create.path}/")]
                name = (create.description.get("tags") or [create.path.strip("/")])[0]
                yield Resource(name, create, below, items[-1])

    def problems(self, operation: Operation, response: httpx.Response) -> list[str]:
        """How the response differs from the document."""
        found = []
        documented = operation.description["responses"].get(str(response.status_code), {})
        for name in documented.get("headers", {}):
            if name.lower() not in CONDITIONAL_HEADERS and name not in response.headers:
                found.append(f"the header {name} is missing")
        try:
            case = self._schema[operation.path][operation.method].Case(
                path_parameters=dict.fromkeys(operation.path_parameters, "-")
            )
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            found += [_one_line(f"{each.title}: {each.message}") for each in group.exceptions]
        if not found and response.is_success:
            found += self._stream_problems(documented, response)
        return found

    def _stream_problems(self, documented: dict[str, Any], response: httpx.Response) -> list[str]:
        """Compare rows of NDJSON and CSV with the schema of the JSON array. The document describes them as text."""
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        array = documented.get("content", {}).get(JSON, {}).get("schema", {})
        if media_type not in (NDJSON, CSV) or array.get("type") != "array":
            return []
        if media_type == NDJSON:
            schema = {**array["items"], "components": self.components}
            validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
            for number, line in enumerate(response.text.splitlines(), 1):
                try:
                    error = next(validator.iter_errors(json.loads(line)), None)
                except ValueError as broken:
                    return [f"line {number} is not JSON: {broken}"]
                if error is not None:
                    return [_one_line(f"line {number}: {error.message}")]
            return []
        rows = list(csv.reader(io.StringIO(response.text, newline="")))
        columns = Values(self.components, "").resolve(array["items"]).get("properties", {})
        if rows and set(rows[0]) != set(columns):
            return [f"the CSV header has the columns {', '.join(rows[0])}, not {', '.join(columns)}"]
        wrong = next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
        return [] if wrong is None else [f"row {wrong} of the CSV has another number of fields than the header"]


def _one_line(text: str) -> str:
    """The first paragraph of a message, at most 200 characters."""
    line = " ".join(text.split("\n\n")[0].split())
    return line if len(line) <= 200 else f"{line[:197]}..."
