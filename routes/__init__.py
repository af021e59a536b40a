"""One module per resource. A view checks its input, calls `storage.db_io` and returns a response."""

from importlib import import_module

from routes.blueprint import Blueprint

# Each module has a `blueprint`. One line adds a resource, or removes it together with its files.
MODULES = (
    "routes.home",
    "routes.health",
    "routes.metrics",
    "routes.admin",
    "routes.docs",
    "routes.animals",
    "routes.plants",
    "routes.users",
    "diagnostics.routes",
)

BLUEPRINTS: tuple[Blueprint, ...] = tuple(import_module(name).blueprint for name in MODULES)
