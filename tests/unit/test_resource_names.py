"""`python -m dev.resource`: rejected arguments, English forms of names, and the code of columns."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dev.resource import project, values
from dev.resource.__main__ import main
from dev.resource.columns import parse_column
from dev.resource.formatting import formatted
from dev.resource.names import plural_of, with_article
from routes import RESOURCES
from storage.cql.types import SCALARS

READING = ["--partition", "sensor:text", "--column", "temperature:decimal"]


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> dict[Path, str]:
    """The texts of the files that a command would write, by path. Nothing is written or deleted."""
    texts: dict[Path, str] = {}

    def record(created: dict[Path, str], changed: dict[Path, str], deleted: Sequence[Path] = ()) -> None:
        texts.update(created | changed | dict.fromkeys(deleted, ""))

    monkeypatch.setattr(project, "write", record)
    monkeypatch.setattr(project, "rewrite_snapshot", lambda: project.SNAPSHOT)
    return texts


def refusal(capsys: pytest.CaptureFixture[str], written: dict[Path, str], *arguments: str) -> str:
    """Run a command that must be refused, and return the reason."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert not written
    reason = capsys.readouterr().err.splitlines()[-1]
    prefix, reason = reason.split(": error: ")
    assert prefix in ("python -m dev.resource", "python -m dev.resource add")
    return reason


def test_a_resource_with_free_names_is_written(written: dict[Path, str]) -> None:
    main(["add", "weather_station", *READING])
    assert {path.relative_to(project.PROJECT).as_posix() for path in written} == {
        "schemas/weather_stations.py",
        "storage/db_io/weather_stations.py",
        "routes/weather_stations.py",
        "storage/sample_data/weather_stations.py",
        "tests/functional/test_weather_stations.py",
        project.next_migration("weather_stations").relative_to(project.PROJECT).as_posix(),
        "routes/__init__.py",
        "docs/api.md",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "lower-case letters") for name in ("Reading", "2x", "a__b", "a-b", "_a", "a_", "a b", "")),
        ("a" * 49, "at most 48 characters"),
        *((name, "reserved word of CQL") for name in ("select", "table", "token", "true")),
        *((name, "keyword or a builtin of Python") for name in ("class", "import", "list", "property")),
        *((name, "keyword or a builtin of Python") for name in ("none", "value_error")),
        ("l", "looks like a digit"),
        *((name, "the service itself uses") for name in ("auth", "jobs", "upload", "ui", "v1", "stream", "docs")),
        *((name, "name of a blueprint") for name in ("home", "diagnostic")),
        *((name, "name of a file or folder") for name in ("api", "test")),
        *((name, "name of the route") for name in ("find", "observers")),
        ("performance", "name of the route /performance/"),
        ("idempotency_key", "name of a table"),
        ("resource", "name of a module in routes/"),
        ("problem", "schemas/base.py already has a class Problem"),
        ("error", "tests/functional/test_errors.py already exists"),
        *((name, "for two things") for name in ("path", "decimal", "page", "session", "response")),
        ("sheep", "choose one with --plural"),
    ],
)
def test_names_of_resources_are_refused(
    capsys: pytest.CaptureFixture[str], written: dict[Path, str], name: str, reason: str
) -> None:
    assert reason in refusal(capsys, written, "add", name, *READING)


