"""The application: settings, hooks, error handlers, blueprints, and nothing else."""

from __future__ import annotations

import logging.config
from typing import Any

import orjson
from flask import Request, Response
from flask.json.provider import JSONProvider
from flask_openapi3 import Info, OpenAPI
from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

import logs
import openapi
import problems
import request_hooks
from paging import PageTokens
from routes import BLUEPRINTS
from routes.operations import VERSION
from settings import Settings, get_settings
from streaming import JSON_OPTIONS


class FieldbookRequest(Request):
    """A request whose body is JSON or an error."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """:raises UnsupportedMediaType: another content type (415).
        :raises BadRequest: broken JSON (400); NaN and lone surrogates are no JSON.
        """
        if self.mimetype != "application/json":
            raise UnsupportedMediaType("The body must be application/json.")
        try:
            return orjson.loads(self.get_data(cache=cache))
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"The body is not JSON: {error}") from None


class _OrjsonProvider(JSONProvider):
    """Writes times as RFC 3339 in UTC and ids as text, which Flask's own provider does not."""

    def dumps(self, obj: Any, **options: Any) -> str:
        return orjson.dumps(obj, option=JSON_OPTIONS).decode()

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = orjson.dumps(self._prepare_response_obj(args, kwargs), option=JSON_OPTIONS)
        return Response(body, content_type="application/json")


class Fieldbook(OpenAPI):
    """The Flask application, with what its routes share."""

    request_class = FieldbookRequest
    json_provider_class = _OrjsonProvider

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            __name__,
            info=Info(title="Fieldbook", version=VERSION, description="A naturalist's field book on Apache Cassandra."),
            doc_ui=False,
        )
        self.page_tokens = PageTokens(settings.signing_key())
        self._openapi_bytes: bytes | None = None

    def openapi_bytes(self) -> bytes:
        """The OpenAPI document, made when it is first asked for."""
        if self._openapi_bytes is None:
            self._openapi_bytes = orjson.dumps(openapi.document(self))
        return self._openapi_bytes


def create_app(settings: Settings | None = None) -> Fieldbook:
    """The WSGI application. Opens no connection, so that it may be made before a fork.

    :raises SettingsError: naming each setting that is wrong or missing.
    """
    settings = settings or get_settings()
    logging.config.dictConfig(logs.config(settings.log_level))
    app = Fieldbook(settings)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # A redirect would lose the body of a POST; a URL that is not quite right is a 404.
    app.url_map.merge_slashes = False
    problems.register(app)
    request_hooks.register(app, settings)
    for blueprint in BLUEPRINTS:
        app.register_api(blueprint)
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, hops, hops, hops, x_prefix=hops)  # type: ignore[method-assign]
    return app
