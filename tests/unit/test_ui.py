"""The files of the pages: their size, their routes in docs/ui.md, and names that resources can't have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api import create_app
from dev.resource.clashes import check_is_free
from dev.resource.generate import spec_of
from dev.resource.names import Refused
from routes import BLUEPRINTS
from settings import Settings
from tests.support import OPERATOR_TOKEN, PROJECT
from ui.blueprint import import_scope, jobs_scope, probe_scope, write_scope
from web.route_options import options_of

STATIC = PROJECT / "ui" / "static"
# Bytes of all scripts together, as a browser gets them.
SCRIPT_LIMIT = 40_000


def test_scripts_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in STATIC.glob("*.js")}
    assert sum(sizes.values()) < SCRIPT_LIMIT, sizes


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_never_parse_text_as_html(path: Path) -> None:
    """The text of a row can't become an element or a script."""
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\(|new Function"
    assert not re.findall(forbidden, path.read_text())


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_files_name_no_other_host(path: Path) -> None:
    """The pages work without internet access. Browsers don't load XML namespaces."""
    urls = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
    assert {url for url in urls if not url.startswith("http://www.w3.org/")} == set()


def test_page_of_the_documentation_has_every_route() -> None:
    page = (PROJECT / "docs" / "ui.md").read_text()
    table = set(re.findall(r"^\| `([A-Z]+) (/ui\S*)` \|", page, re.MULTILINE))
    routes = {
        (method, rule.rule)
        for rule in create_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.startswith("ui.")
    }
    assert table == routes, f"docs/ui.md lacks {routes - table} and lists unknown routes {table - routes}"


def test_pages_work_without_resources() -> None:
    """`python -m dev.resource remove --samples` leaves such a project."""
    values = {"secret_key": "the secret of the unit tests", "diagnostics": True, "auth": "all"}
    settings = Settings.model_validate(values)
    blueprints = tuple(each for each in BLUEPRINTS if each.resource is None)
    client = create_app(settings, None, blueprints).test_client()
    for path in ("/", "/ui/dashboard", "/ui/jobs", "/ui/diagnostics", "/ui/accounts"):
        response = client.get(path, headers={"Accept": "text/html"}, buffered=True)
        assert (response.status_code, response.mimetype) == (200, "text/html")
        assert path != "/" or response.text.count("<pre") == 3
    assert client.get("/ui/observers").status_code == 404


def test_diagnostics_that_are_off_have_no_page() -> None:
    settings = Settings.model_validate({"secret_key": "the secret of the unit tests", "diagnostics": False})
    client = create_app(settings).test_client()
    assert client.get("/ui/diagnostics").status_code == 404
    assert "/ui/diagnostics" not in client.get("/ui/dashboard").text


@pytest.mark.parametrize("plural", ["dashboard", "session"])
def test_a_resource_can_not_have_the_path_of_a_page(plural: str) -> None:
    """Its explorer would be at /ui/<plural>."""
    spec = spec_of("reading", plural, ["sensor:text"], [], ["value:int"], ttl=None, deletable=True, uuid_key=False)
    with pytest.raises(Refused, match=f"the name of the page /ui/{plural}"):
        check_is_free(spec)


@pytest.mark.parametrize("auth", ["off", "writes", "all"])
@pytest.mark.parametrize("app_env", ["development", "production"])
def test_pages_ask_for_the_scopes_of_the_routes_that_their_scripts_call(app_env: str, auth: str) -> None:
    """`ui/blueprint.py` states the scopes, because a service may have no resource and no diagnostics."""
    values = {"secret_key": "the secret of the unit tests", "operator_token": OPERATOR_TOKEN, "diagnostics": True}
    settings = Settings.model_validate(values | {"app_env": app_env, "auth": auth})
    app = create_app(settings)
    names = [each.resource.name for each in BLUEPRINTS if each.resource is not None]
    scopes: dict[str, set[str | None]] = {"write": set(), "import": set(), "jobs": set(), "probe": set()}
    for rule in app.url_map.iter_rules():
        blueprint, _, _ = rule.endpoint.partition(".")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            scope = options_of(app.view_functions[rule.endpoint]).required_scope(method, settings)
            if rule.rule == "/jobs":
                scopes["jobs"].add(scope)
            elif blueprint == "diagnostics":
                scopes["probe"].add(scope)
            elif blueprint in names and method != "GET" and not rule.rule.endswith("/batch"):
                scopes["import" if rule.rule.endswith("/import") else "write"].add(scope)
    with app.app_context():
        expected = {"write": write_scope(), "import": import_scope(), "jobs": jobs_scope(), "probe": probe_scope()}
    # Without resources or diagnostics, there is nothing to compare.
    assert {name: found for name, found in scopes.items() if found and found != {expected[name]}} == {}
