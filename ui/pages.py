"""The pages and their files."""

from __future__ import annotations

from flask import Response, render_template, request
from werkzeug.exceptions import NotFound

from schemas.base import Path
from schemas.service import FilePath
from ui.blueprint import STATIC, blueprint, has_sign_in, import_scope, jobs_scope, probe_scope, resources
from ui.explorer import explorer_facts, explorer_views, is_editable
from ui.probes import has_probes, probes
from web.dependencies import current_settings
from web.media_types import HTML
from web.route_options import route_options
from web.static_files import send_file

# Flask guesses types from the files of the system. With `X-Content-Type-Options: nosniff`, browsers run a module only
# if it has a JavaScript type.
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

_page = route_options(produces=(HTML,), session=False, scope="open")


class ResourcePath(Path):
    """Path of the explorer of a resource."""

    name: str


@blueprint.get("/ui/dashboard", doc_ui=False)
@_page
def dashboard() -> Response:
    """Metrics of the instance, refreshed every two seconds."""
    return _render("dashboard.html")


@blueprint.get("/ui/jobs", doc_ui=False)
@_page
def jobs() -> Response:
    """Imports: upload a file and watch the jobs."""
    importable = [each for each in resources().values() if "import" in each.operations]
    return _render("jobs.html", resources=importable, import_scope=import_scope(), jobs_scope=jobs_scope())


@blueprint.get("/ui/diagnostics", doc_ui=False)
@_page
def diagnostics() -> Response:
    """Run the probes of the service."""
    if not has_probes():
        raise NotFound("The diagnostics are off: DIAGNOSTICS is not true.")
    return _render("diagnostics.html", probes=probes(), scope=probe_scope())


@blueprint.get("/ui/accounts", doc_ui=False)
@_page
def accounts() -> Response:
    """Accounts: create, disable and enable them, and set passwords."""
    if not has_sign_in(current_settings()):
        raise NotFound("Nobody signs in to this service: AUTH is off.")
    return _render("accounts.html")


@blueprint.get("/ui/<name>", doc_ui=False)
@_page
def explorer(path: ResourcePath) -> Response:
    """The rows of a resource."""
    resource = resources().get(path.name)
    if resource is None:
        raise NotFound(f"There is no page {path.name}.")
    facts = explorer_facts(resource)
    views = explorer_views(facts, request.args)
    return _render("explorer.html", resource=resource, facts=facts, views=views, editable=is_editable(facts))


@blueprint.get("/ui/static/<filename>", doc_ui=False)
@route_options(produces=(), session=False, scope="open")
def static_file(path: FilePath) -> Response:
    """A script or style sheet of the pages."""
    # Browsers revalidate the file before each use, so that no page uses an old script after an upgrade.
    response = send_file(STATIC, path.filename, max_age=0)
    suffix = path.filename[path.filename.rfind(".") :]
    response.content_type = _TYPES.get(suffix, response.content_type)
    return response


def _render(template: str, **variables: object) -> Response:
    return Response(render_template(f"ui/{template}", **variables), content_type="text/html; charset=utf-8")
