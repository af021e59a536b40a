"""Add a resource to this project, or remove one.

Each resource is a table with its routes: docs/adding-a-resource.md explains its files.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from dev.resource import project
from dev.resource.generate import add, spec_of
from dev.resource.names import Refused, in_prose
from dev.resource.remove import SAMPLES, find, find_samples, remove
from environment import default_to_development
from storage.cql.types import SCALARS

_ADD_DETAILS = f"""\
columns
  temperature:decimal        a required field
  'note:text?'               an optional field: the client may omit it or send null
  'tags:set<text>'           a collection is always optional, and empty if the client omits it

types
{fill(" ".join(sorted(SCALARS - {"counter"})), width=90, initial_indent="  ", subsequent_indent="  ")}
  list<T>  set<T>  map<K, V>  vector<float, SIZE>

examples
  python -m dev.resource add reading --partition sensor:text --clustering recorded_at:timestamp:desc \\
      --column temperature:decimal --column 'note:text?' --column 'tags:set<text>'
  python -m dev.resource add visitor --uuid-key --column name:text --column born_on:date
"""


def main(given: Sequence[str] | None = None) -> None:
    """Run the command.

    :param given: command-line arguments; None for the arguments of the process.
    """
    parser = _parser()
    arguments = parser.parse_args(given)
    default_to_development()
    try:
        arguments.run(arguments)
    except Refused as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"nothing was changed, because a file can't be read or written: {error}")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m dev.resource", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    adding = commands.add_parser(
        "add",
        help="add a resource: its modules, migration, sample rows and tests",
        description="Add a resource: its modules, migration, sample rows and tests. If a name or type is not\n"
        "valid, nothing is written.",
        epilog=_ADD_DETAILS,
        formatter_class=raw,
    )
    adding.add_argument("name", metavar="NAME", help="a singular noun in snake_case, for example weather_station")
    adding.add_argument("--plural", metavar="WORD", help="name of the table; by default the English plural of NAME")
    adding.add_argument(
        "--partition",
        metavar="NAME:TYPE",
        action="append",
        default=[],
        help="a column of the partition key: every query gives its value; may be repeated",
    )
    adding.add_argument(
        "--clustering",
        metavar="NAME:TYPE[:asc|desc]",
        action="append",
        default=[],
        help="a clustering column: it identifies and orders the rows of a partition; may be repeated",
    )
    adding.add_argument(
        "--column", metavar="NAME:TYPE[?]", action="append", default=[], help="another column; may be repeated"
    )
    adding.add_argument(
        "--ttl", metavar="SECONDS", type=_seconds, help="delete each row this long after its last write"
    )
    adding.add_argument("--no-delete", action="store_true", help="no DELETE route")
    adding.add_argument(
        "--uuid-key",
        action="store_true",
        help="instead of --partition and --clustering: the server generates id, created_at, updated_at and a version "
        "(ETag), and changes rows with lightweight transactions",
    )
    adding.set_defaults(run=_add)
    removing = commands.add_parser(
        "remove",
        help="remove a resource: its files and its table",
        description="Delete the files of a resource, unregister it, and write the migration that drops its table.\n"
        "Check the result with `git status` and `git diff`. Files that are not committed are deleted too, and listed.",
        formatter_class=raw,
    )
    which = removing.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="the singular or plural of the resource")
    which.add_argument(
        "--samples", action="store_true", help=f"remove the sample resources that are left ({in_prose(list(SAMPLES))})"
    )
    removing.set_defaults(run=_remove)
    return parser


def _seconds(text: str) -> int:
    # Cassandra's limit is 20 years.
    if not text.isdecimal() or not 1 <= int(text) <= 630_720_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 630720000")
    return int(text)


def _add(arguments: argparse.Namespace) -> None:
    spec = spec_of(
        arguments.name,
        arguments.plural,
        arguments.partition,
        arguments.clustering,
        arguments.column,
        ttl=arguments.ttl,
        deletable=not arguments.no_delete,
        uuid_key=arguments.uuid_key,
    )
    created, changed = add(spec)
    _list("Wrote", created)
    _list("Changed", [*changed, project.rewrite_snapshot()])
    body = json.dumps(spec.document(spec.test_partition), ensure_ascii=False)
    url = f"http://127.0.0.1:8000{spec.path}"
    print("\nNext:")
    print("  make schema .venv/test-ready")
    print(f"  .venv/bin/python -m pytest tests/unit tests/functional/test_{spec.plural}.py")
    print("  make run")
    print(f"  curl -i {url} -H 'Content-Type: application/json' \\\n      -d {shlex.quote(body)}")
    print(f"  curl http://127.0.0.1:8000{spec.list_path(spec.test_partition)}")


def _remove(arguments: argparse.Namespace) -> None:
    resources = find_samples() if arguments.samples else [find(arguments.name)]
    removed = remove(resources, "drop_samples" if arguments.samples else f"drop_{resources[0].name}")
    _list("Deleted", [path for path in removed.deleted if path not in removed.uncommitted])
    _list("Deleted for good, because Git has no copy of the file as it was", removed.uncommitted)
    _list("Changed", removed.changed)
    _list("Wrote", [removed.migration])
    project.rewrite_snapshot()
    _list(f"Pages that still mention {in_prose([each.name for each in resources])}", removed.pages)
    print("\nNext:")
    print("  make schema")
    print("\nThe next `make run` applies the migration, which deletes the rows.")


def _list(title: str, paths: list[Path]) -> None:
    if paths:
        print(f"{title}:")
    for path in paths:
        print(f"  {path.relative_to(project.PROJECT)}")


if __name__ == "__main__":
    main()
