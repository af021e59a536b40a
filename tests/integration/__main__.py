"""Test a deployed service over HTTP.

Options may be given before or after the command. The exit status is 0 if everything is ok, 1 if a check failed, 2 if
the command can't run (wrong options, or nothing usable at --app-url), and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tests.integration import concurrency, sample_data, smoke, soak
from tests.integration.client import Target, TargetError, connect

errors = Console(stderr=True)

# Upper limits that keep a typing error from exhausting this machine: sample_data keeps a hash of each row in memory,
# and each client is a thread with a connection.
MAX_ROWS = 10_000_000
MAX_CLIENTS = 1000
MAX_MINUTES = 7 * 24 * 60
# Other users of the machine can read the arguments of a command, but not its environment.
TOKEN_VARIABLE = "FIELDBOOK_TOKEN"


def number(least: float, most: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A type of argparse: a number from `least` to `most`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text[:50]!r} is not a number from {least:,} to {most:,}")
        return value

    return parse


def named_number(text: str) -> tuple[str, int]:
    name, separator, count = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} has not the form NAME=NUMBER")
    return name, number(0, MAX_ROWS)(count)


def parser() -> argparse.ArgumentParser:
    # Without defaults, so that an option before the command is not overwritten by its default after the command.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--app-url", metavar="URL", help="the service, such as https://example.org/field (required)")
    common.add_argument(
        "--token",
        help="sent as Authorization: Bearer, for a service that requires sign-in: OPERATOR_TOKEN, or an access token "
        f"with the scope operator. Without this option, the environment variable {TOKEN_VARIABLE}",
    )
    common.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, to stdout")
    description = str(__doc__)
    form = argparse.RawDescriptionHelpFormatter
    main = argparse.ArgumentParser(
        prog="python -m tests.integration", description=description, formatter_class=form, parents=[common]
    )
    commands = main.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    data = add("sample_data", "write sample rows; repeat the command to resume it")
    data.add_argument("--users", type=number(0, MAX_ROWS), default=0, metavar="N", help="the number of users")
    data.add_argument("--plants", type=number(0, MAX_ROWS), default=0, metavar="N", help="the number of plants")
    rows_help = "rows of another resource, named by its tag in the OpenAPI document; may be repeated"
    data.add_argument("--rows", type=named_number, action="append", default=[], metavar="NAME=N", help=rows_help)
    data.add_argument(
        "--seed", type=number(0, 10**9), default=1, metavar="N", help="another seed writes other rows (1)"
    )
    one = add("smoke", "call each operation once, and validate the responses; deletes what it creates")
    one.add_argument("--include-shutdown", action="store_true", help="also call POST /shutdown, last")
    many = add("concurrency", "write the same rows with many clients, and check each row; deletes what it creates")
    many.add_argument(
        "--clients", type=number(2, MAX_CLIENTS), default=50, metavar="N", help="the number of clients (50)"
    )
    many.add_argument("--rows", type=number(2, 10_000), default=100, metavar="N", help="rows of each resource (100)")
    long = add("soak", "send a steady load, and show latency, memory and errors; deletes what it creates")
    duration = number(0.01, MAX_MINUTES, float)
    long.add_argument("--minutes", type=duration, required=True, metavar="M", help="the duration")
    rate = number(0.1, 10_000, float)
    long.add_argument("--rate", type=rate, default=50.0, metavar="N", help="requests per second (50)")
    long.add_argument("--plot", type=Path, metavar="FILE", help="write a plot: FILE ends in .png or .svg")
    return main


@contextmanager
def bar(total: float | None) -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, if that is a terminal. Yields a function that adds to the bar of this name."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def advance(name: str, amount: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.advance(tasks[name], amount)

        yield advance


def run_sample_data(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    rows = {name: count for name, count in (("users", arguments.users), ("plants", arguments.plants)) if count}
    rows |= dict(arguments.rows)
    if not rows:
        raise TargetError("sample_data needs the number of rows: --users, --plants or --rows.")
    writers: dict[str, sample_data.Writer] = {}
    with bar(None) as advance:
        try:
            result = sample_data.run(target, rows, arguments.seed, advance, writers)
        except KeyboardInterrupt:
            done = sum(each.present + each.written for each in writers.values())
            total = sum(rows.values())
            text = f"Interrupted: at least {done} of {total} rows exist. Repeat the command to resume."
            raise KeyboardInterrupt(text) from None
    if not arguments.json:
        cells = [list(map(str, each.values())) for each in result["resources"]]
        show(["resource", "rows", "existed", "written"], cells)
        report(result["failures"])
    return result


def run_smoke(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    with bar(len(target.document.operations)) as advance:
        result = smoke.run(target, arguments.include_shutdown, lambda: advance("operations", 1))
    if not arguments.json:
        show(
            ["operation", "media type", "status", "ms", "result"],
            [
                [
                    each["operation"],
                    each["media_type"],
                    str(each["status"] or "-"),
                    f"{each['milliseconds']:.1f}" if each["milliseconds"] else "-",
                    each["result"] + (f": {each['detail']}" if each["detail"] else ""),
                ]
                for each in result["operations"]
            ],
        )
        results = [each["result"] for each in result["operations"]]
        print(", ".join(f"{results.count(each)} {each}" for each in (smoke.OK, smoke.FAILED, smoke.SKIPPED)))
        without = result["without_token"]
        if without["operations"]:
            print(f"Without a token, {without['rejected']} of {without['operations']} operations returned 401")
        report(without["problems"])
    return result


def run_concurrency(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    with bar(None) as advance:
        result = concurrency.run(target, arguments.clients, arguments.rows, lambda amount: advance("requests", amount))
    if not arguments.json:
        show(
            ["resource", "check", "number", "result"],
            [
                [
                    each["resource"] or "all",
                    each["check"],
                    str(each["number"]),
                    "ok" if each["ok"] else f"failed: {each['detail']}",
                ]
                for each in result["checks"]
            ],
        )
        workers = "an unknown number of" if result["workers"] is None else result["workers"]
        repeated = ", ".join(f"{count} x {status}" for status, count in result["repeated"].items() if count)
        print(f"{result['clients']} clients, {workers} workers, {result['requests']} requests, ", end="")
        print(f"repeated after: {repeated or 'none'}")
        report([f"Left out: {each}" for each in result["left_out"]])
    return result


def run_soak(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.plot is not None:
        soak.check_plot(arguments.plot)
    target.require_ready()
    seconds = arguments.minutes * 60
    one = soak.Soak(target, seconds, arguments.rate)
    shown = 0.0
    interrupted = False
    with bar(round(seconds)) as advance:

        def advance_to(elapsed: float) -> None:
            nonlocal shown
            advance("seconds", round(elapsed) - shown)
            shown = round(elapsed)

        try:
            one.run(advance_to)
        except KeyboardInterrupt:
            interrupted = True
    result = one.result() | {"interrupted": interrupted}
    if not arguments.json:
        step = max(1, len(result["over_time"]) // 20)
        names = ["seconds", "requests", "p50_ms", "p95_ms", "p99_ms", "max_ms", "errors", "rejected"]
        show(
            [*(name.replace("_", " ") for name in names), "memory MiB"],
            [
                [*("-" if each[name] is None else str(each[name]) for name in names), _mib(each["memory_bytes"])]
                for each in result["over_time"][::step]
            ],
        )
        memory = result["memory_bytes"]
        print(f"{result['requests']} requests, p50 {result['p50_ms']} ms, p95 {result['p95_ms']} ms, ", end="")
        print(f"p99 {result['p99_ms']} ms, {sum(result['errors'].values())} errors, ", end="")
        print(f"{sum(result['rejected'].values())} rejected (429 and 503)")
        if memory is None:
            print("The memory is unknown: /metrics does not contain it, or can't be read.")
        else:
            first, last = _mib(memory["first"]), _mib(memory["last"])
            print(f"Memory of all workers: {first} MiB at the start, {last} MiB at the end")
        report([f"{count} x {text}" for text, count in (result["errors"] | result["rejected"]).items()])
    if interrupted:
        report(["Interrupted: the result is that of the time until then."])
    if arguments.plot is not None:
        try:
            soak.draw(result, arguments.plot)
        except OSError as error:
            report([f"--plot {arguments.plot} can't be written: {error.strerror}."])
            result["ok"] = False
    return result


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size / 2**20:.1f}"


def show(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table. Not wider than the terminal, and not cut in a file."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style="red" if cell.startswith("failed") else "") for cell in row))
    console.print(table)


def report(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


# The status that a shell gives to a program that SIGINT (2) ended: 128 + 2.
INTERRUPTED = 130
COMMANDS = {
    "sample_data": run_sample_data,
    "smoke": run_smoke,
    "concurrency": run_concurrency,
    "soak": run_soak,
}


def main() -> int:
    """Run the command, and return the exit status."""
    # A shell makes background jobs ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parser().parse_args()
    arguments.json = getattr(arguments, "json", False)
    if not hasattr(arguments, "app_url"):
        parser().error("the following arguments are required: --app-url")
    try:
        target = connect(arguments.app_url, getattr(arguments, "token", None) or os.environ.get(TOKEN_VARIABLE))
        result = COMMANDS[arguments.command](target, arguments)
    except TargetError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        report([str(interrupt) or "Interrupted."])
        return INTERRUPTED
    if arguments.json:
        print(json.dumps({"command": arguments.command, "url": target.url, **result}))
    if result.get("interrupted"):
        return INTERRUPTED
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
