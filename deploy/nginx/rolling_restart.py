#!/usr/bin/env python3
"""Restart the instances behind nginx one after the other, so that no request fails.

nginx does not poll /health, and does not resend a POST. So for each instance in turn, this script

1. checks that another instance is in service and ready; otherwise it stops and changes nothing;
2. marks the instance as `down` in the upstream file, and reloads nginx;
3. waits until the old worker processes of nginx accept no more requests, and the instance has none in flight;
4. runs the restart command, which must return only after the old process has ended;
5. waits until GET /health returns 200, removes the mark, and reloads nginx.

If a step fails, the instance stays marked, the others stay in service, and the exit status is 1. The next run begins
with the marked instances. Run the script on nginx's machine, as a user who may edit the file and signal nginx. It needs
Python 3.9 and Linux, and nothing else.

The upstream file has one `server` on each line: `server 127.0.0.1:8000 max_fails=3;`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

# Seconds for a response of an instance, and for nginx to apply its configuration.
_RESPONSE_TIMEOUT = 5.0
_RELOAD_LIMIT = 60.0
# The restart command includes the stop: DRAIN_SECONDS, and up to 30 s for requests in flight.
_RESTART_LIMIT = 300.0
# The service updates its metrics once a second, so one observation without requests is not enough.
_OBSERVATIONS = 3
_INTERVAL = 1.0

_SERVER = re.compile(r"^([ \t]*server[ \t]+)([^\s;#]+)([^;#\n]*);", re.MULTILINE)
_IN_FLIGHT = re.compile(r"^fieldbook_requests_(?:in_flight|queued\{.*\}) (\S+)$", re.MULTILINE)


class UsageError(Exception):
    """An argument or a file is wrong; nothing was changed."""


class RestartError(Exception):
    """A step failed."""


class Upstream:
    """The file with the `server` lines.

    :raises OSError, ValueError: the file can't be read, or has another form.
    """

    def __init__(self, path: Path) -> None:
        # The target of a symbolic link: the new file would replace the link.
        self.path = path.resolve()
        self._text = self.path.read_text()
        servers = re.findall(r"(?<![^\s;{}])server\s", re.sub(r"#.*", "", self._text))
        if len(servers) != len(_SERVER.findall(self._text)):
            raise ValueError(f"{path}: each instance must have a line of its own, such as 'server 127.0.0.1:8000;'")

    def instances(self) -> dict[str, bool]:
        """The address of each instance, and whether it is marked as down."""
        return {match[2]: "down" in match[3].split() for match in _SERVER.finditer(self._text)}

    def mark(self, address: str, down: bool) -> str:
        """Write the file with or without the mark, and keep everything else in it.

        :returns: the text before, for :meth:`write`.
        """

        def edit(match: re.Match[str]) -> str:
            if match[2] != address or ("down" in match[3].split()) == down:
                return match[0]
            parameters = f"{match[3]} down" if down else re.sub(r"[ \t]down(?![^ \t])", "", match[3])
            return f"{match[1]}{address}{parameters};"

        before = self._text
        self.write(_SERVER.sub(edit, before))
        return before

    def write(self, text: str) -> None:
        """Replace the file at once: nginx never reads a part of it."""
        # `include *.conf` does not match the name.
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(text)
        shutil.copymode(self.path, new)
        status = self.path.stat()
        os.chown(new, status.st_uid, status.st_gid)
        new.replace(self.path)
        self._text = text


class Nginx:
    """The running nginx.

    :param command: starts nginx with the right configuration; `-t` is appended to check it.
    :param master: process id of its master.
    """

    def __init__(self, command: list[str], master: int) -> None:
        self._command = command
        self._master = master

    def check(self) -> None:
        """Check the configuration.

        :raises RestartError: it is not valid.
        """
        checked = subprocess.run([*self._command, "-t"], capture_output=True, text=True, check=False)
        if checked.returncode:
            raise RestartError(f"nginx -t failed:\n{checked.stderr.strip()}")

    def reload(self) -> None:
        """Make nginx use the configuration, and wait until its old worker processes accept no more requests.

        An old worker process that still has requests opens a new connection for each, so it is not affected by the
        close of an idle connection. If the instance refuses the new connection, nginx takes another instance, also
        for a POST; for PUT and DELETE, fieldbook.conf turns this off.

        :raises RestartError: nginx still uses the previous configuration.
        """
        old = self._serving()
        if not old:
            raise RestartError(f"process {self._master} is not the master of nginx: it has no worker processes")
        try:
            os.kill(self._master, signal.SIGHUP)
        except OSError as error:
            raise RestartError(f"nginx could not be reloaded: {error}") from error
        problem = "nginx still uses its previous configuration; see its error log"
        wait_until(lambda: not old & self._serving(), _RELOAD_LIMIT, problem)

    def _serving(self) -> set[int]:
        """The worker processes that accept connections."""
        found = set()
        try:
            children = Path(f"/proc/{self._master}/task/{self._master}/children").read_text().split()
        except OSError as error:
            raise RestartError(f"nginx has ended: {error}") from error
        for process in children:
            try:
                title = Path(f"/proc/{process}/cmdline").read_text().rstrip("\0 ")
            except OSError:
                continue
            # While it ends: "nginx: worker process is shutting down".
            if title == "nginx: worker process":
                found.add(int(process))
        return found


def get(address: str, path: str, host: str | None) -> tuple[int, str]:
    """Send a GET request to an instance.

    :returns: status and body.
    :raises OSError, HTTPException: no response.
    """
    url = urlsplit(f"//{address}")
    connection = HTTPConnection(url.hostname or "", url.port or 80, timeout=_RESPONSE_TIMEOUT)
    try:
        headers = {"Host": host or address, "Accept": "text/plain, application/json;q=0.5", "Connection": "close"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


def is_ready(address: str) -> bool:
    """Whether the readiness probe of an instance succeeds."""
    try:
        return get(address, "/health", None)[0] == 200
    except (OSError, HTTPException):
        return False


def count_requests(address: str, host: str | None) -> int | None:
    """The number of requests that an instance handles, or that wait in its queue; None if it is not running.

    :raises RestartError: the instance does not tell.
    """
    try:
        status, text = get(address, "/metrics", host)
    except ConnectionRefusedError:
        return None
    except (OSError, HTTPException) as error:
        raise RestartError(f"{address} does not answer GET /metrics: {error!r}") from error
    counts = _IN_FLIGHT.findall(text)
    if status != 200 or not counts:
        hint = "; name a host of its TRUSTED_HOSTS with --host" if status == 400 else ""
        raise RestartError(f"{address} answers GET /metrics with status {status}{hint}")
    return int(sum(map(float, counts)))


def wait_until(condition: Callable[[], bool], limit: float, problem: str) -> None:
    """Wait until the condition is met.

    :raises RestartError: with this problem, after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise RestartError(f"{problem} (after {limit:g} s)")
        time.sleep(0.1)


