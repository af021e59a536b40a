"""The application factory: the product's application, and the routes of the testbed."""

from __future__ import annotations

from flask_openapi3 import OpenAPI

import api
from routes import BLUEPRINTS
from routes.resource import Resource
from settings import Settings
from storage.db_connect import Session
from tests.testbed.routes import finds, observers

# The registry of the testbed, as `routes.RESOURCES` is that of the product.
RESOURCES: tuple[Resource, ...] = (observers.RESOURCE, finds.RESOURCE)


def create_app(settings: Settings | None = None, session: Session | None = None) -> OpenAPI:
    """Create the application, with the arguments of `api.create_app`."""
    return api.create_app(settings, session, (*BLUEPRINTS, observers.blueprint, finds.blueprint))
