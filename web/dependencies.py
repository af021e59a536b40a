"""The settings and, in tests, the session that `create_app()` received.

Views and hooks read both from here instead of global state, so that a test can pass its own.
"""

from __future__ import annotations

from flask import Flask, current_app

from settings import Settings
from storage import db_connect
from storage.db_connect import Session

_SETTINGS, _SESSION = "fieldbook.settings", "fieldbook.session"


def register(app: Flask, settings: Settings, session: Session | None) -> None:
    """Store the dependencies of an application."""
    app.extensions[_SETTINGS] = settings
    app.extensions[_SESSION] = session


def current_settings() -> Settings:
    """The settings of the current application."""
    settings: Settings = current_app.extensions[_SETTINGS]
    return settings


def current_session(timeout: float) -> Session:
    """The session that `create_app()` received, or else the session of this process.

    :param timeout: seconds to wait for the first connection.
    :raises StorageUnavailable: there is no session yet.
    """
    session = current_app.extensions[_SESSION]
    return session if session is not None else db_connect.get_session(timeout, current_settings())


def session_if_open() -> Session | None:
    """The session that :func:`current_session` returns, or None if it is not open yet."""
    session = current_app.extensions[_SESSION]
    return session if session is not None else db_connect.session_if_open()
