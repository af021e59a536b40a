"""Run the linters, and the tests whose result depends on the sample resources, without these resources.

The sample resources are removed in a temporary copy of the project.

    python -m tests.without_samples

This is `make test-without-samples`. The copy uses the virtual environment of the project.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import copy_mypy_cache, copy_project

# The functional tests of the application and its commands, without slow tests. The other functional tests use the
# resources of the testbed, which the removal does not change.
FUNCTIONAL = [
    f"tests/functional/test_{name}.py"
    for name in (
        "check_command",
        "db_commands",
        "docs",
        "initialize",
        "migrations",
        "openapi",
        "resource_generator",
        "run",
        "schema_check",
        "service",
        "settings",
    )
]

COMMANDS = (
    # The tests list the files of the project with Git.
    ("git", "init", "--quiet"),
    (sys.executable, "-m", "dev.resource", "remove", "--samples"),
    (sys.executable, "-m", "dev.schema"),
    # `-o` keeps make from installing into .venv again because of newer files in the copy.
    ("make", "-o", ".venv/ready", "-o", ".venv/test-ready", "lint"),
    (sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "tests/unit", *FUNCTIONAL, "-m", "not slow"),
)


def main() -> None:
    """Run the commands until one fails. The exit status is that of the last one."""
    with tempfile.TemporaryDirectory(prefix="fieldbook-") as directory:
        copy = Path(directory) / "fieldbook"
        copy_project(copy)
        copy_mypy_cache(copy)
        (copy / ".venv").symlink_to(sys.prefix)
        for command in COMMANDS:
            status = subprocess.run(command, cwd=copy, check=False).returncode
            if status != 0:
                sys.exit(status)


if __name__ == "__main__":
    main()
