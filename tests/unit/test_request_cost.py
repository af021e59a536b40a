"""No part of a request takes more than linear CPU time, and no error response is much larger than its request.

CPU time is compared with that of shorter input, so that the speed of the machine makes no difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from werkzeug.exceptions import BadRequest
from werkzeug.test import TestResponse

from schemas import fields, parameters
from schemas.base import InvalidInput
from schemas.fields import ListOf, MapOf, SetOf
from tests.support import OBSERVER
from tests.unit.test_app import client_with
from tests.unit.test_generated_input import BODY_TYPES, PATH_TYPES
from web import content_negotiation, pagination
from web.headers import MAX_HEADER_LENGTH
from web.route_options import RouteOptions

# Seconds of CPU time that need no explanation. A quadratic parser takes more for the long input of these tests.
NEGLIGIBLE = 0.02
ID = "00000000-0000-4000-8000-000000000000"
# Each header that the service, Flask, Werkzeug or the WSGI middleware reads, with a request that makes them read it.
HEADERS: dict[str, tuple[str, str, Any]] = {
    "Accept": ("GET", "/observers/stream", None),
    "Access-Control-Request-Method": ("OPTIONS", "/observers", None),
    "Authorization": ("POST", "/shutdown", None),
    "Content-Type": ("POST", "/observers", OBSERVER),
    "Cookie": ("GET", "/health/live", None),
    "Host": ("GET", "/", None),
    "Idempotency-Key": ("POST", "/observers", OBSERVER),
    "If-Match": ("DELETE", f"/observers/{ID}", None),
    "If-Modified-Since": ("GET", "/docs/swagger-ui.css", None),
    "If-None-Match": ("GET", "/docs/swagger-ui.css", None),
    "If-Range": ("GET", "/docs/swagger-ui.css", None),
    "Origin": ("OPTIONS", "/observers", None),
    "Range": ("GET", "/docs/swagger-ui.css", None),
    "X-Consistency-Level": ("GET", "/health/live", None),
    "X-Forwarded-For": ("GET", "/health/live", None),
    "X-Forwarded-Host": ("GET", "/", None),
    "X-Forwarded-Port": ("GET", "/", None),
    "X-Forwarded-Prefix": ("GET", "/", None),
    "X-Forwarded-Proto": ("GET", "/", None),
    "X-Request-ID": ("GET", "/health/live", None),
    "X-Request-Timeout": ("GET", "/health/live", None),
}
# Characters that parsers treat in a special way, and parts of valid values.
SPECIAL_CHARACTERS = " \t,;:=*/\\\"'-.+()[]%&?@_~<>01aezEPTZé"
WORDS = ["a=", "q=", "W/", "*0", "a/b", '"a"', "bytes=", "0-0,", "Bearer ", "Basic ", "Mon, 01 Jan ", " 00:00:00 GMT"]
WORDS += ["1e", "0.", "http://", "a@", "xn--", ".org", "P1", "T1", "limit="]
PARTS = st.sampled_from([*SPECIAL_CHARACTERS, *WORDS])
ENDS = st.lists(PARTS, max_size=4).map("".join)
# The start, the repeated part and the end of a long text.
LONG_TEXTS = st.tuples(ENDS, st.lists(PARTS, min_size=1, max_size=3).map("".join), ENDS)
FUZZ = settings(derandomize=True, deadline=None, max_examples=60)


def cpu_time(function: Callable[[], object], repeat: int = 1) -> float:
    """Return the CPU time of a call in seconds, the least of several calls."""
    times = []
    for _ in range(repeat):
        started = time.thread_time()
        function()
        times.append(time.thread_time() - started)
    return min(times)


def assert_linear(function: Callable[[str], object], parts: tuple[str, str, str], length: int) -> None:
    """Check that four times as much text takes at most eight times as much CPU time."""
    begin, unit, end = parts
    short, long = (begin + unit * (size // len(unit)) + end for size in (length // 4, length))
    if cpu_time(partial(function, long)) < NEGLIGIBLE:
        return
    # Measured again, because the garbage collector may have run.
    expected, actual = (cpu_time(partial(function, text), repeat=5) for text in (short, long))
    assert actual < max(NEGLIGIBLE, 8 * expected), f"{expected:.4f} s, then {actual:.4f} s"


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return client_with(
        trusted_proxies=1,
        trusted_hosts="localhost",
        operator_token="the operator token of the tests",
        cors_origins="https://app.example.org",
    )


def send(client: FlaskClient, method: str, path: str, **request: Any) -> TestResponse:
    """Send a request, read the response and close it, so that it no longer counts as in flight."""
    return client.open(path, method=method, buffered=True, **request)


@pytest.mark.parametrize("name", HEADERS)
@given(parts=LONG_TEXTS)
@example(parts=("a/", " ", "x"))
@example(parts=("a/", "\t", ";"))
@FUZZ
def test_headers_take_linear_time(client: FlaskClient, name: str, parts: tuple[str, str, str]) -> None:
    """A header of eight kilobytes, the longest line that gunicorn accepts, is answered, and not with 500."""
    method, path, body = HEADERS[name]

    def request(value: str) -> None:
        assert send(client, method, path, json=body, headers={name: value}).status_code != 500

    assert_linear(request, parts, 8000)


@pytest.mark.parametrize("name", HEADERS)
def test_joined_headers_take_little_time(client: FlaskClient, name: str) -> None:
    """A server joins the lines of a header with commas: 95 lines of eight kilobytes are one value."""
    method, path, body = HEADERS[name]
    for line in ("a/" + " " * 8000 + "x", "a," * 4000, 'W/"a",' * 1300):
        request = partial(send, client, method, path, json=body, headers={name: ",".join([line] * 95)})
        assert cpu_time(request) < 2


@pytest.mark.parametrize("parts", [("a/", " ", "x"), ("a/b", "\t", ""), ("a/b;", " ", "q=1"), ("", "a/b,", "")])
def test_accept_headers_of_any_length_take_linear_time(client: FlaskClient, parts: tuple[str, str, str]) -> None:
    """The limit of the length alone would allow a header that takes twenty times as long as others."""
    begin, unit, end = parts

    def negotiate(length: int) -> float:
        accept = f"{begin}{unit * ((length - 10) // len(unit))}{end}, */*;q=0.1"[:length]
        with client.application.test_request_context(headers={"Accept": accept}):
            return cpu_time(partial(content_negotiation.negotiate, RouteOptions()), repeat=10)

    assert negotiate(960) < 10 * negotiate(240)


@pytest.mark.parametrize(
    ("name", "method", "path"), [("Accept", "GET", "/health/live"), ("If-Match", "DELETE", f"/observers/{ID}")]
)
def test_long_headers_are_rejected(client: FlaskClient, name: str, method: str, path: str) -> None:
    response = send(client, method, path, headers={name: "*/*," * (MAX_HEADER_LENGTH // 4) + "a"})
    assert response.status_code == 422
    (error,) = response.get_json()["errors"]
    assert error["loc"] == ["header", name]
    assert error["msg"] == "Input should have at most 1000 characters"
    accepted = send(client, method, path, headers={name: "*/*," * (MAX_HEADER_LENGTH // 4)})
    assert accepted.status_code != 422


@pytest.mark.parametrize(
    "path", ["/observers", "/observers/stream", "/find/Quercus", "/find/Quercus?from", "/health/live"]
)
@given(parts=LONG_TEXTS)
@FUZZ
def test_query_strings_take_linear_time(client: FlaskClient, path: str, parts: tuple[str, str, str]) -> None:
    separator = "=" if "?" in path else "?"
    for encode in (str, quote):

        def request(text: str, encode: Callable[[str], str] = encode) -> None:
            assert send(client, "GET", f"{path}{separator}{encode(text)}").status_code != 500

        assert_linear(request, parts, 8000)


@given(parts=LONG_TEXTS)
@FUZZ
def test_page_states_take_linear_time(client: FlaskClient, parts: tuple[str, str, str]) -> None:
    app: Flask = client.application

    def verify(token: str) -> None:
        with app.app_context(), pytest.raises(BadRequest):
            pagination.verify(token, "the query")

    assert_linear(verify, parts, 8000)


@given(parts=LONG_TEXTS)
@FUZZ
def test_values_take_linear_time(parts: tuple[str, str, str]) -> None:
    """The validation of text takes linear time for each type of a field or parameter."""
    for model in [*(model for model, _ in BODY_TYPES.values()), *PATH_TYPES]:

        def validate(text: str, model: Any = model) -> None:
            try:
                model.model_validate({"value": text})
            except InvalidInput:
                return

        assert_linear(validate, parts, 200_000)


@given(parts=LONG_TEXTS, length=st.sampled_from([250, 2000]))
@example(parts=("a@", "中", ".org"), length=250)
@FUZZ
def test_addresses_take_linear_time(parts: tuple[str, str, str], length: int) -> None:
    """The validation of 100 email addresses and URLs, as many as a batch can have, takes linear time."""

    def validate(text: str) -> None:
        for kind in (fields.Email, fields.Url):
            adapter = TypeAdapter[str](kind)
            for _ in range(100):
                try:
                    adapter.validate_python(text[:length])
                except ValidationError:
                    continue

    fields._email_domain.cache_clear()
    assert_linear(validate, parts, length)


def test_long_labels_of_email_addresses_are_rejected_before_their_conversion() -> None:
    """The conversion of a label to ASCII takes quadratic time: 5 ms for 240 characters."""
    with pytest.raises(ValidationError, match="more than 63 characters without a period"):
        TypeAdapter(fields.Email).validate_python(f"a@{'中' * 64}.org")


@pytest.mark.parametrize("kind", [fields.VarInt, fields.Decimal])
def test_numbers_with_the_same_hash_take_no_more_time_in_a_set(kind: Any) -> None:
    """Python's hash of a number is its remainder, so a client can choose numbers that collide in a dict."""
    adapter = TypeAdapter(SetOf[kind])
    modulus = 2**61 - 1
    distinct, colliding = ([str(number * i) for i in range(1000)] for number in (modulus - 2, modulus))
    expected = cpu_time(partial(adapter.validate_python, distinct), repeat=5)
    assert cpu_time(partial(adapter.validate_python, colliding), repeat=5) < 4 * expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ListOf[ListOf[fields.VarInt]], [["x"] * 1000] * 300),
        (SetOf[SetOf[fields.Int]], [["x"] * 1000] * 300),
        (MapOf[parameters.Text, MapOf[parameters.Text, fields.Int]], {"a": {str(i): "x" for i in range(1000)}}),
    ],
)
def test_collections_report_their_first_invalid_element(kind: Any, value: Any) -> None:
    """The body of one megabyte could have 300,000 invalid elements."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert caught.value.error_count() == 1


def problem_of(client: FlaskClient, path: str, body: Any) -> dict[str, Any]:
    """Send a body that is rejected with 422. Return the problem document, which is not larger than 70 kB."""
    data = orjson.dumps(body)
    assert len(data) < 1_000_000
    response = send(client, "POST", path, data=data, content_type="application/json")
    assert response.status_code == 422
    assert len(response.data) < 70_000
    problem: dict[str, Any] = response.get_json()
    return problem


def test_object_with_many_unknown_fields_returns_one_error(client: FlaskClient) -> None:
    """pydantic would report each field of a body of 900 kB: 95,000 errors in a response of 8 MB."""
    unknown = {str(number): 1 for number in range(90_000)}
    (error,) = problem_of(client, "/find", unknown)["errors"]
    assert error == {"loc": ["body"], "msg": "Object should have at most 3 fields, not 90000", "type": "value_error"}
    (error,) = problem_of(client, "/observers/batch", [OBSERVER, unknown])["errors"]
    assert error["loc"] == ["body", 1]
    assert problem_of(client, "/observers/batch", unknown)["errors"][0]["msg"] == "Input should be an array"


def test_problem_has_at_most_100_errors_and_their_number(client: FlaskClient) -> None:
    unknown = {str(number): 1 for number in range(100)}
    problem = problem_of(client, "/observers/batch", [OBSERVER | unknown] * 100)
    assert len(problem["errors"]) == 100
    assert problem["detail"].endswith("body.0.4. `errors` has the first 100 of 10000 errors.")
    problem = problem_of(client, "/find", {"genus": "Quercus", "species": "robur"} | unknown)
    assert len(problem["errors"]) == 100
    assert "the first" not in problem["detail"]


def test_query_string_with_many_errors_returns_100(client: FlaskClient) -> None:
    for names in ([f"{n}={n}" for n in range(900)], [f"{n}&{n}" for n in range(900)]):
        problem = send(client, "GET", f"/observers?{'&'.join(names)}").get_json()
        assert len(problem["errors"]) == 100
        assert problem["detail"].endswith("`errors` has the first 100 of 900 errors.")


def test_errors_do_not_repeat_long_values(client: FlaskClient) -> None:
    """Names of fields come from the client too, and the problem document shortens them."""
    (error,) = problem_of(client, "/find", {"genus": "a", "species": "b", "x" * 900_000: 1})["errors"]
    assert error["loc"] == ["body", "x" * 500 + "…"]
    problem_of(client, "/find", {"genus": "a", "species": "b"} | {f"{n}{'x' * 9000}": 1 for n in range(99)})
    problem_of(client, "/observers", OBSERVER | {"name": "n" * 900_000, "email": "e" * 90_000})
    problem_of(client, "/find", "s" * 900_000)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 150_000,
        "[" * 900_000,
        "[[]," * 200_000,
        '{"age": 0.' + "1" * 900_000 + "}",
        "9" * 900_000,
        '"\\u00e9' * 100_000,
    ],
    ids=lambda text: text[:10],
)
def test_bodies_that_are_hard_to_parse_take_little_time(client: FlaskClient, text: str) -> None:
    request = partial(send, client, "POST", "/find", data=text, content_type="application/json")
    assert request().status_code in (400, 422)
    assert cpu_time(request, repeat=3) < 0.5
