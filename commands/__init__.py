"""Commands for operators: `flask --app api NAME`. One module per command or group of commands."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import FlaskGroup

from commands import accounts, check, db, imports, jobs


def register(app: Flask) -> None:
    """Add the commands to the application."""
    app.cli.add_command(accounts.group)
    app.cli.add_command(db.group)
    app.cli.add_command(check.command)
    app.cli.add_command(imports.command)
    app.cli.add_command(jobs.group)


def is_running() -> bool:
    """Whether `flask` creates the application only to find a command of this package.

    `flask run` and the other commands of Flask create it in their own context, below that of the group.
    """
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)
