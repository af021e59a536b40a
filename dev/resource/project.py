"""The files of this project that belong to a resource or list it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dev.resource.names import Refused

PROJECT = Path(__file__).resolve().parents[2]
MIGRATIONS = PROJECT / "storage" / "migrations"
REGISTRY = PROJECT / "routes" / "__init__.py"
API_PAGE = PROJECT / "docs" / "api.md"
SNAPSHOT = PROJECT / "docs" / "openapi.json"

_DIAGNOSTICS = '    "diagnostics.routes",\n'
_CREATE_OR_DROP = re.compile(r"^(?:CREATE TABLE IF NOT EXISTS (\w+)|DROP TABLE IF EXISTS (\w+))", re.MULTILINE)
_ROUTE_ROW = re.compile(r"^\| `[A-Z]+ (/[^`]*)` \| .*\n", re.MULTILINE)


def modules_of(plural: str) -> dict[str, Path]:
    """The modules of a resource, each with the name of its template."""
    return {
        "schema": PROJECT / "schemas" / f"{plural}.py",
        "table": PROJECT / "storage" / "db_io" / f"{plural}.py",
        "routes": PROJECT / "routes" / f"{plural}.py",
        "samples": PROJECT / "storage" / "sample_data" / f"{plural}.py",
        "test": PROJECT / "tests" / "functional" / f"test_{plural}.py",
    }


def files_of(plural: str) -> list[Path]:
    """The files that belong only to this resource, without its migrations."""
    return [path for path in modules_of(plural).values() if path.exists()]


def next_migration(name: str) -> Path:
    """The path of a new migration."""
    numbers = [int(path.name.split("_")[0]) for path in MIGRATIONS.glob("[0-9]*_*.cql")]
    return MIGRATIONS / f"{max(numbers, default=0) + 1:04}_{name}.cql"


def tables() -> dict[str, str]:
    """The tables that exist after all migrations, each with the name of the migration that created it."""
    found: dict[str, str] = {}
    for path in sorted(MIGRATIONS.glob("[0-9]*.cql")):
        for created, dropped in _CREATE_OR_DROP.findall(path.read_text()):
            if dropped:
                found.pop(dropped, None)
            else:
                found.setdefault(created, path.name)
    return found


def with_module(registry: str, plural: str) -> str:
    """The text of routes/__init__.py with a resource, before the line of the diagnostics."""
    line = f'    "routes.{plural}",\n'
    if _DIAGNOSTICS in registry:
        return registry.replace(_DIAGNOSTICS, line + _DIAGNOSTICS)
    return re.sub(r"(?ms)^(MODULES = \(.*?)^\)", lambda found: f"{found[1]}{line})", registry, count=1)


def without_module(registry: str, plural: str) -> str:
    """The text of routes/__init__.py without the line of a resource."""
    return registry.replace(f'    "routes.{plural}",\n', "")


def with_routes(page: str, rows: list[str]) -> str:
    """The text of docs/api.md with new routes, before the routes of the diagnostics.

    :param rows: rows of the table of routes.
    """
    found = list(_ROUTE_ROW.finditer(page))
    position = next((row.start() for row in found if row[1].startswith("/performance/")), found[-1].end())
    return page[:position] + "".join(f"{row}\n" for row in rows) + page[position:]


def without_routes(page: str, path: str) -> str:
    """The text of docs/api.md without the routes below a path in its table of routes."""
    return _ROUTE_ROW.sub(lambda row: "" if f"{row[1]}/".startswith(f"{path}/") else row[0], page)


def without_operations(snapshot: str, path: str) -> str:
    """The text of docs/openapi.json without the operations below a path.

    Without them, :func:`rewrite_snapshot` does not find that their removal breaks clients.

    :raises Refused: the text is not JSON.
    """
    try:
        document = json.loads(snapshot)
    except ValueError as error:
        raise Refused(f"docs/openapi.json is not JSON ({error}); restore it from Git") from None
    document["paths"] = {
        name: item for name, item in document["paths"].items() if not f"{name}/".startswith(f"{path}/")
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def rewrite_snapshot() -> Path:
    """Write docs/openapi.json from the code as it is now. The modules that this process has imported are out of date.

    :raises Refused: the code can't be imported, or it has other changes that break clients.
    """
    run = subprocess.run(
        [sys.executable, "-m", "dev.openapi"], cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False
    )
    if run.returncode != 0:
        raise Refused(f"the other files were written, but docs/openapi.json was not:\n{run.stderr.strip()}")
    return SNAPSHOT


def packages() -> list[Path]:
    """The folders of the project that hold modules."""
    return sorted(path.parent for path in PROJECT.glob("*/__init__.py"))


def python_files() -> list[Path]:
    """All Python files of the project."""
    found = list(PROJECT.glob("*.py"))
    for folder in packages():
        found += sorted(folder.rglob("*.py"))
    return found


def imports_of(path: Path) -> set[str]:
    """The full names of the modules, and of the names in them, that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def write(created: dict[Path, str], changed: dict[Path, str], deleted: Sequence[Path] = ()) -> None:
    """Create, change and delete files: all, or none.

    :param created: files that do not exist yet, each with its text.
    :param changed: existing files, each with its new text.
    """
    before = {path: path.read_bytes() for path in (*changed, *deleted)}
    new: list[Path] = []
    touched: list[Path] = []
    try:
        for path, text in created.items():
            with path.open("x") as file:
                new.append(path)
                file.write(text)
        for path, text in changed.items():
            touched.append(path)
            path.write_text(text)
        for path in deleted:
            path.unlink()
            touched.append(path)
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.unlink()
        for path in touched:
            # A file that could not be opened for the change can't be opened again, and is as it was.
            with suppress(OSError):
                path.write_bytes(before[path])
        raise


def uncommitted(paths: Sequence[Path]) -> list[Path]:
    """The files of which Git has no copy: untracked, ignored, or changed since the last commit."""
    return [path for path in paths if not _is_committed(path)]


def _is_committed(path: Path) -> bool:
    command = ["git", "status", "--porcelain", "--ignored", "--", str(path)]
    try:
        run = subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        return False
    return run.returncode == 0 and not run.stdout
