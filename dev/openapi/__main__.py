"""Rewrite docs/openapi.json, the snapshot of the OpenAPI document, from the code.

A change that breaks clients is refused, unless VERSION in api.py has a greater minor version than the last release in
CHANGELOG.md; from 1.0, a greater major version. docs/api.md lists the changes that break clients.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from dev.openapi import snapshot


def main(given: Sequence[str] | None = None) -> None:
    """Run the command.

    :param given: command-line arguments; None for the arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dev.openapi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the snapshot is stale")
    arguments = parser.parse_args(given)
    current = snapshot.current_text()
    if snapshot.SNAPSHOT.exists():
        previous = snapshot.SNAPSHOT.read_text()
        try:
            before = json.loads(previous)
        except ValueError as error:
            sys.exit(f"docs/openapi.json is not JSON ({error}): restore it from Git, then run `make openapi`.")
    elif arguments.check:
        sys.exit("docs/openapi.json does not exist: run `make openapi`.")
    else:
        previous, before = "", None
    after = json.loads(current)
    released = snapshot.last_release(snapshot.CHANGELOG.read_text())
    if before and released and (found := snapshot.forbidden_changes(before, after, released)):
        sys.exit(
            "\n  ".join(["The API has changes that break clients:", *found])
            + f"\nUndo them, or set VERSION in api.py to {snapshot.next_breaking_version(released)} or later. It is "
            f"{after['info']['version']}, and the last release in CHANGELOG.md is {'.'.join(map(str, released))}."
        )
    if not arguments.check:
        snapshot.SNAPSHOT.write_text(current)
        print("Wrote docs/openapi.json.")
    elif previous != current:
        sys.exit(
            "\n  ".join(["docs/openapi.json is stale:", *snapshot.differences(before, after)]) + "\nRun `make openapi`."
        )


if __name__ == "__main__":
    main()
