"""Requests of a hostile client, generated from the routes and the OpenAPI document of an application.

A request starts out valid and is then changed in one to three places: method, target, query string, headers, body or
framing. Its number alone decides about it: the same number gives the same request, apart from the ids of the rows.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import jsonschema_rs
import orjson

from tests.sockets import MAX_BODY_BYTES

# Bytes of a value that can end the head early, or make the server refuse it.
BREAKS_HEAD = b"\r\n\x00"

# These routes take seconds on purpose.
SLOW = {"/slow_query", "/long_running_query"}
# These take up to a second: one of 50 requests for them is kept.
EXPENSIVE = re.compile(r"/performance/|/context_manager_safety/(?!status)")
EXPENSIVE_SHARE = 0.02


def _read_values(path: Path) -> dict[str, list[bytes]]:
    """The sections of a file with values; its first lines explain the form."""
    found = {}
    for section in path.read_text().split("\n== ")[1:]:
        name, _, words = section.partition(" ==\n")
        found[name] = [_value(word) for word in words.split()]
    return found


def _value(word: str) -> bytes:
    while word != (word := re.sub(r"⟨([^⟨⟩]+)×(\d+)⟩", lambda found: found[1] * int(found[2]), word)):
        pass
    text = word.replace("∅", "").replace("␠", " ")
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


VALUES = _read_values(Path(__file__).with_name("hostile_values.txt"))
HEADERS = [re.sub("^header ", "", name) for name in VALUES if re.fullmatch("header [^ ]+", name)]


class Route(NamedTuple):
    """A method and a path of the application, with what the document says about it."""

    method: str
    path: str
    operation: dict[str, Any]

    def parameters(self, where: str) -> dict[str, Any]:
        """The schemas of the parameters in the query string or the path, by name."""
        found = [each for each in self.operation.get("parameters", ()) if each.get("in") == where]
        return {each["name"]: each["schema"] for each in found}

    @property
    def body(self) -> dict[str, Any] | None:
        """The schema of the request body."""
        content = self.operation.get("requestBody", {}).get("content", {})
        return content.get("application/json", {}).get("schema")

    @property
    def creates_a_row(self) -> bool:
        """Whether the response names the path of a new row."""
        return "Location" in self.operation.get("responses", {}).get("201", {}).get("headers", {})

    def has_header(self, name: str) -> bool:
        """Whether the document lists a request header."""
        return any(each.get("$ref", "").endswith(f"/{name}") for each in self.operation.get("parameters", ()))


def routes_of(app: Any, document: dict[str, Any]) -> list[Route]:
    """All routes of an application, also those that its document leaves out."""
    routes = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<:]+:)?([^>]+)>", r"{\1}", rule.rule)
        if path not in SLOW:
            operations = document["paths"].get(path, {})
            methods = sorted(rule.methods - {"HEAD", "OPTIONS"})
            routes += [Route(method, path, operations.get(method.lower(), {})) for method in methods]
    return routes


@dataclass
class Request:
    """A request, and what its response has to be.

    :ivar alone: the server may see another end of the request than the client, so it has a connection of its own.
    :ivar refused: why the status must be at least 400 if the request reaches its view, by the part of the request.
    """

    number: int
    route: Route
    path: bytes
    method: bytes = b""
    query: bytes | None = None
    version: bytes = b"HTTP/1.1"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes | None = None
    is_chunked: bool = False
    framing: bytes | None = None
    alone: bool = False
    has_view: bool = True
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """The bytes to send."""
        target = self.path if self.query is None else self.path + b"?" + self.query
        lines = [b" ".join([self.method, target, self.version]), *(b": ".join(header) for header in self.headers)]
        body = self.body or b""
        if self.framing is not None:
            lines.append(self.framing)
        elif self.is_chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        if self.is_chunked:
            half = len(body) // 2
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
            body += b"0\r\n\r\n"
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    @property
    def must_fail(self) -> str:
        """Why the status must be at least 400; empty if it need not be."""
        if self.version == b"HTTP/1.1" and all(name != b"Host" for name, _ in self.headers):
            return "HTTP/1.1 without Host"
        if self.path.startswith(b"/"):
            try:
                unquote_to_bytes(re.split(rb"[?#]", self.path)[0]).decode()
            except UnicodeDecodeError:
                return "the path is not UTF-8"
        return next(iter(self.refused.values()), "") if self.has_view else ""

    @property
    def may_be_unavailable(self) -> bool:
        """Whether 503 and 504 are right: the client asks for a deadline or a consistency level."""
        return any(name in (b"X-Request-Timeout", b"X-Consistency-Level") for name, _ in self.headers)

    @property
    def request_id(self) -> str | None:
        """The id that the response must repeat; None if the request has none or a changed one."""
        given = [value.decode("latin-1") for name, value in self.headers if name.lower() == b"x-request-id"]
        return given[0] if given == [f"hostile-{self.number}"] else None

    def set_header(self, name: str, value: bytes) -> None:
        """Add a header in place of those of the same name."""
        self.headers = [header for header in self.headers if header[0].lower() != name.lower().encode()]
        self.headers.append((name.encode(), value))


class Generator:
    """Creates the requests for one application.

    :param rows: paths of rows that the requests may change, such as `/find/a/b`.
    """

    def __init__(self, routes: Sequence[Route], document: dict[str, Any], rows: Sequence[str], seed: int) -> None:
        self._document = document
        self._seed = seed
        self._rows = rows
        cheap = [route for route in routes if not EXPENSIVE.match(route.path)]
        self._routes = {True: [route for route in routes if EXPENSIVE.match(route.path)] or cheap, False: cheap}
        self._changes: list[tuple[int, Callable[[Request, Random], None]]] = [
            (2, self._change_method),
            (6, self._change_target),
            (4, self._change_query),
            (8, self._change_header),
            (6, self._change_body),
            (1, self._change_framing),
        ]
        self._validators = {
            name: jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": components})
            for components in [document["components"]]
            for name in components["schemas"]
        }

    def create(self, number: int) -> Request:
        """The request with this number."""
        random = Random(f"{self._seed} {number}")
        request = self._valid(random.choice(self._routes[random.random() < EXPENSIVE_SHARE]), number, random)
        weights, changes = zip(*self._changes, strict=True)
        for change in random.choices(changes, weights, k=random.choice((0, 1, 1, 1, 1, 2, 2, 3))):
            change(request, random)
        self._judge_body(request)
        if request.alone and request.method == b"HEAD":
            # If the server can't parse the head, its response has a body.
            request.method = b"GET"
        return request

    # --- valid requests --------------------------------------------------------------------------------------

    def _valid(self, route: Route, number: int, random: Random) -> Request:
        request = Request(number, route, self._path(route, random), route.method.encode())
        request.headers = [(b"Host", b"localhost"), (b"X-Request-ID", b"hostile-%d" % number)]
        query = {name: self.value(schema, random) for name, schema in route.parameters("query").items()}
        query = {name: value for name, value in query.items() if name != "page_state" and random.random() < 0.4}
        if query:
            request.query = "&".join(f"{name}={value}" for name, value in query.items()).encode()
        if route.body is not None:
            request.headers.append((b"Content-Type", b"application/json"))
            request.body = json.dumps(self.value(route.body, random)).encode()
            request.is_chunked = random.random() < 0.2
        return request

    def _path(self, route: Route, random: Random) -> bytes:
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route.path)))
        known = [path for path in self._rows if pattern.fullmatch(path)]
        if known and random.random() < 0.5:
            return random.choice(known).encode()
        return re.sub(r"\{\w+\}", lambda _: self._word(random), route.path).encode()

    def value(self, schema: dict[str, Any], random: Random) -> Any:
        """A value that is valid by a JSON schema."""
        if "$ref" in schema:
            return self.value(self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], random)
        if "anyOf" in schema:
            return self.value(random.choice(schema["anyOf"]), random)
        if "enum" in schema:
            return random.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                required = schema.get("required") or list(schema["properties"])
                fields = schema["properties"].items()
                return {name: self.value(each, random) for name, each in fields if name in required}
            case "array":
                return [self.value(schema["items"], random) for _ in range(random.randint(1, 3))]
            case "integer" | "number":
                least = int(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
                return random.randint(least, min(int(schema.get("maximum", least + 100)), least + 100))
            case "boolean":
                return random.random() < 0.5
            case "null":
                return None
        match schema.get("format"):
            case "email":
                return f"{self._word(random)}@example.org"
            case "uri":
                return f"https://example.org/{self._word(random)}"
        return self._word(random)

    def _word(self, random: Random) -> str:
        return "".join(random.choices(string.ascii_lowercase, k=8))

    # --- changes ---------------------------------------------------------------------------------------------

    def _change_method(self, request: Request, random: Random) -> None:
        request.method, request.has_view = random.choice(VALUES["methods"]), False

    def _change_target(self, request: Request, random: Random) -> None:
        # The changed path may belong to no route, or to one with other rules.
        request.has_view = False
        if random.random() < 0.2 or not request.path.startswith(b"/"):
            request.path = random.choice(VALUES["targets"]).replace(b"PATH", request.path)
            return
        segments = request.path.split(b"/")
        parameters = [place for place, name in enumerate(request.route.path.split("/")) if "{" in name]
        match random.randrange(8):
            case 0:
                segments.insert(
                    random.randrange(1, len(segments) + 1), random.choice((b"", b".", b"..", b"%2e%2e", b"x"))
                )
            case 1:
                segments[-1] += random.choice(VALUES["suffixes of paths"])
            case 2:
                segments[-1] = random.choice(VALUES["invalid utf-8"])
            case _:
                place = random.choice([place for place in parameters if place < len(segments)] or [len(segments) - 1])
                segments[place] = random.choice(VALUES["segments and parameters"])
        request.path = b"/".join(segments)

    def _change_query(self, request: Request, random: Random) -> None:
        parameters = request.route.parameters("query")
        name = random.choice([*parameters, "unknown"])
        pairs, refused = [request.query] if request.query else [], ""
        match random.randrange(5):
            case 0:
                pairs.append(random.choice(VALUES["query strings"]))
            case 1:
                pairs = [f"{name}=1&{name}=1".encode()]
                refused = f"repeated parameter {name}"
            case 2:
                pairs = [b"unknown=1"]
                refused = "unknown parameter" if parameters else ""
            case 3:
                pairs = [f"{name}=".encode() + random.choice(VALUES["segments and parameters"])]
            case 4:
                wrong = random.choice(VALUES["no numbers"])
                pairs = [f"{name}=".encode() + wrong]
                if parameters.get(name, {}).get("type") == "integer":
                    refused = f"{name} is {wrong[:20]!r}"
        request.refused.pop("query", None)
        if refused:
            request.refused["query"] = refused
        request.query = b"&".join(pairs)

    def _change_header(self, request: Request, random: Random) -> None:
        name = random.choice(HEADERS)
        accepted, refused = VALUES[f"header {name}"], VALUES.get(f"header {name} refused", [])
        request.refused.pop(name, None)
        choice = random.random()
        if choice < 0.45:
            value = random.choice(accepted)
        elif choice < 0.75 and refused:
            value = random.choice(refused)
            if name not in ("Idempotency-Key",) or request.route.has_header(name):
                request.refused[name] = f"{name} is {value[:40]!r}"
        else:
            value = random.choice(VALUES["any header"])
        if any(byte in value for byte in BREAKS_HEAD):
            request.alone = True
        if random.random() < 0.9:
            request.set_header(name, value)
        else:
            request.headers.append((name.encode(), value))
            # Two values are joined, or the server refuses them.
            request.refused.pop(name, None)
        if name == "Connection":
            # The server may end the connection after the response.
            request.alone = True
        if random.random() < 0.03:
            request.headers = [header for header in request.headers if header[0] != b"Host"]

    def _change_body(self, request: Request, random: Random) -> None:
        schema = request.route.body
        if schema is None:
            request.body = random.choice(VALUES["bodies"]) or b"{}"
            return
        request.refused.pop("size", None)
        document = self.value(schema, random)
        text = json.dumps(document).encode()
        match random.randrange(6):
            case 0:
                request.body = random.choice(VALUES["bodies"])
            case 1:
                position = random.randrange(len(text))
                request.body = (
                    text[:position] + random.choice(VALUES["bytes in a body"]) + text[position + random.randrange(2) :]
                )
            case 2:
                request.body = text + b" " * (MAX_BODY_BYTES + 1 - len(text))
                request.refused["size"] = "the body is over the limit"
            case _:
                request.body = self._with_field_changed(document, random)

    def _with_field_changed(self, document: Any, random: Random) -> bytes:
        """A body with a field that is replaced, missing, unknown, repeated or renamed."""
        fields = document
        while isinstance(fields, list):
            fields = random.choice(fields)
        name = random.choice(list(fields))
        match random.randrange(8):
            case 0:
                del fields[name]
            case 1:
                fields[random.choice(("unknown", "__proto__", "id", "version", "", "\0"))] = 1
            case 2:
                fields |= {f"unknown{number}": None for number in range(150)}
            case 3:
                fields[random.choice((name.upper(), f" {name}", f"{name}\0"))] = fields.pop(name)
            case 4:
                text = json.dumps(document)
                return text.replace(f'"{name}":', f'"{name}": 1, "{name}":', 1).encode()
            case _:
                fields[name] = "VALUE"
        return json.dumps(document).encode().replace(b'"VALUE"', random.choice(VALUES["json values"]))

    def _change_framing(self, request: Request, random: Random) -> None:
        request.framing, request.alone = random.choice(VALUES["framings"]), True
        request.body = request.body or b"{}"
        if random.random() < 0.2:
            request.version = random.choice(VALUES["versions"])

    def _judge_body(self, request: Request) -> None:
        """Set `refused` if the body is not what the document asks for."""
        schema = request.route.body
        if schema is None or request.framing is not None:
            return
        try:
            document = orjson.loads(request.body or b"")
        except orjson.JSONDecodeError as error:
            request.refused["body"] = f"the body is no JSON: {error}"
            return
        if not self._validators[schema["$ref"].rpartition("/")[2]].is_valid(document):
            request.refused["body"] = "the body is not valid by its schema"