@pytest.mark.parametrize("name", ["version", "g", "location"])
def test_names_that_only_resources_with_an_id_use_are_refused(
    capsys: pytest.CaptureFixture[str], written: dict[Path, str], name: str
) -> None:
    assert "for two things" in refusal(capsys, written, "add", name, "--uuid-key", "--column", "title:text")


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        *((name, "lower-case letters") for name in ("A:int", "_x:int", "a b:int", ":int")),
        *((column, "write it as name:type") for column in ("x", "x:", "")),
        ("sensor:int", "is named twice"),
        *((column, "reserved word of CQL") for column in ("order:int", "from:text", "index:int")),
        *((name, "reserved word of CQL") for name in ("true:int", "false:int")),
        ("class:text", "keyword of Python"),
        ("l:int", "looks like a digit"),
        ("count:int", "a row is a tuple"),
        *((f"{name}:text", "pydantic uses that name") for name in ("json", "copy", "model_config", "model_x")),
        *((f"{name}:text", "for something else") for name in ("str", "parameters", "optional")),
        *((f"x:{name}", "is not a CQL type") for name in ("txt", "frozen<address>", "list<int", "map<int>", "int:asc")),
        ("x:counter", "counters need tables of their own"),
        *((f"x:{name}", "neither tuples") for name in ("tuple<int, text>", "list<frozen<tuple<int>>>")),
        *((f"x:{name}", "static columns") for name in ("int static", "int STATIC")),
        ("x:" + "list<" * 7 + "int" + ">" * 7, "nested too deeply"),
        ("x:" + "frozen<" * 1000 + "int" + ">" * 1000, "nested too deeply"),
        ("x:vector<int, 3>", "vectors of float only"),
        ("x:vector<float, 8193>", "at most 8192 elements"),
        ("x:map<list<int>, int>", "must have a scalar type"),
        *((f"x:{name}", "durations have no order") for name in ("set<duration>", "map<duration, int>")),
        *((f"x:{name}?", "a collection may always be omitted") for name in ("set<int>", "map<int, int>")),
    ],
)
def test_columns_are_refused(
    capsys: pytest.CaptureFixture[str], written: dict[Path, str], column: str, reason: str
) -> None:
    assert reason in refusal(capsys, written, "add", "mountain", "--partition", "sensor:text", "--column", column)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        *((f"x:{name}", "can't be in the primary key") for name in ("duration", "set<int>", "vector<float, 2>")),
        ("x:int?", "is never null"),
        *((f"{name}:text", "for something else") for name in ("endpoint", "page_state")),
        *((f"{name}:text", "for two things") for name in ("session", "options", "rows", "values", "stream")),
    ],
)
def test_key_columns_are_refused(
    capsys: pytest.CaptureFixture[str], written: dict[Path, str], column: str, reason: str
) -> None:
    clustered = ["--clustering", "number:int", "--column", "y:int"]
    assert reason in refusal(capsys, written, "add", "mountain", "--partition", column, *clustered)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--column", "a:int"], "name the partition key"),
        (["--uuid-key", "--partition", "a:int"], "the server generates the key"),
        (["--uuid-key", "--clustering", "a:int"], "the server generates the key"),
        (["--uuid-key"], "at least one --column"),
        *((["--uuid-key", "--column", f"{name}:int"], "the server generates id") for name in ("id", "version")),
        (["--uuid-key", "--column", "a:int", "--ttl", "5"], "--ttl is not possible"),
        *(([*READING, "--ttl", seconds], "seconds from 1 to 630720000") for seconds in ("0", "-1", "1.5", "630720001")),
        *(
            (["--uuid-key", "--column", "a:int", "--plural", plural], "for two things")
            for plural in ("created", "copy", "model_dump")
        ),
        (["--uuid-key", "--column", "dt:int", "--column", "date:date"], "use dt for two things"),
        ([*READING, "--plural", "none"], "keyword or a builtin of Python"),
        ([*READING, "--plural", "mountain"], "must differ from the singular"),
        ([*READING, "--plural", "Mountains"], "lower-case letters"),
        ([*READING, "--plural", "idempotency_keys"], "name of a table"),
    ],
)
def test_options_are_refused(
    capsys: pytest.CaptureFixture[str], written: dict[Path, str], options: list[str], reason: str
) -> None:
    assert reason in refusal(capsys, written, "add", "mountain", *options)


# The names that Python source of examples uses.
NAMES = {"Decimal": Decimal, "UTC": UTC, "UUID": UUID, "date": date, "datetime": datetime}
LONG = "a_name_of_48_characters_which_is_the_upper_limit"


@pytest.mark.parametrize(
    "options",
    [
        [
            "--partition",
            "device:uuid",
            "--partition",
            "account:uuid",
            "--partition",
            "region:uuid",
            "--clustering",
            "at:timestamp",
        ],
        ["--partition", f"{LONG}:text", "--partition", f"{LONG[:-1]}:text", "--clustering", f"{LONG[:-2]}:text:DESC"],
        ["--uuid-key", "--column", f"{LONG}:text?", "--column", f"{LONG[:-1]}:timestamp"],
    ],
)
@pytest.mark.parametrize("name", ["mountain", LONG[:-1]])
def test_long_lines_are_wrapped(written: dict[Path, str], name: str, options: list[str]) -> None:
    main(["add", name, "--plural", f"{name}s", *options, "--column", "v:int"])
    for path, text in written.items():
        if path.suffix == ".py":
            ast.parse(text)
            # One word can't be wrapped, and ruff allows it.
            assert not [line for line in text.splitlines() if len(line) > 120 and " " in line.strip()]
            assert formatted(path, text) == text