def wait_until_idle(address: str, host: str | None, limit: float) -> None:
    """Wait until an instance has no request, but not longer than `limit` seconds.

    After that, the restart begins nevertheless: the service completes requests while it stops.
    """
    deadline = time.monotonic() + limit
    observations = 0
    reason = ""
    while observations < _OBSERVATIONS:
        if time.monotonic() > deadline:
            say(f"{address}: not idle after {limit:g} s ({reason}); it has its stop timeout to complete them")
            return
        try:
            count = count_requests(address, host)
        except RestartError as error:
            count, reason = -1, str(error)
        else:
            reason = f"{count} requests"
        if count is None:
            return
        observations = observations + 1 if count == 0 else 0
        time.sleep(_INTERVAL)


def restart(address: str, upstream: Upstream, nginx: Nginx, options: argparse.Namespace) -> None:
    """Restart one instance.

    :raises RestartError: a step failed.
    """
    others = [each for each, is_down in upstream.instances().items() if each != address and not is_down]
    if not any(map(is_ready, others)):
        raise RestartError(f"{address} is not restarted, because no other instance is in service and ready")
    if not upstream.instances()[address]:
        # Raises an error before anything changes, if the metrics can't be read.
        count_requests(address, options.host)
    set_down(address, True, upstream, nginx)
    say(f"{address}: marked as down; waiting until it is idle")
    wait_until_idle(address, options.host, options.idle_limit)
    url = urlsplit(f"//{address}")
    command = options.restart.replace("{host}", url.hostname or "").replace("{port}", str(url.port or 80))
    say(f"{address}: {command}")
    try:
        subprocess.run(shlex.split(command), check=True, timeout=_RESTART_LIMIT, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise RestartError(f"the restart command failed: {error}") from error
    wait_until(
        lambda: is_ready(address), options.ready_limit, f"{address} is not ready: GET /health does not return 200"
    )
    set_down(address, False, upstream, nginx)
    say(f"{address}: in service")


def set_down(address: str, down: bool, upstream: Upstream, nginx: Nginx) -> None:
    """Mark an instance as down, or remove the mark. If nginx does not accept the change, undo it."""
    before = upstream.mark(address, down)
    try:
        nginx.check()
        nginx.reload()
    except RestartError:
        upstream.write(before)
        raise


def say(message: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the upstream file, for example /etc/nginx/upstream.conf")
    parser.add_argument(
        "--restart",
        default="systemctl restart fieldbook@{port}",
        metavar="COMMAND",
        help="restarts the instance {host}:{port}; default: '%(default)s'. For another machine: "
        "'ssh {host} systemctl restart fieldbook@{port}'",
    )
    parser.add_argument("--host", help="a host name of TRUSTED_HOSTS; default: the address of the instance")
    parser.add_argument("--nginx", default="nginx", metavar="COMMAND", help="default: '%(default)s'")
    parser.add_argument("--pid-file", type=Path, default="/run/nginx.pid", help="of nginx; default: %(default)s")
    parser.add_argument(
        "--idle-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="restart an instance that is not idle after this time; default: %(default)g",
    )
    parser.add_argument(
        "--ready-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="give up on an instance that is not ready this long after its restart; default: %(default)g",
    )
    return parser.parse_args(arguments)


def lock(file: Path) -> None:
    """Keep other runs out until this process ends.

    :raises BlockingIOError: there is one.
    :raises UsageError: the directory of the file can't be read.
    """
    try:
        # The directory, because the file itself is replaced.
        directory = os.open(file.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(str(error)) from error
    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)


def prepare(options: argparse.Namespace) -> tuple[Upstream, Nginx]:
    """Read the files that the arguments name.

    :raises UsageError: one of them can't be used.
    """
    try:
        upstream = Upstream(options.file)
        shlex.split(options.restart)
        nginx = Nginx(shlex.split(options.nginx), int(options.pid_file.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if not upstream.instances():
        raise UsageError(f"{options.file} has no line such as 'server 127.0.0.1:8000;'")
    if unix := [address for address in upstream.instances() if address.startswith("unix:")]:
        raise UsageError(f"{unix[0]}: instances must have an address and a port")
    return upstream, nginx


def main(arguments: list[str] | None = None) -> int:
    """Restart all instances, and return an exit status."""
    options = parse(arguments)
    try:
        lock(options.file)
        upstream, nginx = prepare(options)
    except UsageError as error:
        sys.stderr.write(f"rolling_restart: {error}\n")
        return 2
    except BlockingIOError:
        sys.stderr.write("rolling_restart: another run is in progress\n")
        return 1
    # SIGTERM ends the script as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        nginx.check()
        instances = upstream.instances()
        # Those that an earlier run has marked come first.
        for address in sorted(instances, key=lambda each: not instances[each]):
            restart(address, upstream, nginx, options)
    except (RestartError, OSError, KeyboardInterrupt) as error:
        marked = [address for address, is_down in upstream.instances().items() if is_down]
        state = "No instance is marked as down."
        if marked:
            state = f"Marked as down: {', '.join(marked)}. The next run begins there."
        sys.stderr.write(f"rolling_restart: {str(error) or 'interrupted'}. {state}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
