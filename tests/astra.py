"""Astra DB's connection path, in front of a real node: secure-connect bundle, metadata service and SNI proxy.

The driver reads the address of the metadata service from the bundle, asks the service for the host ids of the nodes and
for the address of the SNI proxy, and names the host id of a node in the TLS handshake. The proxy forwards the
connection, still encrypted, to that node. Source: `cassandra/datastax/cloud/__init__.py` of the driver.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from tests.support import TcpProxy

# A fatal TLS alert: unrecognized_name. Source: RFC 8446, sections 5.1 and 6.
_UNRECOGNIZED_NAME = bytes([21, 3, 3, 0, 2, 2, 112])


class SniProxy(TcpProxy):
    """A TCP proxy that forwards a connection to the node whose host id is the server name of the TLS handshake.

    It refuses connections with any other server name, or without one.

    :ivar nodes: the port on 127.0.0.1 of each host id.
    """

    def __init__(self, nodes: dict[str, int]) -> None:
        self.nodes = nodes
        super().__init__("", 0)

    def _connect(self, client: socket.socket) -> socket.socket:
        client.settimeout(10)
        hello, name = _read_client_hello(client)
        client.settimeout(None)
        if name not in self.nodes:
            client.sendall(_UNRECOGNIZED_NAME)
            raise ConnectionRefusedError(f"no node has the host id {name}")
        node = socket.create_connection(("127.0.0.1", self.nodes[name]), timeout=10)
        node.sendall(hello)
        return node


def _read_client_hello(client: socket.socket) -> tuple[bytes, str | None]:
    """Read the first message of a TLS handshake. Return the message and its server name, or None without one.

    :raises OSError: the client sends no such message.
    """
    names: list[str | None] = []

    def end_handshake(_connection: object, name: str | None, _context: object) -> int:
        names.append(name)
        return int(ssl.AlertDescription.ALERT_DESCRIPTION_CLOSE_NOTIFY)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = end_handshake  # type: ignore[assignment]
    received = ssl.MemoryBIO()
    handshake = context.wrap_bio(received, ssl.MemoryBIO(), server_side=True)
    hello = b""
    while not names:
        data = client.recv(65536)
        if not data:
            raise ConnectionResetError("the client closed the connection")
        hello += data
        received.write(data)
        try:
            handshake.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            if not names:
                raise
    return hello, names[0]


class MetadataService:
    """The HTTPS server that tells a client with a valid certificate where the nodes are.

    :ivar metadata: the document that it returns.
    """

    def __init__(self, certificate: Path, authority: Path, metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(service.metadata).encode()
                self.send_response(200 if self.path == "/metadata" else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Ignore failed handshakes: the client reports them."""

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
        context.verify_mode = ssl.CERT_REQUIRED
        # With TLS 1.3, a client can send its request before it receives the alert that rejects its certificate. It then
        # reports a closed connection instead of the alert.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate)
        self._server = Server(("127.0.0.1", 0), Handler)
        # The handshake takes place in the thread of the connection, so that a slow client delays no others.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop the server and refuse new connections."""
        self._server.shutdown()
        self._server.server_close()


def metadata_of(host_ids: list[str], proxy_port: int) -> dict[str, Any]:
    """The metadata of a database whose nodes have these host ids, behind an SNI proxy on this port."""
    return {
        "version": 1,
        "region": "test",
        "contact_info": {
            "type": "sni_proxy",
            "local_dc": "datacenter1",
            "sni_proxy_address": f"127.0.0.1:{proxy_port}",
            "contact_points": host_ids,
        },
    }


def write_bundle(
    path: Path,
    port: int,
    authority: trustme.CA,
    client: trustme.LeafCert,
    changes: dict[str, bytes | None] | None = None,
) -> Path:
    """Write a secure-connect bundle with the same file names as a real one, and return its path.

    :param port: port of the metadata service.
    :param authority: the certificate authority that the client trusts.
    :param client: certificate and key of the client.
    :param changes: files with other content; None to leave a file out.
    """
    config = {"host": "127.0.0.1", "port": port, "cql_port": port, "keyspace": "fieldbook", "localDC": "datacenter1"}
    files: dict[str, bytes | None] = {
        "ca.crt": authority.cert_pem.bytes(),
        "cert": client.cert_chain_pems[0].bytes(),
        "key": client.private_key_pem.bytes(),
        "config.json": json.dumps(config).encode(),
        # Other clients read these files; the driver ignores them.
        "cqlshrc": b"",
        "cert.pfx": b"",
        "identity.jks": b"",
        "trustStore.jks": b"",
    }
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in (files | (changes or {})).items():
            if content is not None:
                bundle.writestr(name, content)
    return path
