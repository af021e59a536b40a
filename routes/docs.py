"""The OpenAPI document, and a page to read it and try it out."""

from __future__ import annotations

from importlib.resources import files

from flask import Response, render_template, send_from_directory

from routes.blueprint import Blueprint
from schemas.service import FilePath
from web.media_types import HTML, JSON
from web.openapi import current_document, responses
from web.route_options import route_options

_SWAGGER_UI = str(files("flask_swagger_ui") / "dist")

blueprint = Blueprint("docs", __name__, tag="service")


@blueprint.get("/openapi.json", responses={200: {"description": "This document", "content": {JSON: {}}}})
@route_options(session=False)
def openapi_json() -> Response:
    """The contract, as OpenAPI 3.1."""
    return Response(current_document(), content_type=JSON)


@blueprint.get("/docs", responses=responses(200, None, html=True))
@route_options(produces=(HTML,), session=False)
def docs() -> Response:
    """The contract as an interactive page. It needs no internet access."""
    return Response(render_template("docs.html"), content_type="text/html; charset=utf-8")


@blueprint.get("/docs/<filename>", doc_ui=False)
@route_options(produces=(), session=False)
def docs_file(path: FilePath) -> Response:
    """Script and style of the page, from the package flask-swagger-ui."""
    return send_from_directory(_SWAGGER_UI, path.filename, max_age=3600)
