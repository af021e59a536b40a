"""What deploy/systemd relies on."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from tests.support import service


def test_gunicorn_notifies_systemd_and_reads_the_settings_file(environment: dict[str, str], tmp_path: Path) -> None:
    """The service starts as under the unit: `Type=notify`, `ENV_FILE`, and a PORT that overrides that of the file."""
    settings = tmp_path / "fieldbook.env"
    values = environment | {"APP_ENV": "production", "PORT": "1", "DRAIN_SECONDS": "0", "LOG_LEVEL": "WARNING"}
    settings.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    # The path of a socket has at most 107 bytes, and tmp_path may be longer.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        address = os.path.join(directory, "notify")
        notifications.bind(address)
        notifications.settimeout(10)
        variables = {"ENV_FILE": str(settings), "APP_ENV": "", "NOTIFY_SOCKET": address}
        with service(variables, tmp_path / "service.log") as running:
            assert b"READY=1" in notifications.recv(1024).split(b"\n")
            # gunicorn logs its start at the level INFO.
            assert running.log_text() == ""
