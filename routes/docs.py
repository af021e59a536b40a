"""The OpenAPI document, and an interactive page of it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from flask import Response, render_template

from routes.blueprint import Blueprint
from schemas.service import FilePath
from web.media_types import HTML, JSON
from web.openapi import current_document, responses
from web.route_options import route_options
from web.static_files import send_file

_SWAGGER_UI = str(files("flask_swagger_ui") / "dist")
# Our own files: the style sheet of the home page, and the script that starts Swagger UI.
_STATIC = Path(__file__).parent / "static"
_OWN_FILES = frozenset(path.name for path in _STATIC.iterdir())

blueprint = Blueprint("docs", __name__, tag="service")


@blueprint.get("/openapi.json", responses={200: {"description": "This document", "content": {JSON: {}}}})
@route_options(session=False, scope="open")
def openapi_json() -> Response:
    """The OpenAPI 3.1 document."""
    return Response(current_document(), content_type=JSON)


@blueprint.get("/docs", responses=responses(200, None, html=True))
@route_options(produces=(HTML,), session=False, scope="open")
def docs() -> Response:
    """The OpenAPI document as an interactive page. The page needs no internet access."""
    return Response(render_template("docs.html"), content_type="text/html; charset=utf-8")


@blueprint.get("/docs/<filename>", doc_ui=False)
@route_options(produces=(), session=False, scope="open")
def docs_file(path: FilePath) -> Response:
    """A script, style sheet or icon of the pages: our own, otherwise from the package flask-swagger-ui."""
    directory = _STATIC if path.filename in _OWN_FILES else _SWAGGER_UI
    return send_file(directory, path.filename, max_age=3600)
