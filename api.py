"""The application: settings, hooks, error handlers, blueprints, and nothing else."""

from __future__ import annotations

import logging.config
from typing import Any

import orjson
from flask import Response
from flask.json.provider import JSONProvider
from flask_openapi3 import Info, OpenAPI
from werkzeug.middleware.proxy_fix import ProxyFix

from diagnostics.routes import diagnostics
from observability import logs
from routes import BLUEPRINTS
from routes.operations import VERSION
from settings import get_settings
from web import errors as problems
from web import hooks as request_hooks
from web import json as json_text
from web import pagination as paging
from web.request_body import FieldbookRequest


class OrjsonProvider(JSONProvider):
    """Writes times as RFC 3339 in UTC and ids as text, which Flask's own provider does not."""

    def dumps(self, obj: Any, **options: Any) -> str:
        return json_text.dumps(obj).decode()

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = json_text.dumps(self._prepare_response_obj(args, kwargs))
        return Response(body, content_type="application/json")


def create_app() -> OpenAPI:
    """The WSGI application (a Flask application). Opens no connection, so that it may be made before a fork.

    :raises SettingsError: naming each setting that is wrong or missing.
    """
    settings = get_settings()
    logging.config.dictConfig(logs.config(settings.log_level))
    paging.check_key()
    info = Info(title="Fieldbook", version=VERSION, description="A naturalist's field book on Apache Cassandra.")
    app = OpenAPI(__name__, info=info, doc_ui=False, static_folder=None, template_folder="routes/templates")
    app.request_class = FieldbookRequest
    app.json = OrjsonProvider(app)
    # One more, so that a body that was read up to it is known to be too large.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    app.url_map.merge_slashes = False
    problems.register(app)
    request_hooks.register(app, settings)
    for blueprint in BLUEPRINTS:
        if blueprint is not diagnostics or settings.has_diagnostics:
            app.register_api(blueprint)
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, hops, hops, hops, x_prefix=hops)  # type: ignore[method-assign]
    return app
