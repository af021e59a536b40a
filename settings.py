"""Every setting of the service, read from the environment and `.env`, and validated.

`ENV_FILE` gives the path of another file than `.env`. This is the only module that reads the environment. It also
checks the versions of packages whose private API the service uses.
"""

from __future__ import annotations

import os
import re
import secrets
import ssl
import sys
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT = Path(__file__).resolve().parent

ConsistencyLevel = Literal["ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE"]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]

# Characters of a secret.
_MIN_KEY_LENGTH = 16


def _long_enough(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < _MIN_KEY_LENGTH:
        raise ValueError("must have at least 16 characters")
    return key


Key = Annotated[SecretStr, AfterValidator(_long_enough)]

# A host name or an IPv4 address, perhaps with a leading period.
_TRUSTED_HOST = re.compile(r"\.?[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")

# Seconds. No request may have a longer deadline.
MAX_REQUEST_TIMEOUT = 60.0

# Threads of a worker beside those for MAX_REQUESTS_IN_FLIGHT and MAX_REQUESTS_QUEUED. They serve the routes that use no
# session, such as /health, /metrics and /docs, and reject requests.
RESERVED_THREADS = 16


class SettingsError(Exception):
    """A wrong or missing setting; the message names the variable and the rule."""


class UnsupportedVersion(SettingsError):
    """An installed package has a version that the service does not support."""


class Settings(BaseSettings):
    """The settings; `.env.example` explains them. The variable of `log_level` is `LOG_LEVEL`."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    app_env: Literal["development", "production"] = "production"
    allow_remote_development: bool = False
    secret_key: Key | None = None
    secret_key_previous: Annotated[tuple[Key, ...], NoDecode] = ()
    operator_token: Key | None = None
    diagnostics: bool | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    read_only: bool = False

    host: str = "127.0.0.1"
    port: Port = 8000
    web_concurrency: Annotated[int, Field(ge=1, le=256)] = 2
    max_requests_in_flight: Annotated[int, Field(ge=1, le=1023)] = 48
    max_streams_in_flight: Annotated[int, Field(ge=1, le=1022)] | None = None
    max_requests_queued: Annotated[int, Field(ge=0, le=1023)] = 128
    queue_timeout: Annotated[float, Field(ge=0, le=60)] = 0.5
    cpu_affinity: bool = True
    trusted_proxies: Annotated[int, Field(ge=0, le=10)] = 0
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    request_timeout: Annotated[float, Field(gt=0, le=MAX_REQUEST_TIMEOUT)] = 10.0
    client_idle_timeout: Seconds = 30.0
    min_transfer_rate: Annotated[int, Field(ge=1)] = 10_000
    transfer_rate_window: Seconds = 10.0
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

    @field_validator("secret_key_previous", "trusted_hosts", "cassandra_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("astra_db_secure_bundle_path")
    @classmethod
    def _is_bundle(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                with zipfile.ZipFile(value) as bundle:
                    list(map(bundle.getinfo, ("config.json", "ca.crt", "cert", "key")))
            except (OSError, zipfile.BadZipFile, KeyError) as error:
                raise ValueError(f"{value} is not a secure-connect bundle: {error}") from None
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _check_trusted_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        hosts = tuple(host.lower() for host in hosts)
        for host in hosts:
            if not _TRUSTED_HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is not a host name. Give names or IPv4 addresses without scheme, port, path or *, "
                    "separated by commas; a name that begins with a period includes its subdomains"
                )
        return hosts

    @field_validator("cassandra_hosts")
    @classmethod
    def _check_cassandra_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not hosts:
            raise ValueError("must name at least one host; separate several hosts by commas")
        if any(host.count(":") == 1 for host in hosts):
            raise ValueError("must name hosts without a port; CASSANDRA_PORT sets the port of all hosts")
        return hosts

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for first, second in (
            ("cassandra_username", "cassandra_password"),
            ("cassandra_tls_cert", "cassandra_tls_key"),
            ("astra_db_secure_bundle_path", "astra_db_application_token"),
        ):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ValueError(f"{first.upper()} and {second.upper()} must be set together; set both or neither")
        if not self.cassandra_tls and (self.cassandra_tls_ca or self.cassandra_tls_cert):
            raise ValueError("CASSANDRA_TLS_CA and CASSANDRA_TLS_CERT have no effect without CASSANDRA_TLS=true")
        self.tls_context()
        if self.cassandra_reconnect_min > self.cassandra_reconnect_max:
            raise ValueError("CASSANDRA_RECONNECT_MIN must not exceed CASSANDRA_RECONNECT_MAX")
        if self.stream_limit >= self.max_requests_in_flight > 1:
            raise ValueError(
                f"MAX_STREAMS_IN_FLIGHT must be less than MAX_REQUESTS_IN_FLIGHT ({self.max_requests_in_flight}): "
                "the rest is for requests that are not streams"
            )
        if self.app_env == "production" and self.diagnostics and self.operator_token is None:
            raise ValueError("DIAGNOSTICS=true requires OPERATOR_TOKEN when APP_ENV=production")
        if self.trusted_proxies and not self.trusted_hosts:
            raise ValueError(
                "TRUSTED_HOSTS is required when TRUSTED_PROXIES is above 0. Set it to the host names that clients use, "
                "for example TRUSTED_HOSTS=field.example.org"
            )
        return self

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS context of connections to Cassandra; None without TLS.

        :raises ValueError: a file is not valid; the message names its variable.
        """
        if not self.cassandra_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cassandra_tls_ca)
        except OSError as error:
            raise ValueError(
                f"CASSANDRA_TLS_CA: {self.cassandra_tls_ca} has no valid PEM certificates ({error})"
            ) from None
        context.check_hostname = self.cassandra_tls_check_hostname
        if self.cassandra_tls_cert:
            try:
                # A key with a password is rejected; without this callback, OpenSSL would ask for it on the terminal.
                context.load_cert_chain(self.cassandra_tls_cert, self.cassandra_tls_key, password=lambda: "")
            except OSError as error:
                raise ValueError(
                    "CASSANDRA_TLS_CERT and CASSANDRA_TLS_KEY must be a PEM certificate and its key without a "
                    f"password ({error})"
                ) from None
        return context

    @property
    def stream_limit(self) -> int:
        """Streams that a worker handles at a time: `MAX_STREAMS_IN_FLIGHT`, or half of `MAX_REQUESTS_IN_FLIGHT`."""
        return self.max_streams_in_flight or max(1, self.max_requests_in_flight // 2)

    @property
    def worker_threads(self) -> int:
        """Threads of a worker. A queued request holds a thread, too."""
        return self.max_requests_in_flight + self.max_requests_queued + RESERVED_THREADS

    @property
    def drain_time(self) -> float:
        """Seconds of connection draining: `DRAIN_SECONDS`, or 10 in production, 0 in development."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 10.0 if self.app_env == "production" else 0.0

    @property
    def has_diagnostics(self) -> bool:
        """Whether the diagnostics routes exist: `DIAGNOSTICS`, or true in development."""
        return self.app_env == "development" if self.diagnostics is None else self.diagnostics

    @property
    def astra(self) -> bool:
        """Whether the cluster is Astra DB, where CQL can't create keyspaces."""
        return self.astra_db_secure_bundle_path is not None

    @cached_property
    def signing_key(self) -> bytes:
        """`SECRET_KEY`; in development a generated key that all workers of this checkout share."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value().encode()
        if self.app_env == "production":
            raise SettingsError(
                "SECRET_KEY is required when APP_ENV=production, which is the default. It must be the same for all "
                "workers and instances; generate one: python -c 'import secrets; print(secrets.token_urlsafe(48))'. On "
                "your own machine, use `make run` or set APP_ENV=development instead."
            )
        return _development_key(PROJECT / ".fieldbook" / "secret_key")

    @cached_property
    def signing_keys(self) -> list[bytes]:
        """The keys that verify signatures: `SECRET_KEY_PREVIOUS`, and last `signing_key`, which also signs."""
        return [*(key.get_secret_value().encode() for key in self.secret_key_previous), self.signing_key]

    def check_signing_key(self) -> None:
        """Check the signing key, which only a process that serves requests needs. In development this creates it.

        :raises SettingsError: `SECRET_KEY` is missing in production, or the development key can't be used.
        """
        try:
            length = len(self.signing_key)
        except OSError as error:
            raise SettingsError(f"The development key can't be stored: {error}. Set SECRET_KEY instead.") from None
        if length < _MIN_KEY_LENGTH:
            raise SettingsError(
                "The development key in .fieldbook/secret_key is damaged. Delete the file; the next start creates it."
            )


def _development_key(path: Path) -> bytes:
    """The key in the file `path`; the first of several processes creates it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # The temporary file is readable by its owner only. A hard link, unlike a rename, never replaces a file: if
        # another process was faster, its key stays.
        with NamedTemporaryFile("w", dir=path.parent) as draft, suppress(FileExistsError):
            draft.write(secrets.token_urlsafe(48))
            draft.flush()
            os.link(draft.name, path)
    return path.read_bytes()


# Variables of earlier versions, each with what to set instead.
_REMOVED = {
    "GUNICORN_THREADS": "Set MAX_REQUESTS_IN_FLIGHT instead; the number of threads follows from it and "
    "MAX_REQUESTS_QUEUED."
}


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process.

    The first call prints a warning for each environment variable that looks like a mistake, and removes the variable
    from the environment of this process.

    :raises SettingsError: variables are wrong or missing; the message names each of them.
    """
    env_file = _env_file()
    if os.environ.get("ENV_FILE") and (not env_file.exists() or env_file.is_dir()):
        raise SettingsError(f"ENV_FILE: {env_file} is not a file; give the path of a file such as .env")
    try:
        names = list(dotenv_values(env_file))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} can't be read: {error}") from None
    if mistakes := _mistaken_names(names):
        raise SettingsError("\n".join(f"{env_file}: {mistake}" for mistake in mistakes.values()))
    # The environment also has variables of other programs, so these names don't prevent the start.
    for name, mistake in _mistaken_names(os.environ).items():
        print(f"Warning: {mistake} The service ignores this environment variable.", file=sys.stderr)
        # Child processes would repeat the warning.
        del os.environ[name]
    try:
        return Settings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def default_to_development() -> None:
    """Set `APP_ENV=development` for this process and those that it starts, unless the environment or `.env` sets it.

    For the commands of a developer, such as `make run`. Call this before the first `get_settings()`.
    """
    sources: list[Mapping[str, str | None]] = [os.environ]
    # get_settings() reports a file that can't be read.
    with suppress(OSError, UnicodeDecodeError):
        sources.append(dotenv_values(_env_file()))
    if not any(value and name.upper() == "APP_ENV" for source in sources for name, value in source.items()):
        os.environ["APP_ENV"] = "development"


def _env_file() -> Path:
    return Path(os.environ.get("ENV_FILE") or PROJECT / ".env")


def _mistaken_names(names: Iterable[str]) -> dict[str, str]:
    """The names that were removed or are nearly the name of a variable, each with a sentence about it."""
    known = [field.upper() for field in Settings.model_fields]
    mistakes = {}
    for name in names:
        if name.upper() in _REMOVED:
            mistakes[name] = f"{name} was removed. {_REMOVED[name.upper()]}"
        elif name.upper() not in known and (near := get_close_matches(name.upper(), known, n=1, cutoff=0.9)):
            mistakes[name] = f"{name} is unknown. Did you mean {near[0]}?"
    return mistakes


def _explain(error: ValidationError) -> str:
    lines = ["The settings (environment or .env) are wrong:"]
    for problem in error.errors():
        # pydantic adds this prefix to the messages of our own validators.
        message = problem["msg"].removeprefix("Value error, ")
        if problem["loc"]:
            lines.append(f"  {str(problem['loc'][0]).upper()}: {message}")
        else:
            lines.append(f"  {message}")
    return "\n".join(lines)


_METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def metrics_directory() -> str | None:
    """The directory in which workers share their metrics; None outside gunicorn."""
    return os.environ.get(_METRICS_DIRECTORY)


def set_metrics_directory(path: str) -> None:
    """Set `PROMETHEUS_MULTIPROC_DIR`, which prometheus-client reads when it is imported."""
    os.environ[_METRICS_DIRECTORY] = path


def require_version(package: str, supported: tuple[str, ...], used_by: str) -> None:
    """Refuse to start with a version of a package whose private API was not checked.

    :param package: name of the installed distribution.
    :param supported: the versions that the code was written for.
    :param used_by: path of the file whose docstring says how to support another version.
    :raises UnsupportedVersion: another version is installed.
    """
    installed = metadata.version(package)
    if installed not in supported:
        raise UnsupportedVersion(
            f"{package} {installed} is installed, but the service uses private API of {package} and supports only "
            f"{', '.join(supported)}. Run `pip install -r requirements.txt`. To use {package} {installed}, follow the "
            f"instructions at the top of {used_by}."
        )


def settings_or_exit() -> Settings:
    """The settings of this process; exit with status 2 and a message if they are wrong."""
    try:
        return get_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
