"""Every setting of the service, read once from the environment and `.env` (or `ENV_FILE`), and checked."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import ssl
import sys
import zipfile
from contextlib import suppress
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent

ConsistencyLevel = Literal["ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE"]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class SettingsError(Exception):
    """A wrong or missing setting; the message names the variable and the rule."""


class Settings(BaseSettings):
    """The field `cassandra_port` is the environment variable `CASSANDRA_PORT`; `.env.example` explains each."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    app_env: Literal["development", "production"] = "development"
    secret_key: SecretStr | None = None
    operator_token: SecretStr | None = None
    diagnostics: bool | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    host: str = "127.0.0.1"
    port: Port = 8000
    web_concurrency: Annotated[int, Field(ge=1, le=256)] = 2
    gunicorn_threads: Annotated[int, Field(ge=2, le=1024)] = 64
    max_requests_in_flight: Annotated[int, Field(ge=1, le=1023)] | None = None
    cpu_affinity: bool = True
    trusted_proxies: Annotated[int, Field(ge=0, le=10)] = 0
    request_timeout: Annotated[float, Field(gt=0, le=60)] = 10.0
    client_idle_timeout: Seconds = 30.0
    drain_seconds: Annotated[float, Field(ge=0, le=600)] | None = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024

    cassandra_hosts: Annotated[tuple[str, ...], NoDecode] = ("localhost",)
    cassandra_port: Port = 9042
    cassandra_keyspace: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")] = "fieldbook"
    cassandra_local_dc: str | None = None
    cassandra_username: str | None = None
    cassandra_password: SecretStr | None = None
    cassandra_tls: bool = False
    cassandra_tls_ca: FilePath | None = None
    cassandra_tls_cert: FilePath | None = None
    cassandra_tls_key: FilePath | None = None
    cassandra_tls_check_hostname: bool = True
    cassandra_replication_factor: Annotated[int, Field(ge=1, le=9)] | None = None
    cassandra_consistency_level: ConsistencyLevel = "LOCAL_QUORUM"
    cassandra_serial_consistency_level: Literal["SERIAL", "LOCAL_SERIAL"] = "LOCAL_SERIAL"
    cassandra_protocol_version: Annotated[int, Field(ge=4, le=5)] | None = None
    cassandra_connect_timeout: Seconds = 5.0
    cassandra_heartbeat_interval: Seconds = 5.0
    cassandra_heartbeat_timeout: Seconds = 5.0
    cassandra_reconnect_min: Seconds = 0.5
    cassandra_reconnect_max: Seconds = 10.0
    cassandra_speculative_delay: Annotated[float, Field(ge=0, le=60)] = 1.0
    cassandra_executor_threads: Annotated[int, Field(ge=1, le=64)] = 4

    astra_db_secure_bundle_path: FilePath | None = None
    astra_db_application_token: SecretStr | None = None

    @field_validator("secret_key", "operator_token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("give 16 characters or more")
        return value

    @field_validator("astra_db_secure_bundle_path")
    @classmethod
    def _is_bundle(cls, value: Path | None) -> Path | None:
        if value is not None and not zipfile.is_zipfile(value):
            raise ValueError(f"{value} is not the zip file of a secure-connect bundle")
        return value

    @field_validator("cassandra_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if isinstance(value, str):
            hosts = tuple(host.strip() for host in value.split(",") if host.strip())
            if not hosts:
                raise ValueError("give at least one host, several separated by commas")
            if any(host.count(":") == 1 for host in hosts):
                raise ValueError("give hosts without a port; CASSANDRA_PORT is the port of all")
            return hosts
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for first, second in (
            ("cassandra_username", "cassandra_password"),
            ("cassandra_tls_cert", "cassandra_tls_key"),
            ("astra_db_secure_bundle_path", "astra_db_application_token"),
        ):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ValueError(f"{first.upper()} and {second.upper()} go together: set both or neither")
        if not self.cassandra_tls and (self.cassandra_tls_ca or self.cassandra_tls_cert):
            raise ValueError("CASSANDRA_TLS_CA and CASSANDRA_TLS_CERT have no effect without CASSANDRA_TLS=true")
        self.tls_context()
        if self.cassandra_reconnect_min > self.cassandra_reconnect_max:
            raise ValueError("CASSANDRA_RECONNECT_MIN must not be above CASSANDRA_RECONNECT_MAX")
        if self.max_requests_in_flight is not None and self.max_requests_in_flight >= self.gunicorn_threads:
            raise ValueError(
                f"MAX_REQUESTS_IN_FLIGHT must be below GUNICORN_THREADS ({self.gunicorn_threads}): "
                "the threads above it answer /health and say 503"
            )
        if self.app_env == "production" and self.diagnostics and self.operator_token is None:
            raise ValueError("DIAGNOSTICS needs OPERATOR_TOKEN when APP_ENV=production")
        if self.app_env == "production" and self.secret_key is None:
            raise ValueError(
                "SECRET_KEY is required when APP_ENV=production; it must be the same for all workers and instances. "
                "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
        return self

    def tls_context(self) -> ssl.SSLContext | None:
        """For connections to Cassandra; None without TLS.

        :raises ValueError: naming the file that is not what it should be.
        """
        if not self.cassandra_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cassandra_tls_ca)
        except OSError as error:
            raise ValueError(f"CASSANDRA_TLS_CA: no PEM certificates in {self.cassandra_tls_ca} ({error})") from None
        context.check_hostname = self.cassandra_tls_check_hostname
        if self.cassandra_tls_cert:
            try:
                # A key with a password is refused, for want of someone to ask.
                context.load_cert_chain(self.cassandra_tls_cert, self.cassandra_tls_key, password=lambda: "")
            except OSError as error:
                raise ValueError(
                    f"CASSANDRA_TLS_CERT and CASSANDRA_TLS_KEY: no PEM certificate and key without a password ({error})"
                ) from None
        return context

    @property
    def in_flight_limit(self) -> int:
        """Requests that a worker works on at a time: `MAX_REQUESTS_IN_FLIGHT`, or three quarters of the threads."""
        return self.max_requests_in_flight or max(1, self.gunicorn_threads * 3 // 4)

    @property
    def drain_time(self) -> float:
        """Seconds between a request to stop and the stop: `DRAIN_SECONDS`, or 10 in production and 0 in development."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 10.0 if self.app_env == "production" else 0.0

    @property
    def has_diagnostics(self) -> bool:
        """`DIAGNOSTICS`, or true in development."""
        return self.app_env == "development" if self.diagnostics is None else self.diagnostics

    @property
    def astra(self) -> bool:
        """True when the cluster is Astra DB, which makes its own keyspaces."""
        return self.astra_db_secure_bundle_path is not None

    @cached_property
    def signing_key(self) -> bytes:
        """`SECRET_KEY`; in development a generated one that all workers of this checkout share."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value().encode()
        return _development_key(PROJECT / ".fieldbook" / "secret_key")


def _development_key(path: Path) -> bytes:
    """The key in `path`, made first when it is not there. Of several processes that make it, one wins."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Readable by its owner only. A link, unlike a rename, never replaces a key that is in use already.
        with NamedTemporaryFile("w", dir=path.parent) as draft, suppress(FileExistsError):
            draft.write(secrets.token_urlsafe(48))
            draft.flush()
            os.link(draft.name, path)
    return path.read_bytes()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process.

    :raises SettingsError: naming each variable that is wrong or missing.
    """
    env_file = Path(os.environ.get("ENV_FILE") or PROJECT / ".env")
    _check_names(env_file)
    try:
        return Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _check_names(env_file: Path) -> None:
    """A name that is nearly one of ours is a slip of the pen; others may be for other programs."""
    if os.environ.get("ENV_FILE") and (not env_file.exists() or env_file.is_dir()):
        raise SettingsError(f"ENV_FILE: there is no file {env_file}")
    ours = [field.upper() for field in Settings.model_fields]
    try:
        names = list(dotenv_values(env_file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} can't be read: {error}") from None
    slips = []
    # In the environment there is more of others', so only a letter or so may be wrong.
    for where, found, cutoff in ((str(env_file), names, 0.9), ("The environment", list(os.environ), 0.95)):
        for name in found:
            if name.upper() not in ours and (near := get_close_matches(name.upper(), ours, n=1, cutoff=cutoff)):
                slips.append(f"{where}: {name} is unknown; {near[0]} is meant?")
    if slips:
        raise SettingsError("\n".join(slips))


def _explain(error: ValidationError) -> str:
    lines = ["The settings (environment or .env) are not right:"]
    for problem in error.errors():
        # With "before" validators and models, pydantic puts "Value error, " before the message.
        message = problem["msg"].removeprefix("Value error, ")
        if problem["loc"]:
            lines.append(f"  {str(problem['loc'][0]).upper()}: {message}")
        else:
            lines.append(f"  {message}")
    return "\n".join(lines)


_METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def metrics_directory() -> str | None:
    """Where the workers of one gunicorn share what they count; None in a process that shares nothing."""
    return os.environ.get(_METRICS_DIRECTORY)


def make_metrics_directory() -> None:
    """For gunicorn's master, before prometheus-client is imported: an empty directory, for as long as it runs.

    A master that reads its configuration again (SIGHUP) keeps the one it has; one that was started by another (SIGUSR2)
    does not take over the other's.
    """
    prefix = f"fieldbook-metrics-{os.getpid()}-"
    if Path(metrics_directory() or "").name.startswith(prefix):
        return
    directory, master = mkdtemp(prefix=prefix), os.getpid()
    os.environ[_METRICS_DIRECTORY] = directory

    def remove() -> None:
        # What a fork has taken along is called in the worker too.
        if os.getpid() == master:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)


def settings_or_exit() -> Settings:
    """For commands: the settings, or their explanation on standard error and exit status 2."""
    try:
        return get_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
