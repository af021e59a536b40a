"""Routing of every path of the application: methods of static paths, and no redirects."""

from __future__ import annotations

import pytest
from flask import Response
from flask.testing import FlaskClient

from api import create_app
from routes.blueprint import Blueprint
from settings import Settings
from tests.unit.test_app import client_with
from web.route_options import route_options
from web.routing import static_paths


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return client_with()


def test_every_static_path_has_only_the_methods_of_its_routes(client: FlaskClient) -> None:
    """Routes with variable parts that also match the path add no methods. No response of this test needs Cassandra."""
    paths = static_paths(client.application)
    assert {"/", "/observers/stream", "/observers/batch"} <= paths.keys()
    for path, methods in paths.items():
        options = client.options(path)
        assert (options.status_code, options.headers["Allow"]) == (200, ", ".join(methods)), path
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "BREW"} - set(methods):
            response = client.open(path, method=method)
            assert (response.status_code, response.headers["Allow"]) == (405, ", ".join(methods)), (method, path)
            assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("path", ["/find/stream", "/find/batch"])
def test_names_of_static_paths_are_valid_keys_of_other_resources(client: FlaskClient, path: str) -> None:
    """No static path has the same form as `/find/<genus>`, so that "stream" is a genus like any other."""
    allowed = client.options(path).headers["Allow"]
    assert set(allowed.split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert client.get(f"{path}?limit=0").status_code == 422


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_similar_paths_are_not_redirected(host: str, method: str) -> None:
    """The service redirects neither `/folder` to `/folder/` nor an empty path to `/`."""
    blueprint = Blueprint("folder", __name__)

    @blueprint.get("/folder/")
    @blueprint.post("/folder/")
    @route_options(session=False)
    def folder() -> Response:
        return Response("folder")

    settings = Settings.model_validate({"secret_key": "the secret of the unit tests"})
    client = create_app(settings, blueprints=[blueprint]).test_client()
    assert client.get("/folder/").get_data(as_text=True) == "folder"
    for environ in ({"PATH_INFO": "/folder"}, {"PATH_INFO": ""}):
        response = client.open("/", method=method, headers={"Host": host}, environ_overrides=environ)
        assert (response.status_code, response.content_type) == (404, "application/problem+json")
        assert "Location" not in response.headers
