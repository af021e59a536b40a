"""Checks of the names of a new resource, in the project and in the generated modules."""

from __future__ import annotations

import ast
from pathlib import Path

from pydantic import BaseModel

from dev.resource.names import Refused
from dev.resource.project import PROJECT, modules_of, tables
from dev.resource.spec import Spec
from tests.testbed.app import create_app


def check_is_free(spec: Spec) -> None:
    """Check that the project does not use the singular or the plural of a resource.

    :raises Refused: the project uses one of them.
    """
    for path in modules_of(spec.plural).values():
        if path.exists():
            raise Refused(f"{path.relative_to(PROJECT)} already exists")
    taken = _names_in_use()
    # The explorer of a resource has the page /ui/<plural>.
    for name in (spec.singular, spec.plural, f"ui/{spec.plural}"):
        if name in taken:
            raise Refused(f"{name} is the name of {taken[name]}, so choose another name")


def _names_in_use() -> dict[str, str]:
    """Names that the project uses, each with a description of its use."""
    taken = {path.stem: "a file or folder of this project" for path in PROJECT.iterdir()}
    for folder in ("routes", "schemas", "storage/db_io"):
        taken |= {path.stem: f"a module in {folder}/" for path in (PROJECT / folder).glob("*.py")}
    taken |= dict.fromkeys([*tables(), "schema_migrations"], "a table")
    # Include the routes of the testbed: functional tests serve them together with the new resource.
    application = create_app()
    taken |= dict.fromkeys(application.blueprints, "a blueprint")
    rules = [rule.rule for rule in application.url_map.iter_rules()]
    taken |= {rule.split("/")[1]: f"the route {rule}" for rule in rules}
    taken |= {rule[1:]: f"the page {rule}" for rule in rules if rule.startswith("/ui/")}
    return taken


def check_modules(modules: dict[Path, str]) -> None:
    """Check that no module uses a name for two things, and that the models have new names.

    :param modules: the text of each module, with all imports that it may need.
    :raises Refused: a name is used for two things, or a model has the name of another model.
    """
    models = _models()
    for path, text in modules.items():
        name = path.relative_to(PROJECT).as_posix()
        tree = ast.parse(text)
        is_test = name.startswith("tests/")
        twice = (
            _first_repeated(_bound(tree)) or _used_twice_in_a_class(tree) or _bound_twice_in_a_function(tree, is_test)
        )
        if twice:
            raise Refused(f"{name} would use {twice} for two things, so choose another name")
        for model in _classes(tree):
            if path.is_relative_to(PROJECT / "schemas") and model in models:
                raise Refused(
                    f"{models[model].relative_to(PROJECT)} already has a class {model}, so choose another name"
                )


def _models() -> dict[str, Path]:
    """The names of the classes that the OpenAPI document has as schemas, each with its file."""
    paths = [*PROJECT.glob("schemas/*.py"), *PROJECT.glob("*/schemas.py")]
    return {name: path for path in paths for name in _classes(ast.parse(path.read_text()))}


def _classes(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _bound(tree: ast.Module | ast.ClassDef) -> list[str]:
    """The names that the statements of a module or class define."""
    bound: list[str] = []
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom():
                bound += [alias.asname or alias.name for alias in node.names]
            case ast.ClassDef() | ast.FunctionDef():
                bound.append(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                bound.append(name)
    return bound


def _used_twice_in_a_class(tree: ast.Module) -> str | None:
    """A field that is defined twice, that other fields use, or that is an attribute of every model."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            fields = _bound(node)
            used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
            used |= {name for name in fields if hasattr(BaseModel, name)} - {"model_config"}
            for repeated in (_first_repeated(fields), *(used & set(fields))):
                if repeated:
                    return repeated
    return None


def _bound_twice_in_a_function(tree: ast.Module, is_test: bool) -> str | None:
    """A repeated parameter, or a name that hides a parameter or a name of the module."""
    # Parameters of tests have the names of fixtures. A column `date` hides no class: the module then uses `dt.date`.
    of_module = set(_bound(tree)) - {"date", "datetime"}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            parameters = [argument.arg for argument in function.args.args]
            assigned = set(_assigned_in(function))
            hiding = assigned if is_test else assigned | set(parameters)
            for repeated in (_first_repeated(parameters), *(assigned & set(parameters)), *(hiding & of_module)):
                if repeated:
                    return repeated
    return None


def _assigned_in(node: ast.AST) -> list[str]:
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]


def _first_repeated(names: list[str]) -> str | None:
    return next((name for position, name in enumerate(names) if name in names[:position]), None)
