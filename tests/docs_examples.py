"""Parses the documentation: curl examples, files of the walk-through, links, headings and prose lines."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support import PROJECT

BASE_URL = "http://127.0.0.1:8000"
# The headers that examples with `curl -i` show. All others are the same for every resource.
SHOWN_HEADERS = ("Location", "ETag", "Link", "Allow")

_FENCE = re.compile(r"^ *```")
# A line that can't be wrapped: one word, or one link, after an optional list marker.
_UNBREAKABLE = re.compile(r"\s*(?:[-*>] |\d+\. )?(?:\S+|!?\[.*\]\(\S+\)\S*)")


def pages() -> list[Path]:
    """Return README.md and every page in docs/."""
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


# --- curl examples -----------------------------------------------------------------------------------------


@dataclass
class Example:
    """A command after `$ ` in a console block, and the lines that it prints."""

    command: str
    output: list[str] = field(default_factory=list)


def examples(text: str) -> list[Example]:
    """Return all curl commands in the console blocks of a page, in order."""
    found: list[Example] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        current: Example | None = None
        # A backslash at the end of a line continues the command on the next line.
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.startswith("$ "):
                current = None
                if line.startswith("$ curl "):
                    current = Example(line[2:])
                    found.append(current)
            elif current is not None:
                current.output.append(line)
    return found


def request_path(command: str) -> str:
    """Return the path of the URL in a curl command, without its query."""
    (url,) = (word for word in shlex.split(command) if word.startswith(BASE_URL))
    return url.removeprefix(BASE_URL).partition("?")[0]


def run_curl(client: httpx.Client, command: str) -> list[str]:
    """Send the request that a curl command describes, and return the lines that curl would print.

    :param command: may use the options -X, -H, -d, -i, -s, -si and -N, and end in ` | head -N`. With -i, only
        `SHOWN_HEADERS` are printed.
    """
    command, _, line_limit = command.partition(" | head -")
    words = shlex.split(command)[1:]
    method, headers, body, show_headers, url = None, {}, None, False, ""
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        elif word in ("-i", "-si"):
            show_headers = True
        elif word not in ("-s", "-N"):
            url = word
    response = client.request(
        method or ("POST" if body else "GET"), url.removeprefix(BASE_URL), headers=headers, content=body
    )
    lines = []
    if show_headers:
        lines.append(f"HTTP/1.1 {response.status_code} {response.reason_phrase}")
        lines += [f"{name}: {response.headers[name]}" for name in SHOWN_HEADERS if name in response.headers]
        lines.append("")
    lines += response.text.splitlines()
    return lines[: int(line_limit)] if line_limit else lines


def normalize(line: str) -> str:
    """Replace values that differ in each run: times, ids, versions, page states and the keyspace."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>", line)
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "<id>", line)
    line = re.sub(r'"[0-9a-f]{32}"', '"<version>"', line)
    line = re.sub(r"[\w-]+\.[\w-]{6}\.[\w-]{64}", "<page state>", line)
    return re.sub(r'"keyspace":"\w+"', '"keyspace":"<keyspace>"', line)


# --- walk-through ------------------------------------------------------------------------------------------


def files(section: str) -> list[tuple[str, str, str]]:
    """Return the files of the walk-through in order: path, and language and text of the code block."""
    return re.findall(r"\*\*`([^`]+)`\*\*[^\n]*\n\n```(\w+)\n(.*?)```", section, re.DOTALL)


def apply_diff(path: Path, diff: str) -> None:
    """Apply a diff without line numbers to a file.

    :param diff: lines of context, `-` and `+`.
    :raises ValueError: a line of context, or a line to remove, is not in the file in this order.
    """
    lines = path.read_text().splitlines()
    position = 0
    for change in diff.splitlines():
        mark, text = change[:1], change[1:]
        if mark == "+":
            lines.insert(position, text)
            position += 1
        else:
            position = lines.index(text, position)
            if mark == "-":
                del lines[position]
            else:
                position += 1
    path.write_text("\n".join(lines) + "\n")


# --- links and prose ---------------------------------------------------------------------------------------


def lines_outside_code(text: str) -> list[tuple[int, str]]:
    """Return number and text of each line that is not in a code block."""
    found = []
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if _FENCE.match(line):
            in_code = not in_code
        elif not in_code and not line.startswith("    "):
            found.append((number, line))
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub builds them."""
    found: set[str] = set()
    for _, line in lines_outside_code(text):
        if heading := re.match(r"#{1,6} +(.*?)\s*#*$", line):
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            # GitHub numbers the anchors of headings that have the same text.
            unique, count = slug, 0
            while unique in found:
                count += 1
                unique = f"{slug}-{count}"
            found.add(unique)
    return found


def links(text: str) -> list[str]:
    """Return the targets of all links and images, except those on other sites."""
    prose = "\n".join(re.sub(r"`[^`]*`", "", line) for _, line in lines_outside_code(text))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def long_prose_lines(text: str, limit: int) -> list[int]:
    """Return the numbers of the lines that have more than `limit` characters and could be wrapped.

    Tables and HTML can't be wrapped.
    """
    return [
        number
        for number, line in lines_outside_code(text)
        if len(line) > limit and not line.lstrip().startswith(("|", "<")) and not _UNBREAKABLE.fullmatch(line)
    ]
