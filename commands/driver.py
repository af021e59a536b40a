"""The check of the Cassandra driver that the commands share."""

from __future__ import annotations

import sys

import click

from environment import UnsupportedVersion, require_version
from storage import DRIVER_VERSIONS


def require_supported_driver() -> None:
    """Exit with status 2 and a message if the service does not support the installed driver."""
    try:
        require_version("cassandra-driver", DRIVER_VERSIONS, used_by="storage/cql/driver.py")
    except UnsupportedVersion as error:
        click.echo(str(error), err=True)
        sys.exit(2)
