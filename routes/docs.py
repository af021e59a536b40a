"""The OpenAPI document, and an interactive page of it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, cast

import orjson
from flask import Response, current_app, render_template, send_from_directory
from flask_openapi3 import OpenAPI

from routes.blueprint import Blueprint
from schemas.service import FilePath
from web import openapi
from web.dependencies import current_settings
from web.media_types import HTML, JSON
from web.openapi import responses
from web.route_options import route_options

_SWAGGER_UI = str(files("flask_swagger_ui") / "dist")

blueprint = Blueprint("docs", __name__, tag="service")


@blueprint.get("/openapi.json", responses={200: {"description": "This document", "content": {JSON: {}}}})
@route_options(session=False)
def openapi_json() -> Response:
    """The OpenAPI 3.1 document."""
    return Response(_document(cast(Any, current_app)._get_current_object()), content_type=JSON)


@cache
def _document(app: OpenAPI) -> bytes:
    return orjson.dumps(openapi.document(app, current_settings()))


@blueprint.get("/docs", responses=responses(200, None, html=True))
@route_options(produces=(HTML,), session=False)
def docs() -> Response:
    """The OpenAPI document as an interactive page. The page needs no internet access."""
    return Response(render_template("docs.html"), content_type="text/html; charset=utf-8")


@blueprint.get("/docs/<filename>", doc_ui=False)
@route_options(produces=(), session=False)
def docs_file(path: FilePath) -> Response:
    """A script, style sheet or icon of the page, from the package flask-swagger-ui."""
    return send_from_directory(_SWAGGER_UI, path.filename, max_age=3600)
