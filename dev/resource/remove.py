"""Remove a resource: delete its files, unregister it, and write a migration.

The migration drops its table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dev.resource import project
from dev.resource.names import Refused, camel_case, in_prose
from routes import RESOURCES
from routes.resource import Resource

# The sample resources, each with the migration that creates its table.
SAMPLES = {
    "animals": "0001_animals_and_plants.cql",
    "plants": "0001_animals_and_plants.cql",
    "users": "0002_users.cql",
}


@dataclass(frozen=True)
class Removed:
    """The result of `remove`.

    :ivar uncommitted: those of the deleted files of which Git has no copy.
    :ivar pages: pages of the documentation that still mention the resources.
    """

    deleted: list[Path]
    uncommitted: list[Path]
    changed: list[Path]
    migration: Path
    pages: list[Path]


def find(name: str) -> Resource:
    """The resource with this singular or plural name.

    :raises Refused: no resource has this name.
    """
    for resource in RESOURCES:
        if name == resource.name or camel_case(name) == resource.schema.__name__:
            return resource
    raise Refused(f"there is no resource {name}; there are {in_prose([each.name for each in RESOURCES] or ['none'])}")


def find_samples() -> list[Resource]:
    """The sample resources that have not been removed. A later resource of the same name is none of them.

    :raises Refused: all of them have been removed.
    """
    tables = project.tables()
    found = [each for each in RESOURCES if each.name in SAMPLES and tables.get(each.name) == SAMPLES[each.name]]
    if not found:
        raise Refused(f"{in_prose(list(SAMPLES))} have already been removed")
    return found


def remove(resources: list[Resource], migration_name: str) -> Removed:
    """Remove resources.

    :param migration_name: of the migration that drops their tables, without its number.
    :raises Refused: another module imports one of their modules; nothing was changed.
    """
    deleted = [path for resource in resources for path in project.files_of(resource.name)]
    _check_is_unused(resources, deleted)
    registry, page = project.REGISTRY.read_text(), project.API_PAGE.read_text()
    snapshot = project.SNAPSHOT.read_text()
    for resource in resources:
        registry = project.without_module(registry, resource.name)
        page = project.without_routes(page, resource.path)
        snapshot = project.without_operations(snapshot, resource.path)
    changed = {project.REGISTRY: registry, project.API_PAGE: page, project.SNAPSHOT: snapshot}
    migration = project.next_migration(migration_name)
    drops = "".join(f"DROP TABLE IF EXISTS {resource.name};\n" for resource in resources)
    drops += "-- Without these entries, a new table with the same name gets its sample rows.\n"
    drops += "".join(
        f"DELETE FROM schema_migrations WHERE name = 'sample rows: {resource.name}';\n" for resource in resources
    )
    uncommitted = project.uncommitted(deleted)
    project.write({migration: drops}, changed, deleted)
    return Removed(deleted, uncommitted, list(changed), migration, _pages_about(resources))


def _check_is_unused(resources: list[Resource], deleted: list[Path]) -> None:
    own = {
        f"{package}.{resource.name}"
        for package in ("routes", "schemas", "storage.db_io", "storage.sample_data")
        for resource in resources
    }
    for path in project.python_files():
        if path not in deleted and (used := project.imports_of(path) & own):
            raise Refused(f"{path.relative_to(project.PROJECT)} imports {min(used)}; change or delete it first")


def _pages_about(resources: list[Resource]) -> list[Path]:
    words = {word for resource in resources for word in (resource.name, resource.path[1:])}
    pattern = re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)
    pages = [project.PROJECT / "README.md", *sorted((project.PROJECT / "docs").glob("*.md"))]
    return [page for page in pages if pattern.search(page.read_text())]
