"""The application factory: settings, hooks, error handlers and blueprints."""

from __future__ import annotations

import logging.config
from collections.abc import Sequence

from flask_openapi3 import Info, OpenAPI

import commands
from environment import get_settings, require_version, settings_or_exit
from observability import logs
from routes import BLUEPRINTS
from routes.blueprint import Blueprint
from settings import Settings
from storage import DRIVER_VERSIONS
from storage.db_connect import Session
from web import background_jobs, dependencies, errors, hooks, openapi
from web.forwarded_headers import trust_proxies
from web.json import OrjsonProvider
from web.request_body import FieldbookRequest

VERSION = "0.3.0"


def create_app(
    settings: Settings | None = None, session: Session | None = None, blueprints: Sequence[Blueprint] = BLUEPRINTS
) -> OpenAPI:
    """Create the Flask application. This opens no connection, so it may run before a fork.

    `flask --app api COMMAND` calls it too. Commands need no SECRET_KEY and write no log.

    Tests pass their own dependencies:

        app = create_app(Settings(max_body_bytes=1024), session)
        app.test_client().get("/plant/Quercus")

    :param settings: None to read them from the environment and `.env`.
    :param session: from `storage.db_connect.open_session`; the caller closes it. None for the session of the process,
        which the first request opens.
    :param blueprints: the blueprints whose routes the application serves.
    :raises SettingsError: a setting is wrong or missing, or the version of a package is not supported.
    """
    info = Info(title="Fieldbook", version=VERSION, description="A naturalist's field book on Apache Cassandra.")
    app = OpenAPI(__name__, info=info, doc_ui=False, static_folder=None, template_folder="routes/templates")
    commands.register(app)
    if commands.is_running():
        # Report wrong settings. A command handles no requests, so it needs no routes and no keys.
        settings_or_exit()
        return app
    require_version("cassandra-driver", DRIVER_VERSIONS, used_by="storage/cql/driver.py")
    settings = settings or get_settings()
    logging.config.dictConfig(logs.config(settings.log_level))
    settings.check_signing_key()
    app.request_class = FieldbookRequest
    app.json = OrjsonProvider(app)
    # Werkzeug truncates a body without Content-Length at this size. One byte more than the limit, so that the service
    # can tell a body that is too large from one of exactly the limit.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    app.url_map.merge_slashes = False
    dependencies.register(app, settings, session)
    errors.register(app)
    resources = [each.resource for each in blueprints if each.resource is not None]
    background_jobs.register(app, settings, resources)
    for blueprint in blueprints:
        if blueprint.is_enabled(settings):
            app.register_api(blueprint)
    hooks.register(app, settings)
    openapi.register(app, settings)
    if settings.trusted_proxies:
        app.wsgi_app = trust_proxies(app.wsgi_app, settings.trusted_proxies)  # type: ignore
    return app
