"""CELERY_BROKER_URL: which URLs are valid, and TLS to the broker."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from jobs.celery_app import application
from settings import Settings


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis",
        "redis://:p%2Fw@redis:6379/1",
        "rediss://user:p@w@10.0.0.1:6379/1?client_name=x",
        "redis://[::1]:6379/1",
        "amqp://user:password@rabbitmq:5672//",
        "amqps://user:password@rabbitmq.example.org/%2Fjobs",
    ],
)
def test_urls_of_brokers_are_accepted(url: str) -> None:
    assert Settings(celery_broker_url=url).broker_url == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret/word@127.0.0.1:6379/0",
        "redis://:secret#word@127.0.0.1:6379/0",
        "redis://:secret?word@127.0.0.1:6379/0",
        "amqp://user:secret/word@127.0.0.1:5672//",
        "amqp://user:secret@127.0.0.1:port//",
        "http://127.0.0.1",
    ],
)
def test_urls_that_celery_would_misread_are_rejected_without_the_password(url: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(celery_broker_url=url)  # type: ignore[arg-type]
    (error,) = raised.value.errors()
    assert "%2F" in error["msg"]
    assert "secret" not in error["msg"]


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], Path]:
    """Create a self-signed certificate for an IP address. The file has its key too."""

    def create(address: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
        now = datetime.datetime.now(datetime.UTC)
        signed = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .sign(key, hashes.SHA256())
        )
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path = tmp_path / f"{address}.pem"
        path.write_bytes(
            signed.public_bytes(encoding) + key.private_bytes(encoding, form, serialization.NoEncryption())
        )
        return path

    return create


@pytest.fixture
def received() -> Iterator[Callable[[str, Path], bytes]]:
    """Connect to a broker with a certificate: `received(scheme, file)`. Return what it receives after the handshake."""
    listener = socket.create_server(("127.0.0.1", 0))
    data: list[bytes] = []

    def accept(file: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        client, _ = listener.accept()
        client.settimeout(10)
        try:
            with context.wrap_socket(client, server_side=True) as connection:
                data.append(connection.recv(1000))
        except OSError:
            client.close()

    def connect(scheme: str, file: Path) -> bytes:
        thread = threading.Thread(target=accept, args=(file,))
        thread.start()
        url: Any = f"{scheme}://user:password@127.0.0.1:{listener.getsockname()[1]}/0"
        app = application(Settings(celery_broker_url=url), sends_only=True)
        # The broker closes the connection in any case.
        with app.connection_for_write() as connection, suppress(Exception):
            connection.connect()
        thread.join()
        return b"".join(data)

    yield connect
    listener.close()


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
@pytest.mark.parametrize(
    ("address", "is_trusted", "connects"),
    [("127.0.0.1", True, True), ("127.0.0.1", False, False), ("127.0.0.2", True, False)],
)
def test_password_is_sent_only_to_a_broker_with_a_valid_certificate(
    certificate: Callable[[str], Path],
    received: Callable[[str, Path], bytes],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    address: str,
    is_trusted: bool,
    connects: bool,
) -> None:
    """The certificate must be from a trusted authority, and for the host in the URL."""
    file = certificate(address)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert bool(received(scheme, file)) == connects
