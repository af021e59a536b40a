"""`create_app(settings, session)`: the application uses the given dependencies and needs no node."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from routes import RESOURCES
from settings import Settings
from storage.errors import StorageUnavailable
from tests.testbed import app

TOKEN = "the operator token of the tests"


class UnreachableSession:
    """A session of a cluster that can't be reached: every use raises StorageUnavailable."""

    def __getattr__(self, name: str) -> object:
        raise StorageUnavailable("The session of this test is not connected.")


def client_with(**values: object) -> FlaskClient:
    settings = Settings.model_validate({"secret_key": "the secret of the unit tests", **values})
    return app.create_app(settings, UnreachableSession()).test_client()


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return client_with()


def test_routes_use_the_session_that_create_app_received(client: FlaskClient) -> None:
    response = client.get("/find/Quercus/robur")
    assert response.status_code == 503
    assert response.get_json()["detail"] == "The session of this test is not connected."
    health = client.get("/health")
    assert (health.status_code, health.get_json()["cassandra"]) == (503, "disconnected")


def test_application_uses_the_settings_that_create_app_received() -> None:
    body = {"genus": "Quercus", "species": "robur", "sightings": 1}
    assert client_with(max_body_bytes=1024).post("/find", json=body | {"x": "y" * 2000}).status_code == 413
    assert client_with(max_body_bytes=4096).post("/find", json=body | {"x": "y" * 2000}).status_code == 422
    assert client_with(diagnostics=True).get("/performance/sync?requests=0").status_code == 422
    assert client_with(diagnostics=False).get("/performance/sync?requests=0").status_code == 404
    assert client_with(cassandra_keyspace="another").get("/health").get_json()["keyspace"] == "another"


@pytest.mark.parametrize(
    ("operator_token", "header", "status"),
    [
        (None, None, 401),
        (None, f"Bearer {TOKEN}", 401),
        (TOKEN, None, 401),
        (TOKEN, "Bearer another", 401),
        (TOKEN, f"Basic {TOKEN}", 401),
        (TOKEN, "Basic é", 401),
        (TOKEN, "Bearer ", 401),
        # The token is accepted, but no gunicorn runs that could be stopped.
        (TOKEN, f"Bearer {TOKEN}", 501),
    ],
)
def test_only_operators_can_stop_the_service(operator_token: str | None, header: str | None, status: int) -> None:
    client = client_with(operator_token=operator_token)
    response = client.post("/shutdown", headers={"Authorization": header} if header else {})
    assert response.status_code == status
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("PUT", "/health/live", {}, 405),
        ("GET", "/observers", {"Accept": "image/png"}, 406),
        ("GET", "/observers", {"X-Request-Timeout": "61"}, 422),
        ("GET", "/observers", {"X-Request-Timeout": "nan"}, 422),
        ("GET", "/observers", {"X-Consistency-Level": "ANY"}, 422),
        ("GET", "/observers?limit=0", {}, 422),
        ("GET", "/observers?unknown=1", {}, 422),
        ("GET", "/observers?limit=1&limit=2", {}, 422),
        ("GET", "/find/Quercus?page_state=a", {}, 422),
        ("GET", "/find/a%2Fb/c", {}, 404),
        ("POST", "/observers", {"Content-Type": "text/plain"}, 415),
        ("POST", "/observers", {"Content-Type": "application/json"}, 400),
    ],
)
def test_request_errors_are_returned_without_cassandra(
    client: FlaskClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = client.open(path, method=method, headers=headers)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.get_json()["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize("date", ["Mon, 01 Jan 2000 00:00:00 +" + "9" * 30, f"Mon, 01 Jan {10**30} 00:00:00 GMT", "é"])
def test_dates_that_are_not_valid_are_ignored(client: FlaskClient, date: str) -> None:
    """Also those with numbers that Werkzeug can't convert."""
    for headers in ({"If-Modified-Since": date}, {"If-Range": date, "Range": "bytes=0-1"}):
        response = client.get("/docs/swagger-ui.css", headers=headers, buffered=True)
        assert (response.status_code, len(response.data) > 1000) == (200, True)


def test_home_page_links_every_resource_under_the_proxy_prefix() -> None:
    client = client_with(trusted_proxies=1, trusted_hosts="localhost")
    links = client.get("/", headers={"X-Forwarded-Prefix": "/field"}).get_json()
    resources = (*RESOURCES, *app.RESOURCES)
    assert links["resources"] == {each.name: f"/field{each.sample_path}" for each in resources if each.sample_path}
    assert links["resources"]["finds"] == "/field/find/Quercus"
    assert "/find/Quercus" in client.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)


def test_openapi_document_describes_the_table_of_each_resource() -> None:
    tags = client_with().get("/openapi.json").get_json()["tags"]
    described = {tag["name"]: tag["description"] for tag in tags if "description" in tag}
    resources = (*RESOURCES, *app.RESOURCES)
    assert described == {each.name: each.description for each in resources}
    assert all(f"partition key {', '.join(each.table.partition_key)}" in described[each.name] for each in resources)


def test_each_application_has_its_own_openapi_document() -> None:
    paths = [client_with(diagnostics=flag).get("/openapi.json").get_json()["paths"] for flag in (True, False)]
    assert ["/slow_query" in each for each in paths] == [True, False]
