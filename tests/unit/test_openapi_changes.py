"""`make openapi` and its check: breaking changes, the version rule, and the stale snapshot."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dev.openapi import snapshot
from dev.openapi.__main__ import main
from dev.openapi.compare import breaking_changes
from tests.support import PROJECT

Document = dict[str, Any]

REPORT = {"$ref": "#/components/schemas/Report"}
DOCUMENT: Document = {
    "openapi": "3.1.0",
    "info": {"title": "Test", "version": "0.2.0"},
    "paths": {
        "/reports": {
            "get": {
                "parameters": [
                    {
                        "name": "limit",
                        "in": "query",
                        "required": False,
                        "schema": {"type": "integer", "minimum": 1, "maximum": 100},
                    },
                    {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
                    {"$ref": "#/components/parameters/X-Request-ID"},
                ],
                "responses": {
                    "200": {
                        "description": "Done",
                        "headers": {"Link": {"$ref": "#/components/headers/Link"}},
                        "content": {
                            "application/json": {"schema": {"type": "array", "items": REPORT}},
                            "text/csv": {"schema": {"type": "string"}},
                        },
                    },
                    "404": {"$ref": "#/components/responses/NotFound"},
                },
            },
            "post": {
                "requestBody": {
                    "required": False,
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/NewReport"}},
                        "application/x-ndjson": {"schema": {"type": "string"}},
                    },
                },
                "responses": {"201": {"description": "Done", "content": {"application/json": {"schema": REPORT}}}},
            },
        },
        "/reports/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {"responses": {"200": {"description": "Done"}}},
        },
    },
    "components": {
        "parameters": {"X-Request-ID": {"name": "X-Request-ID", "in": "header", "schema": {"type": "string"}}},
        "headers": {"Link": {"schema": {"type": "string"}}},
        "responses": {"NotFound": {"description": "Not found"}},
        "schemas": {
            "NewReport": {
                "type": "object",
                "additionalProperties": False,
                "required": ["title"],
                "properties": {
                    "title": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[a-z]+$"},
                    "score": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}], "default": None},
                    "tags": {"type": "array", "items": {"type": "string", "format": "email"}, "maxItems": 5},
                    "sizes": {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
                    "kind": {"enum": ["a", "b"]},
                    "at": {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "time"}]},
                    "part_of": {"$ref": "#/components/schemas/NewReport"},
                },
            },
            "Report": {
                "type": "object",
                "required": ["id", "title", "score"],
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "title": {"type": "string", "maxLength": 100},
                    "score": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "note": {"type": "string"},
                    "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Report"}},
                },
            },
        },
    },
}

GET = ("paths", "/reports", "get")
POST = ("paths", "/reports", "post")
NEW = ("components", "schemas", "NewReport")
INPUT = (*NEW, "properties")
OUTPUT = ("components", "schemas", "Report")
FIELDS = (*OUTPUT, "properties")
REMOVED = object()

BREAKING = [
    # Operations, parameters and bodies.
    ((*GET,), REMOVED, "GET /reports: the operation was removed."),
    (("paths", "/reports/{id}"), REMOVED, "GET /reports/{id}: the operation was removed."),
    ((*GET, "parameters", 0), REMOVED, "GET /reports: query parameter limit was removed."),
    ((*GET, "parameters", 0, "name"), "max", "GET /reports: query parameter limit was removed."),
    (
        (*GET, "parameters", 3),
        {"name": "at", "in": "query", "required": True},
        "GET /reports: query parameter at is new and required.",
    ),
    (
        (*GET, "parameters", 0, "required"),
        True,
        "GET /reports, query parameter limit: the parameter was optional, is now required.",
    ),
    (
        (*GET, "parameters", 0, "schema", "maximum"),
        50,
        "GET /reports, query parameter limit: maximum was 100, is now 50.",
    ),
    (
        (*GET, "parameters", 0, "schema", "type"),
        "string",
        "GET /reports, query parameter limit: value was integer, is now string.",
    ),
    (
        (*GET, "parameters", 1, "schema", "enum"),
        ["asc"],
        'GET /reports, query parameter order: enum was ["asc", "desc"], is now ["asc"].',
    ),
    (
        ("components", "parameters", "X-Request-ID", "schema", "pattern"),
        "^a$",
        'GET /reports, header parameter x-request-id: pattern was not set, is now "^a$".',
    ),
    (
        ("paths", "/reports/{id}", "parameters", 0, "schema", "format"),
        "uuid",
        'GET /reports/{id}, path parameter id: format was not set, is now "uuid".',
    ),
    ((*GET, "security"), [{"token": []}], 'GET /reports: security was not set, is now [{"token": []}].'),
    ((*POST, "requestBody"), REMOVED, "POST /reports: the request body was removed."),
    (
        (*POST, "requestBody", "required"),
        True,
        "POST /reports: the request body was optional, is now required.",
    ),
    ((*GET, "requestBody"), {"required": True}, "GET /reports: the request body is new and required."),
    (
        (*POST, "requestBody", "content", "application/x-ndjson"),
        REMOVED,
        "POST /reports, request body: application/x-ndjson was removed.",
    ),
    # Fields of input.
    ((*INPUT, "score"), REMOVED, "field NewReport.score was removed."),
    ((*NEW, "required"), ["title", "tags"], "field NewReport.tags was optional, is now required."),
    ((*NEW, "required"), ["title", "extra"], "field NewReport.extra is new and required."),
    ((*INPUT, "title", "type"), "integer", "field NewReport.title was string, is now integer."),
    ((*INPUT, "title", "minLength"), 2, "field NewReport.title: minLength was 1, is now 2."),
    ((*INPUT, "title", "pattern"), "^[a-y]+$", 'field NewReport.title: pattern was "^[a-z]+$", is now "^[a-y]+$".'),
    ((*INPUT, "title", "enum"), ["a"], 'field NewReport.title: enum was not set, is now ["a"].'),
    ((*INPUT, "title", "const"), "a", 'field NewReport.title: const was not set, is now "a".'),
    ((*INPUT, "title", "not"), {"enum": ["a"]}, 'NewReport.title: not was not set, is now {"enum": ["a"]}.'),
    ((*INPUT, "score"), {"type": "number", "minimum": 0}, "field NewReport.score was number or null, is now number."),
    ((*INPUT, "score", "anyOf", 0, "minimum"), 1, "field NewReport.score: minimum was 0, is now 1."),
    ((*INPUT, "score", "anyOf", 0, "exclusiveMinimum"), 0, "exclusiveMinimum was not set, is now 0."),
    ((*INPUT, "score", "anyOf", 0, "type"), "integer", "NewReport.score was number or null, is now integer or null."),
    ((*INPUT, "tags", "maxItems"), 4, "field NewReport.tags: maxItems was 5, is now 4."),
    ((*INPUT, "tags", "uniqueItems"), True, "field NewReport.tags: uniqueItems was not set, is now true."),
    ((*INPUT, "tags", "items", "format"), "uri", 'field NewReport.tags[]: format was "email", is now "uri".'),
    ((*INPUT, "sizes", "additionalProperties", "maximum"), 9, "NewReport.sizes.*: maximum was not set, is now 9."),
    ((*INPUT, "sizes", "additionalProperties"), False, "NewReport.sizes: other fields was accepted, is now rejected."),
    ((*INPUT, "kind", "enum"), ["a"], 'field NewReport.kind: enum was ["a", "b"], is now ["a"].'),
    # Responses.
    ((*GET, "responses", "404"), REMOVED, "GET /reports: response 404 was removed."),
    (
        (*GET, "responses", "200", "content", "text/csv"),
        REMOVED,
        "GET /reports, response 200: text/csv was removed.",
    ),
    ((*GET, "responses", "200", "headers"), {}, "GET /reports, response 200: header Link was removed."),
    (
        ("components", "headers", "Link", "schema", "type"),
        "integer",
        "GET /reports, response 200, header Link: value was string, is now integer.",
    ),
    (
        (*GET, "responses", "200", "content", "application/json", "schema"),
        REPORT,
        "GET /reports, response 200 (application/json): value was array, is now object.",
    ),
    # Fields of output.
    ((*FIELDS, "title"), REMOVED, "field Report.title was removed."),
    ((*FIELDS, "note"), REMOVED, "field Report.note was removed."),
    ((*OUTPUT, "required"), ["id", "title"], "field Report.score was always present, is now optional."),
    ((*FIELDS, "title", "type"), ["string", "null"], "field Report.title was string, is now string or null."),
    (
        (*FIELDS, "title"),
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "field Report.title was string, is now string or null.",
    ),
    ((*FIELDS, "title"), {}, "field Report.title was string, is now any value."),
    ((*FIELDS, "id", "type"), "integer", "field Report.id was string, is now integer."),
    ((*FIELDS, "id", "format"), "date", 'field Report.id: format was "uuid", is now "date".'),
    ((*FIELDS, "id", "format"), REMOVED, 'field Report.id: format was "uuid", is now not set.'),
    ((*FIELDS, "score", "anyOf", 0, "type"), "number", "Report.score was integer or null, is now number or null."),
    ((*FIELDS, "sizes", "additionalProperties", "type"), "number", "Report.sizes.* was integer, is now number."),
    ((*FIELDS, "parts", "items"), {"type": "string"}, "field Report.parts[] was object, is now string."),
]

COMPATIBLE = [
    (("paths", "/reports", "put"), {"responses": {}}),
    (("paths", "/other"), {"get": {"responses": {}}}),
    ((*GET, "parameters", 3), {"name": "at", "in": "query"}),
    ((*GET, "parameters", 0, "schema", "maximum"), 200),
    ((*GET, "parameters", 0, "schema", "maximum"), REMOVED),
    ((*GET, "parameters", 0, "schema", "type"), "number"),
    ((*GET, "parameters", 0, "description"), "Another text."),
    ((*GET, "parameters", 1, "schema", "enum"), ["asc", "desc", "random"]),
    ((*GET, "parameters", 1, "schema", "enum"), REMOVED),
    (("components", "parameters", "X-Request-ID", "name"), "x-request-id"),
    (("paths", "/reports/{id}", "parameters", 0, "required"), False),
    ((*GET, "requestBody"), {"required": False}),
    ((*GET, "responses", "500"), {"description": "Failed"}),
    ((*GET, "responses", "200", "content", "text/html"), {}),
    ((*GET, "responses", "200", "headers", "ETag"), {}),
    ((*INPUT, "extra"), {"type": "string"}),
    ((*NEW, "required"), []),
    ((*NEW, "additionalProperties"), True),
    ((*NEW, "title"), "Another title"),
    ((*INPUT, "title", "pattern"), REMOVED),
    ((*INPUT, "title", "minLength"), 0),
    ((*INPUT, "title", "type"), ["string", "null"]),
    ((*INPUT, "score", "default"), 1),
    ((*INPUT, "score", "anyOf", 2), {"type": "string"}),
    ((*INPUT, "score", "anyOf", 0, "minimum"), REMOVED),
    ((*INPUT, "tags", "items"), {}),
    ((*INPUT, "sizes", "additionalProperties"), {"type": "number", "minimum": 0}),
    ((*INPUT, "kind", "enum"), ["b", "c", "a"]),
    ((*FIELDS, "extra"), {"type": "string"}),
    ((*OUTPUT, "additionalProperties"), False),
    ((*OUTPUT, "required"), ["id", "title", "score", "note"]),
    ((*FIELDS, "title", "maxLength"), 200),
    ((*FIELDS, "title", "maxLength"), 50),
    ((*FIELDS, "title", "enum"), ["a"]),
    ((*FIELDS, "score"), {"type": "integer"}),
    ((*FIELDS, "note", "format"), "date"),
    ((*FIELDS, "sizes", "additionalProperties", "minimum"), 0),
]


def changed(at: tuple[str | int, ...], value: Any, document: Document = DOCUMENT) -> Document:
    """Return a copy of a document with one change. In a list, a position after the end appends."""
    result = copy.deepcopy(document)
    parent: Any = result
    for key in at[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[at[-1]]
    elif isinstance(parent, list) and at[-1] == len(parent):
        parent.append(value)
    else:
        parent[at[-1]] = value
    return result


@pytest.mark.parametrize(("at", "value", "sentence"), BREAKING)
def test_breaking_changes_are_described(at: tuple[str | int, ...], value: Any, sentence: str) -> None:
    found = breaking_changes(DOCUMENT, changed(at, value))
    assert any(each.endswith(sentence) for each in found), found
    # Sentences about fields also name the operations.
    assert all(each.startswith(("GET /reports", "POST /reports")) for each in found)


@pytest.mark.parametrize(("at", "value"), COMPATIBLE)
def test_compatible_changes_are_allowed(at: tuple[str | int, ...], value: Any) -> None:
    assert changed(at, value) != DOCUMENT
    assert breaking_changes(DOCUMENT, changed(at, value)) == []


def test_sentences_name_the_operations() -> None:
    """A change of a schema that several operations use is one sentence."""
    (sentence,) = breaking_changes(DOCUMENT, changed((*FIELDS, "id", "type"), "integer"))
    assert sentence == (
        "GET /reports, response 200 (application/json); POST /reports, response 201 (application/json): "
        "field Report.id was string, is now integer."
    )


@pytest.mark.parametrize(
    ("released", "version", "allowed"),
    [
        ("0.2.0", "0.2.0", False),
        ("0.2.0", "0.2.9", False),
        ("0.2.0", "0.1.0", False),
        ("0.2.0", "0.3.0", True),
        ("0.2.7", "0.10.0", True),
        ("0.2.0", "1.0.0", True),
        ("1.2.0", "1.3.0", False),
        ("1.2.0", "0.9.0", False),
        ("1.2.0", "2.0.0", True),
        ("9.0.0", "10.0.0", True),
    ],
)
def test_version_allows_breaking_changes(released: str, version: str, allowed: bool) -> None:
    changelog = (
        f"# Changelog\n\n## [Unreleased]\n\n### Added\n\n## [{released}] - 2026-01-01\n\n## [0.0.1] - 2025-01-01\n"
    )
    after = changed((*GET,), REMOVED, changed(("info", "version"), version))
    found = snapshot.forbidden_changes(DOCUMENT, after, snapshot.last_release(changelog))
    assert found == ([] if allowed else ["GET /reports: the operation was removed."])


def test_nothing_is_forbidden_before_the_first_release() -> None:
    assert snapshot.last_release("# Changelog\n\n## [Unreleased]\n") is None
    assert snapshot.forbidden_changes(DOCUMENT, changed((*GET,), REMOVED), None) == []


@pytest.mark.parametrize(("released", "following"), [((0, 2, 5), "0.3.0"), ((1, 2, 5), "2.0.0")])
def test_next_breaking_version(released: tuple[int, int, int], following: str) -> None:
    assert snapshot.next_breaking_version(released) == following


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        ((*GET, "summary"), "Text", "GET /reports: summary is new."),
        ((*GET, "responses", "404"), REMOVED, "GET /reports: responses.404 was removed."),
        (("paths", "/a"), {"get": {}, "put": {}}, "GET /a is new."),
        (("paths", "/reports/{id}", "get"), REMOVED, "GET /reports/{id} was removed."),
        (("info", "title"), "Other", 'info.title was "Test", is now "Other".'),
        ((*NEW, "required"), ["title", "tags"], 'components.schemas.NewReport.required: "tags" is new.'),
        ((*GET, "parameters", 0, "name"), "max", 'GET /reports: parameters.0.name was "limit", is now "max".'),
    ],
)
def test_every_difference_is_described(at: tuple[str | int, ...], value: Any, sentence: str) -> None:
    assert next(snapshot.differences(DOCUMENT, changed(at, value))) == sentence


@pytest.fixture(scope="module")
def current() -> str:
    """The text of the snapshot of the working tree."""
    return snapshot.current_text()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, current: str) -> Path:
    """A folder that contains the snapshot and a changelog, in which the last release is the version of the service."""
    monkeypatch.setattr(snapshot, "SNAPSHOT", tmp_path / "openapi.json")
    monkeypatch.setattr(snapshot, "CHANGELOG", tmp_path / "CHANGELOG.md")
    monkeypatch.setattr(snapshot, "current_text", lambda: current)
    (tmp_path / "openapi.json").write_text(current)
    version = json.loads(current)["info"]["version"]
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{version}] - 2026-01-01\n")
    return tmp_path


def run(*arguments: str) -> str:
    """Run the command, and return its error message; empty after success."""
    try:
        main(arguments)
    except SystemExit as exited:
        # For a message, the exit status is 1.
        return str(exited.code)
    return ""


# Changes of the snapshot, so that the working tree has the opposite change.
LIVE = ("paths", "/health/live", "get")
REMOVED_LATER = ((*LIVE, "parameters", 0), {"name": "verbose", "in": "query", "schema": {"type": "boolean"}})
ADDED_LATER = ((*LIVE, "summary"), REMOVED)


def test_current_snapshot_passes(files: Path, current: str) -> None:
    assert run("--check") == ""
    assert (files / "openapi.json").read_text() == current


def test_stale_snapshot_fails_and_is_rewritten(files: Path, current: str) -> None:
    (files / "openapi.json").write_text(snapshot.text_of(changed(*ADDED_LATER, json.loads(current))))
    message = run("--check")
    assert message.splitlines() == [
        "docs/openapi.json is stale:",
        "  GET /health/live: summary is new.",
        "Run `make openapi`.",
    ]
    assert run() == ""
    assert (files / "openapi.json").read_text() == current
    assert run("--check") == ""


def test_missing_snapshot_fails_and_is_written(files: Path, current: str) -> None:
    (files / "openapi.json").unlink()
    assert run("--check") == "docs/openapi.json does not exist: run `make openapi`."
    assert run() == ""
    assert (files / "openapi.json").read_text() == current


def test_unparsable_snapshot_is_reported(files: Path) -> None:
    """For example after a merge with conflicts."""
    (files / "openapi.json").write_text("{\n<<<<<<< HEAD\n")
    for arguments in ([], ["--check"]):
        assert run(*arguments).startswith("docs/openapi.json is not JSON (Expecting property name")
    assert (files / "openapi.json").read_text() == "{\n<<<<<<< HEAD\n"


def test_breaking_change_is_refused_until_the_version_allows_it(files: Path, current: str) -> None:
    """The command that writes the snapshot refuses it too."""
    before = snapshot.text_of(changed(*REMOVED_LATER, json.loads(current)))
    (files / "openapi.json").write_text(before)
    (files / "CHANGELOG.md").write_text(f"## [{json.loads(current)['info']['version']}] - 2026-01-01\n")
    for arguments in ([], ["--check"]):
        lines = run(*arguments).splitlines()
        assert lines[:2] == [
            "The API has changes that break clients:",
            "  GET /health/live: query parameter verbose was removed.",
        ]
        assert lines[2].startswith("Undo them, or set VERSION in api.py to ")
    assert (files / "openapi.json").read_text() == before

    (files / "CHANGELOG.md").write_text("## [0.0.1] - 2026-01-01\n")
    assert run("--check").endswith("Run `make openapi`.")
    assert run() == ""
    assert (files / "openapi.json").read_text() == current


def test_snapshot_does_not_depend_on_the_environment(current: str, tmp_path: Path) -> None:
    """Neither on settings, valid or not, nor on the seed of hashes."""
    environment_file = tmp_path / "env"
    environment_file.write_text("DIAGNOSTICS=true\nREAD_ONLY=maybe\n")
    settings = {"APP_ENV": "development", "DIAGNOSTICS": "true", "MAX_BODY_BYTES": "none", "SECRET_KEY": "short"}
    printed = subprocess.run(
        [sys.executable, "-c", "from dev.openapi.snapshot import current_text; print(current_text(), end='')"],
        cwd=PROJECT,
        env=os.environ | settings | {"ENV_FILE": str(environment_file), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert printed.stdout == current


def test_snapshot_is_the_contract_of_production(current: str) -> None:
    paths = json.loads(current)["paths"]
    assert list(paths) == sorted(paths)
    assert paths["/shutdown"]["post"]["security"]
    assert not {path for path in paths if path.startswith(("/performance/", "/context_manager_safety/", "/observers"))}
