"""The text of new modules, in the format that `make lint` requires."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import wrap

from dev.resource import project
from dev.resource.names import Refused

_WIDTH = 120


def formatted(path: Path, text: str) -> str:
    """The text of a module without unused imports, formatted by ruff.

    :raises Refused: ruff fails, for example because it is not installed.
    """
    name = path.relative_to(project.PROJECT).as_posix()
    # Name the packages of the project, because ruff takes a module that does not exist yet for a third-party package.
    packages = json.dumps(sorted(package.name for package in project.packages()))
    fix = ["check", "--quiet", "--fix-only", "--config", f"lint.isort.known-first-party = {packages}"]
    # Remove unused imports first, because sorting wraps long lines.
    for command in ([*fix, "--select", "F401"], [*fix, "--select", "I001"], ["format", "--quiet"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
            input=text,
            cwd=project.PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if run.returncode != 0:
            raise Refused(f"ruff can't format {name}: {run.stderr.strip()}")
        text = run.stdout
    return "".join(_wrapped(line) for line in text.splitlines(keepends=True))


def _wrapped(line: str) -> str:
    """Wrap a docstring, comment or string of one line, which ruff does not wrap."""
    if len(line.rstrip("\n")) <= _WIDTH:
        return line
    indent = re.match(r" *", line)[0]  # type: ignore[index]
    text = line.strip()
    if text.startswith('"""') and text.endswith('"""'):
        return _paragraph(text.removesuffix('"""'), indent) + f'{indent}"""\n'
    if string := re.fullmatch(r'"([^"]+)"(,?)', text):
        # Leave room for two quotes and a comma.
        parts = wrap(string[1], _WIDTH - len(indent) - 3, drop_whitespace=False)
        return "\n".join(f'{indent}"{part}"' for part in parts) + f"{string[2]}\n"
    return _paragraph(text, indent)


def _paragraph(text: str, indent: str) -> str:
    # Indent the further lines of a field such as `:param`, and begin those of a comment with `#`.
    further = indent + {":": "    ", "#": "# "}.get(text[0], "")
    lines = wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=further, break_long_words=False)
    return "".join(f"{line}\n" for line in lines)
