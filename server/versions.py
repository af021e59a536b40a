"""The versions of the packages whose private API the service uses."""

from __future__ import annotations

from server import GUNICORN_VERSIONS


def require_supported() -> None:
    """Check the installed versions of gunicorn, cassandra-driver and prometheus-client.

    :raises UnsupportedVersion: the service does not support one of them.
    """
    from environment import require_version
    from observability import PROMETHEUS_VERSIONS
    from storage import DRIVER_VERSIONS

    require_version("gunicorn", GUNICORN_VERSIONS, used_by="server/__init__.py")
    require_version("cassandra-driver", DRIVER_VERSIONS, used_by="storage/cql/driver.py")
    require_version("prometheus-client", PROMETHEUS_VERSIONS, used_by="observability/metrics_files.py")
