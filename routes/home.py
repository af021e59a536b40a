"""The home page: links to everything that the service offers."""

from __future__ import annotations

from flask import Response, current_app, g, render_template, request, url_for

from routes.blueprint import Blueprint
from schemas.service import Home
from web.media_types import HTML, JSON
from web.openapi import responses
from web.responses import ResponseValue
from web.route_options import route_options

blueprint = Blueprint("home", __name__, tag="service")


@blueprint.get("/", responses=responses(200, Home, html=True))
@route_options(produces=(JSON, HTML), session=False, scope="open")
def home() -> ResponseValue:
    """Links to documentation, health, metrics and resources."""
    links = {
        "message": "Fieldbook: a REST service on Apache Cassandra",
        "version": current_app.info.version,  # type: ignore[attr-defined]
        "docs": url_for("docs.docs"),
        "openapi": url_for("docs.openapi_json"),
        "health": url_for("health.health"),
        "metrics": url_for("metrics.get_metrics"),
        "resources": {
            each.resource.name: f"{request.script_root}{each.resource.sample_path}"
            for each in current_app.blueprints.values()
            if isinstance(each, Blueprint) and each.resource and each.resource.sample_path
        },
    }
    if g.media_type == HTML:
        # Prefer the home page of the folder ui/, which may have been removed.
        page = render_template(["ui/home.html", "home.html"], links=links)
        return Response(page, content_type="text/html; charset=utf-8")
    return links
