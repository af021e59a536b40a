"""The blueprint of the pages, the navigation, and the variables of all templates."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import current_app, request, url_for

from routes.blueprint import Blueprint
from routes.resource import Resource
from settings import Settings
from ui.probes import has_probes
from web.dependencies import current_settings
from web.route_options import RouteOptions

STATIC = Path(__file__).parent / "static"

blueprint = Blueprint("ui", __name__)
blueprint.template_folder = "templates"

# The options of the routes that the scripts of the pages call. They determine the scope that a person needs.
_WRITE = RouteOptions()
_IMPORT = RouteOptions(scope="operator")
_LIST_JOBS = RouteOptions(private=True)
_OPERATE = RouteOptions(scope="operator", sign_in="in production")


@dataclass(frozen=True)
class Page:
    """A link in the navigation.

    :ivar scope: the scope that a person needs; None for everybody.
    """

    title: str
    url: str
    scope: str | None = None


def resources() -> dict[str, Resource]:
    """The resources of the current application by name."""
    found = (getattr(each, "resource", None) for each in current_app.blueprints.values())
    return {each.name: each for each in found if each is not None}


def has_sign_in(settings: Settings) -> bool:
    """Whether a route may require a token."""
    return settings.sign_in != "off" or settings.is_production


def write_scope() -> str | None:
    """The scope that a person needs to change rows; None if no sign-in is necessary."""
    return _WRITE.required_scope("POST", current_settings())


def import_scope() -> str | None:
    """The scope that a person needs to import a file."""
    return _IMPORT.required_scope("POST", current_settings())


def jobs_scope() -> str | None:
    """The scope that a person needs to list jobs."""
    return _LIST_JOBS.required_scope("GET", current_settings())


def probe_scope() -> str | None:
    """The scope that a person needs to run a probe."""
    return _OPERATE.required_scope("POST", current_settings())


def _pages(settings: Settings) -> list[Page]:
    pages = [
        Page("Home", url_for("home.home")),
        Page("Dashboard", url_for("ui.dashboard")),
        *(Page(name.capitalize(), url_for("ui.explorer", name=name)) for name in resources()),
        Page("Imports", url_for("ui.jobs"), import_scope()),
    ]
    if has_probes():
        pages.append(Page("Diagnostics", url_for("ui.diagnostics"), probe_scope()))
    if has_sign_in(settings):
        pages.append(Page("Accounts", url_for("ui.accounts"), "operator"))
    return pages


def _commands() -> list[str]:
    """Three curl commands for the home page, those for resources first."""
    url = request.url_root.rstrip("/")
    paths = [f"{each.sample_path}" for each in resources().values() if each.sample_path]
    paths += [url_for("health.health"), url_for("metrics.get_metrics"), url_for("docs.openapi_json")]
    return [f"curl {shlex.quote(url + path)}" for path in paths[:3]]


@blueprint.app_context_processor
def _template_variables() -> dict[str, Any]:
    settings = current_settings()
    return {
        "commands": _commands,
        "pages": lambda: _pages(settings),
        "has_sign_in": has_sign_in(settings),
        "is_read_only": settings.read_only,
        "write_scope": write_scope,
        "static": lambda filename: url_for("ui.static_file", filename=filename),
    }