@pytest.mark.parametrize("cql_type", [f"set<{name}>" for name in sorted(SCALARS - {"counter", "duration"})])
@pytest.mark.parametrize("outer", ["{}", "set<{}>", "map<int, {}>", "set<list<{}>>"])
def test_example_sets_are_in_order(outer: str, cql_type: str) -> None:
    """Clients receive the elements of a set in the order of their values, at any depth."""
    column = parse_column(f"x:{outer.format(cql_type)}", "plain")
    for number in range(3):
        value = eval(values.python_value(column, number), NAMES)
        assert in_order(value) == value


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: in_order(each) for key, each in value.items()}
    return sorted(map(in_order, value)) if isinstance(value, list) else value


def test_timeuuids_have_the_order_of_their_times() -> None:
    column = parse_column("x:timeuuid", "clustering")
    times = [UUID(values.json_value(column, number)).time for number in range(3)]
    assert times == sorted(times)


def test_unknown_resources_are_not_removed(capsys: pytest.CaptureFixture[str], written: dict[Path, str]) -> None:
    assert "there is no resource mountains" in refusal(capsys, written, "remove", "mountains")


@pytest.mark.parametrize(
    ("column", "cql", "python", "field"),
    [
        ("x:varchar", "text", "str", "Text"),
        ("x:TIMESTAMP?", "timestamp", "datetime | None", "Timestamp"),
        ("x:set<text>", "frozen<set<text>>", "list[str]", "SetOf[Text]"),
        ("x:frozen<list<blob>>", "frozen<list<blob>>", "list[bytes]", "ListOf[Blob]"),
        (
            "x:map<timeuuid,list<decimal>>",
            "frozen<map<timeuuid, frozen<list<decimal>>>>",
            "dict[UUID, list[Decimal]]",
            "MapOf[parameters.TimeUuid, ListOf[Decimal]]",
        ),
        (
            "x:vector<float,3>",
            "vector<float, 3>",
            "list[float]",
            "Annotated[list[Float], Field(min_length=3, max_length=3)]",
        ),
    ],
)
def test_types_of_columns(column: str, cql: str, python: str, field: str) -> None:
    parsed = parse_column(column, "plain")
    assert (parsed.cql, parsed.python, parsed.field) == (cql, python, field)


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("reading", "readings"),
        ("weather_station", "weather_stations"),
        ("country", "countries"),
        ("day", "days"),
        ("box", "boxes"),
        ("branch", "branches"),
        ("analysis", "analyses"),
        ("sales_person", "sales_people"),
        ("leaf", "leaves"),
        ("species", "species"),
    ],
)
def test_english_plurals(singular: str, plural: str) -> None:
    assert plural_of(singular) == plural


@pytest.mark.parametrize(
    "noun", ["a reading", "an observation", "an item", "an hour", "a user", "a unit", "an umbrella", "a one-off"]
)
def test_articles(noun: str) -> None:
    assert with_article(noun.partition(" ")[2]) == noun


def test_modules_and_routes_are_listed_once_and_removed_again() -> None:
    registry, page = project.REGISTRY.read_text(), project.API_PAGE.read_text()
    row = "| `GET /mountain/<range>` | Read. |"
    for text, change in (
        (project.with_module(registry, "mountains"), {"added": '    "routes.mountains",'}),
        (project.with_routes(page, [row]), {"added": row}),
    ):
        assert text.splitlines().count(change["added"]) == 1
    assert project.without_module(project.with_module(registry, "mountains"), "mountains") == registry
    assert project.without_routes(project.with_routes(page, [row]), "/mountain") == page
    assert project.with_routes(page.replace("| `GET /performance/", "| `GET /x"), [row]).count(row) == 1


def test_failed_writes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    changed, new, existing = tmp_path / "changed", tmp_path / "new", tmp_path / "existing"
    changed.write_text("before")
    existing.write_text("other")
    texts: dict[Path, Any] = {changed: "after"}
    with pytest.raises(FileExistsError):
        project.write({new: "new", existing: "new"}, texts)
    assert (changed.read_text(), existing.read_text(), new.exists()) == ("before", "other", False)
    # The second deletion fails, because the first has succeeded.
    with pytest.raises(FileNotFoundError):
        project.write({new: "new"}, texts, [existing, existing])
    assert (changed.read_text(), existing.read_text(), new.exists()) == ("before", "other", False)


@pytest.mark.parametrize(
    "arguments", [("add", "mountain", *READING), *(("remove", resource.name) for resource in RESOURCES[:1])]
)
def test_files_that_cannot_be_written_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    def fail(*files: Any) -> None:
        raise PermissionError(13, "Permission denied", "routes/mountains.py")

    monkeypatch.setattr(project, "write", fail)
    reason = refusal(capsys, {}, *arguments)
    assert reason.startswith("nothing was changed")
    assert reason.endswith("Permission denied: 'routes/mountains.py'")
