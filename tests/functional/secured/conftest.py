"""A node that requires TLS, client certificates and a password. The tests of this folder share it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dev.local_cassandra.node import STATE, TEST_JAVA_OPTIONS, TEST_SETTINGS, Node, free_port


def write_pem(path: Path, certificate: trustme.LeafCert) -> None:
    """Write private key and certificate chain to one file. Cassandra reads only PKCS #8 keys."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pkcs8 + b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


@pytest.fixture(scope="package")
def authority() -> trustme.CA:
    """The certificate authority of the node and of its clients."""
    return trustme.CA()


@pytest.fixture(scope="package")
def secured(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables for a node with TLS, client certificates, passwords and permissions."""
    files = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    write_pem(files / "server.pem", authority.issue_cert("127.0.0.1"))
    client = authority.issue_cert("client.example.org")
    client.private_key_pem.write_to_path(str(files / "client.key"))
    client.cert_chain_pems[0].write_to_path(str(files / "client.pem"))
    trustme.CA().cert_pem.write_to_path(str(files / "other-ca.pem"))
    directory = STATE / f"tests-{os.getpid()}-tls"
    node = Node(
        directory=directory,
        native_port=free_port(),
        storage_port=free_port(),
        settings=TEST_SETTINGS
        | {
            "authenticator": "PasswordAuthenticator",
            "authorizer": "CassandraAuthorizer",
            "client_encryption_options": {
                "enabled": True,
                # wait_until_ready() connects without TLS. Every session of the tests uses TLS.
                "optional": True,
                "require_client_auth": True,
                "keystore": str(files / "server.pem"),
                "truststore": str(files / "ca.pem"),
                "ssl_context_factory": {"class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory"},
            },
        },
        java_options=TEST_JAVA_OPTIONS,
    )
    try:
        node.start()
        node.wait_until_ready()
        yield {
            "CASSANDRA_HOSTS": "127.0.0.1",
            "CASSANDRA_PORT": str(node.native_port),
            "CASSANDRA_KEYSPACE": "system",
            "CASSANDRA_USERNAME": "cassandra",
            "CASSANDRA_PASSWORD": "cassandra",
            "CASSANDRA_TLS": "true",
            "CASSANDRA_TLS_CA": str(files / "ca.pem"),
            "CASSANDRA_TLS_CERT": str(files / "client.pem"),
            "CASSANDRA_TLS_KEY": str(files / "client.key"),
        }
    finally:
        node.stop()
        shutil.rmtree(directory, ignore_errors=True)
