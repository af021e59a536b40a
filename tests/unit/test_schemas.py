"""Base classes of request models, and the validation of email addresses."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from email_validator import EmailNotValidError, validate_email
from flask.testing import FlaskClient
from flask_openapi3 import Info, OpenAPI
from pydantic import Field, TypeAdapter, ValidationError

from schemas import parameters
from schemas.base import Body, ListQuery, Path
from schemas.fields import Decimal, Email, SetOf, Text, Timestamp, optional
from web import errors

LOCAL_PARTS = [
    "a",
    "Postmaster",
    "Ada.B",
    "a+b_c-d",
    "a..b",
    ".a",
    "a.",
    "é",
    '"a b"',
    "a b",
    "a\n",
    "a" * 60,
    "a" * 64,
    "a" * 65,
    "A" * 64,
    "A" * 65,
    # 64 and 66 bytes.
    "é" * 32,
    "é" * 33,
    "",
]
DOMAINS = [
    "example.org",
    "EXAMPLE.Org",
    "é.org",
    "localhost",
    "a.test",
    "a..b",
    "-a.org",
    "a",
    "[1.2.3.4]",
    "a.org\n",
    # The four characters that separate labels.
    "é" * 40 + ".é\u3002ü\uff0eö\uff61" + "é" * 40 + ".org",
    "é" * 64 + ".org",
    "",
]
# An internationalized domain name in Punycode. It is longer when decoded.
IDN = ".".join(["xn--l8j" + "aaa" * 10] * 2) + ".org"
LONG_DOMAIN = ".".join(["b" * 61] * 3) + ".org"


@pytest.mark.parametrize("local", LOCAL_PARTS)
def test_email_validation_agrees_with_the_library(local: str) -> None:
    """The fast path for plain addresses gives the same results as email-validator.

    Only the limit of 64 bytes for the local part is not the library's. Each domain is tested twice, because Email
    caches domains.
    """
    for domain in [*DOMAINS, LONG_DOMAIN, IDN, *DOMAINS]:
        address = f"{local}@{domain}"
        expected: str | None
        try:
            valid = validate_email(address, check_deliverability=False)
            expected = valid.normalized if len(local.encode()) <= 64 else None
        except EmailNotValidError:
            expected = None
        actual: str | None
        try:
            actual = TypeAdapter(Email).validate_python(address)
        except ValidationError:
            actual = None
        assert actual == expected, address


# --- paths, query strings and bodies -----------------------------------------------------------------------


class Reading(Body):
    """A reading, as the client sends and receives it."""

    sensor: Text
    recorded_at: Timestamp
    temperature: Annotated[Decimal, Field(ge=-90, le=60)]
    tags: SetOf[Text] = []


class ReadingsPath(Path):
    """Path of all readings of a sensor."""

    sensor: parameters.Text = Field(description="Name of the sensor.")


class ReadingPath(ReadingsPath):
    """Path of one reading."""

    recorded_at: parameters.Timestamp


class ReadingsQuery(ListQuery):
    """Query parameters of `GET /reading/<sensor>`."""

    from_: parameters.Timestamp | None = optional(alias="from")
    to: parameters.Timestamp | None = optional()


@pytest.fixture(scope="module")
def app() -> OpenAPI:
    """An application whose views return what they receive."""
    app = OpenAPI(__name__, info=Info(title="Readings", version="1"), doc_ui=False)
    errors.register(app)

    @app.post("/reading")
    def post_reading(body: Reading) -> dict[str, Any]:
        return {"input": repr(body)}

    @app.get("/reading/<sensor>")
    def list_readings(path: ReadingsPath, query: ReadingsQuery) -> dict[str, Any]:
        return {"input": f"{path!r} {query!r}"}

    @app.get("/reading/<sensor>/<recorded_at>")
    def get_reading(path: ReadingPath) -> dict[str, Any]:
        return {"input": f"{path.sensor} {path.recorded_at.isoformat()}"}

    return app


@pytest.fixture
def client(app: OpenAPI) -> FlaskClient:
    return app.test_client()


def refusals(client: FlaskClient, url: str, **request: Any) -> dict[tuple[str | int, ...], str]:
    """Send a request that is refused with 422. Return the message for each location."""
    response = client.open(url, **request)
    assert response.status_code == 422
    assert response.content_type == "application/problem+json"
    problem = response.get_json()
    # `instance` is the path of the request.
    assert "hostile" not in problem["detail"] + str(problem["errors"])
    return {tuple(error["loc"]): error["msg"] for error in problem["errors"]}


@pytest.mark.parametrize("moment", ["2026-11-21T06:50:04.610Z", "2026-11-21T07:50:04.610+01:00"])
def test_path_values_are_converted(client: FlaskClient, moment: str) -> None:
    response = client.get(f"/reading/roof/{moment}")
    assert response.get_json() == {"input": "roof 2026-11-21T06:50:04.610000+00:00"}


def test_errors_in_a_path_are_problems_without_the_value(client: FlaskClient) -> None:
    found = refusals(client, "/reading/roof/hostile")
    assert list(found) == [("path", "recorded_at")]
    assert "RFC 3339" in found["path", "recorded_at"]


def test_query_parameters_have_their_aliases(client: FlaskClient) -> None:
    text = client.get("/reading/roof?from=2026-11-21T06:50:04Z&order=desc&limit=5&page_state=abc").text
    assert "order='desc', limit=5, page_state='abc', from_=datetime.datetime(2026, 11, 21" in text
    found = refusals(client, "/reading/roof?from=hostile&to=5&order=hostile&limit=1001&page=hostile&from_=hostile")
    assert list(found) == [
        ("query", "order"),
        ("query", "limit"),
        ("query", "from"),
        ("query", "to"),
        ("query", "page"),
        ("query", "from_"),
    ]
    assert found["query", "order"] == "Input should be 'asc' or 'desc'"
    assert found["query", "limit"] == "Input should be less than or equal to 1000"
    assert found["query", "page"] == "There is no such parameter"


def test_absent_query_parameters_are_none(client: FlaskClient) -> None:
    assert "order=None, limit=None, page_state=None, from_=None, to=None" in client.get("/reading/roof").text


@pytest.mark.parametrize("limit", ["0", "1001", "1_0", "+5", "5.0", " 5", "", "1" * 100_000])
def test_limits_of_a_list_are_1_to_1000(client: FlaskClient, limit: str) -> None:
    assert list(refusals(client, "/reading/roof", query_string={"limit": limit})) == [("query", "limit")]


def test_errors_in_a_body_are_problems_without_the_value(client: FlaskClient) -> None:
    body = {"sensor": 5, "recorded_at": "hostile", "temperature": "60.01", "tags": {"hostile": 1}, "unknown": "hostile"}
    found = refusals(client, "/reading", method="POST", json=body)
    assert found["body", "temperature"] == "Input should be less than or equal to 60"
    assert found["body", "tags"] == "Input should be an array"
    assert found["body", "unknown"] == "There is no such field"
    assert found["body", "sensor"] == "Input should be a valid string"


def test_document_has_types_and_bounds_of_parameters(app: OpenAPI) -> None:
    paths = app.api_doc["paths"]
    found = {each["name"]: each for each in paths["/reading/{sensor}"]["get"]["parameters"]}
    assert list(found) == ["sensor", "order", "limit", "page_state", "from", "to"]
    assert (found["sensor"]["in"], found["sensor"]["schema"]["maxLength"]) == ("path", 10_000)
    assert found["order"]["schema"]["enum"] == ["asc", "desc"]
    limit = found["limit"]["schema"]
    assert (limit["type"], limit["minimum"], limit["maximum"]) == ("integer", 1, 1000)
    # A query string has no null.
    assert (found["from"]["schema"]["type"], found["from"]["schema"]["format"]) == ("string", "date-time")
    assert not any({"anyOf", "default"} & set(each["schema"]) for each in found.values())
