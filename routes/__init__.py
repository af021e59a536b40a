"""One module per resource.

A view checks its input, calls `storage.db_io` and returns a response.
"""

from importlib import import_module

from routes.blueprint import Blueprint
from routes.resource import Resource

# Each module defines `blueprint`. To remove a resource, delete its line here and its files.
MODULES = (
    "routes.home",
    "routes.health",
    "routes.metrics",
    "routes.admin",
    "routes.docs",
    "routes.auth",
    "routes.accounts",
    "routes.jobs",
    "routes.animals",
    "routes.plants",
    "routes.users",
    "diagnostics.routes",
    "ui",
)

BLUEPRINTS: tuple[Blueprint, ...] = tuple(import_module(name).blueprint for name in MODULES)

# The registry: the facts about each resource.
RESOURCES: tuple[Resource, ...] = tuple(each.resource for each in BLUEPRINTS if each.resource is not None)
