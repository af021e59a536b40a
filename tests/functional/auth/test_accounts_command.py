"""`flask --app api accounts`: output, exit status and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.functional.auth.accounts import (
    PASSWORD,
    me,
    new_email,
    refresh,
    register,
    request_token,
    sign_in,
)
from tests.support import PROJECT, Service, clean_environment

Flask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def flask(environment: dict[str, str]) -> Flask:
    """Run `flask --app api accounts …` in production without SECRET_KEY: `flask("list")`."""

    def run(*arguments: str, password: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        given = {name: value for name, value in environment.items() if name != "SECRET_KEY"}
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "api", "accounts", *arguments],
            cwd=PROJECT,
            env=clean_environment() | {"APP_ENV": "production"} | given | variables,
            input=f"{password}\n",
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("options", "scopes"),
    [([], "read write"), (["--scope", "read"], "read"), (["--operator"], "read write operator")],
)
def test_created_account_can_sign_in(running: Service, flask: Flask, options: list[str], scopes: str) -> None:
    email = new_email()
    run = flask("create", email.upper(), *options, "--password-stdin", password=PASSWORD)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"created {email}  {scopes}  ")
    tokens = sign_in(running, email)
    assert tokens["scope"] == scopes
    assert me(running, tokens["access_token"]).status_code == 200


def test_existing_account_is_not_changed(running: Service, flask: Flask) -> None:
    email = register(running)
    run = flask("create", email, "--operator", "--password-stdin", password="another long password")
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"There is an account {email} already.\n")
    assert sign_in(running, email)["scope"] == "read write"


def test_disabled_account_can_neither_sign_in_nor_refresh(running: Service, flask: Flask) -> None:
    """After `enable`, the account can sign in; its old refresh tokens stay revoked."""
    email = register(running)
    tokens = sign_in(running, email)
    run = flask("disable", email)
    assert (run.returncode, run.stdout) == (0, f"disabled {email}\n")
    refused = request_token(running, grant_type="password", username=email, password=PASSWORD)
    wrong = request_token(running, grant_type="password", username=email, password="wrong")
    assert (refused.status_code, refused.json()) == (400, wrong.json())
    assert refresh(running, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert me(running, tokens["access_token"]).status_code == 401
    assert f"{email}  read write  " in (listed := flask("list").stdout)
    assert next(line for line in listed.splitlines() if email in line).endswith("  disabled")
    assert flask("enable", email).stdout == f"enabled {email}\n"
    assert refresh(running, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert sign_in(running, email)


def test_set_password_revokes_refresh_tokens(running: Service, flask: Flask) -> None:
    email = register(running)
    token = sign_in(running, email)["refresh_token"]
    run = flask("set-password", email, "--password-stdin", password="another long password")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"password of {email} changed\n", "")
    assert refresh(running, token).json()["error"] == "invalid_grant"
    assert sign_in(running, email, "another long password")


def test_list_prints_no_secret(running: Service, flask: Flask) -> None:
    email = register(running)
    run = flask("list", "--json")
    (account,) = (each for each in json.loads(run.stdout)["accounts"] if each["email"] == email)
    assert set(account) == {"id", "email", "scopes", "disabled", "created_at"}
    assert (account["scopes"], account["disabled"]) == (["read", "write"], False)
    assert "argon2" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "changed", "status", "message"),
    [
        (["create", "no-address", "--password-stdin"], {}, 2, "The e-mail address is not valid"),
        (["create", "a@example.org", "--scope", "admin", "--password-stdin"], {}, 2, "'admin' is not one of"),
        (["create", "a@example.org", "--password-stdin"], {"password": "short"}, 2, "at least 12 characters"),
        (["create", "a@example.org", "--password-stdin"], {"CASSANDRA_PORT": "1"}, 1, "no node answers"),
        (["create", "a@example.org", "--password-stdin"], {"CASSANDRA_PORT": "x"}, 2, "CASSANDRA_PORT"),
        (["list"], {"CASSANDRA_KEYSPACE": "missing_keyspace"}, 1, "flask --app api db upgrade"),
        (["disable", "nobody@example.org"], {}, 1, "There is no account nobody@example.org."),
        (["set-password", "nobody@example.org", "--password-stdin"], {}, 1, "There is no account"),
    ],
)
def test_errors_are_one_message_on_standard_error(
    flask: Flask, arguments: list[str], changed: dict[str, Any], status: int, message: str
) -> None:
    run = flask(*arguments, **({"password": PASSWORD} | changed))
    assert run.returncode == status, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
