"""Write the files of a new resource, and register it."""

from __future__ import annotations

import pprint
from collections.abc import Sequence
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dev.resource import clashes, names, project
from dev.resource.columns import Column, parse_column
from dev.resource.formatting import formatted
from dev.resource.names import Refused
from dev.resource.spec import Spec

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)
_templates.filters.update(
    python=lambda value: pprint.pformat(value, width=1000, sort_dicts=False),
    multiline=lambda value: "{" + "".join(f"{name!r}: {each!r},\n" for name, each in value.items()) + "}",
    sequence=lambda items: ", ".join(items) + ("," if len(items) == 1 else ""),
    prose=names.in_prose,
    snake=lambda text: text.replace(" ", "_"),
    quoted=lambda text: f'"{text}"',
    capital=lambda text: text[0].upper() + text[1:],
)
_templates.globals["uuid_of"] = lambda name, number: uuid5(NAMESPACE_URL, f"{name} {number}")

# The columns that the server generates with --uuid-key.
_SERVER_COLUMNS = ("id", "created_at", "updated_at", "version")


def spec_of(
    name: str,
    plural: str | None,
    partition: Sequence[str],
    clustering: Sequence[str],
    columns: Sequence[str],
    *,
    ttl: int | None,
    deletable: bool,
    uuid_key: bool,
) -> Spec:
    """Check the arguments of `add`, and return the resource that they describe.

    :param partition: columns as the user wrote them, as are `clustering` and `columns`.
    :raises Refused: the arguments are not valid; the message says why.
    """
    names.check_resource_name(name)
    plural = plural or names.plural_of(name)
    names.check_resource_name(plural)
    if plural == name:
        raise Refused(
            f"the plural of {name} must differ from the singular: choose one with --plural, for example {name}_list"
        )
    if uuid_key and (partition or clustering):
        raise Refused("with --uuid-key the server generates the key, so leave out --partition and --clustering")
    if not uuid_key and not partition:
        raise Refused("name the partition key with --partition, or let the server generate an id with --uuid-key")
    if uuid_key and ttl is not None:
        raise Refused("--ttl is not possible with --uuid-key, because an update would renew only some columns of a row")
    if uuid_key and not columns:
        raise Refused("name at least one --column")
    key = [
        *(parse_column(text, "partition") for text in partition),
        *(parse_column(text, "clustering") for text in clustering),
    ]
    plain = [parse_column(text, "plain") for text in columns]
    _check_columns([*key, *plain], uuid_key)
    return Spec(name, plural, tuple(key), tuple(plain), ttl, deletable, uuid_key)


def _check_columns(columns: Sequence[Column], uuid_key: bool) -> None:
    seen: set[str] = set()
    for column in columns:
        if column.name in seen:
            raise Refused(f"column {column.name} is named twice")
        if uuid_key and column.name in _SERVER_COLUMNS:
            raise Refused(f"column {column.name}: with --uuid-key the server generates {', '.join(_SERVER_COLUMNS)}")
        seen.add(column.name)


def add(spec: Spec) -> tuple[list[Path], list[Path]]:
    """Write the files of a resource, its line in routes/__init__.py and its rows in docs/api.md.

    :returns: the files that were created, and those that were changed.
    :raises Refused: a name is already in use; nothing was written.
    """
    clashes.check_is_free(spec)
    modules = {path: _render(spec, template) for template, path in project.modules_of(spec.plural).items()}
    clashes.check_modules(modules)
    created = {path: formatted(path, text) for path, text in modules.items()}
    created[project.next_migration(spec.plural)] = _render(spec, "migration")
    rows = [row for row in _render(spec, "api").splitlines() if row]
    changed = {
        project.REGISTRY: project.with_module(project.REGISTRY.read_text(), spec.plural),
        project.API_PAGE: project.with_routes(project.API_PAGE.read_text(), rows),
    }
    project.write(created, changed)
    return list(created), list(changed)


def _render(spec: Spec, template: str) -> str:
    folder = "uuid_key" if spec.uuid_key else "partition"
    found = _templates.select_template([f"{folder}/{template}.j2", f"{template}.j2"])
    return found.render(spec=spec)
