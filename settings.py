"""Every setting of the service, typed and validated. `environment.py` reads the settings from the environment."""

from __future__ import annotations

import os
import re
import secrets
import ssl
import zipfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Literal, Self

import limits
from pydantic import AfterValidator, Field, FilePath, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import Connection, parse_url

PROJECT = Path(__file__).resolve().parent

ConsistencyLevel = Literal["ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE"]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]

_MIN_KEY_LENGTH = 16  # characters


def _long_enough(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < _MIN_KEY_LENGTH:
        raise ValueError("must have at least 16 characters")
    return key


Key = Annotated[SecretStr, AfterValidator(_long_enough)]


def _is_redis_url(url: SecretStr) -> SecretStr:
    try:
        options = parse_url(url.get_secret_value())  # type: ignore[no-untyped-call]
        # This opens no connection, but rejects unknown options.
        options.pop("connection_class", Connection)(**options)
    except (ValueError, TypeError):
        # The message of the exception may contain the password.
        raise ValueError(
            "must be a URL of a Redis: redis://:password@host:6379/0, rediss:// for TLS, or unix:// for a socket"
        ) from None
    return url


def _is_broker_url(url: SecretStr) -> SecretStr:
    # Without an unescaped "/", "?" or "#" in the password: Celery would take a part of it for the port, and log it.
    host = r"([^\s/?#]*@)?(\[[\da-fA-F:.]+\]|[^\s/?#:@]+)(:\d+)?"
    if not re.fullmatch(rf"(rediss?|amqps?)://{host}([/?#]\S*)?", url.get_secret_value()):
        raise ValueError(
            "must be a URL of a Redis or RabbitMQ: redis://:password@host:6379/1 or amqp://user:password@host:5672//; "
            "rediss:// or amqps:// for TLS. In the password, write / as %2F, ? as %3F and # as %23"
        )
    return url


def _is_rate_limit(text: str) -> str:
    if text.lower() == "off":
        return "off"
    try:
        if not all(limit.amount for limit in limits.parse_many(text)):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is not a rate limit. Examples: '100 per minute'; '10 per second; 1000 per hour'; off"
        ) from None
    return text


RateLimit = Annotated[str, AfterValidator(_is_rate_limit)]

# A host name or an IPv4 address, perhaps with a leading period.
_TRUSTED_HOST = re.compile(r"\.?[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")
# The form in which browsers send an origin.
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|\*")

MAX_REQUEST_TIMEOUT = 60.0  # seconds; no request may have a longer deadline

# Threads of a worker beside those for MAX_REQUESTS_IN_FLIGHT and MAX_REQUESTS_QUEUED. They serve the routes that use no
# session, such as /health, /metrics and /docs, and reject requests.
RESERVED_THREADS = 16


class SettingsError(Exception):
    """A wrong or missing setting; the message names the variable and the rule."""


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

    auth: Literal["off", "writes", "all"] | None = None
    registration: Literal["open", "closed"] | None = None
    access_token_lifetime: Annotated[int, Field(ge=1, le=900)] = 900
    refresh_token_lifetime: Annotated[int, Field(ge=60, le=366 * 86400)] = 30 * 86400
    token_issuer: str = "fieldbook"
    token_audience: str = "fieldbook"
    token_keys: FilePath | None = None

    rate_limit: RateLimit | None = None
    sign_in_limit_account: RateLimit = "10 per 5 minutes"
    sign_in_limit_address: RateLimit = "100 per 5 minutes"
    redis_url: Annotated[SecretStr, AfterValidator(_is_redis_url)] | None = None

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    cors_credentials: bool = False
    hsts_max_age: Annotated[int, Field(ge=0)] = 365 * 86400

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

    max_import_bytes: Annotated[int, Field(ge=1024)] = 1024**3
    max_imports_in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    celery_broker_url: Annotated[SecretStr, AfterValidator(_is_broker_url)] | None = None
    job_concurrency: Annotated[int, Field(ge=1, le=64)] = 2
    job_lease: Annotated[float, Field(ge=2, le=600)] = 30.0
    job_metrics_port: Port | None = None

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
    cassandra_heartbeat_interval: Seconds = 4.0
    cassandra_heartbeat_timeout: Seconds = 3.0
    cassandra_reconnect_min: Seconds = 0.5
    cassandra_reconnect_max: Seconds = 10.0
    cassandra_speculative_delay: Annotated[float, Field(ge=0, le=60)] = 1.0
    cassandra_executor_threads: Annotated[int, Field(ge=1, le=64)] = 4

    astra_db_secure_bundle_path: FilePath | None = None
    astra_db_application_token: SecretStr | None = None

    @field_validator("secret_key_previous", "trusted_hosts", "cors_origins", "cassandra_hosts", mode="before")
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

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin. Give origins such as https://app.example.org, in lower case and "
                    "without a path, separated by commas; or * for every origin"
                )
        return origins

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
        # Reads the file.
        _ = self.token_key_set
        if self.cassandra_reconnect_min > self.cassandra_reconnect_max:
            raise ValueError("CASSANDRA_RECONNECT_MIN must not exceed CASSANDRA_RECONNECT_MAX")
        if self.stream_limit >= self.max_requests_in_flight > 1:
            raise ValueError(
                f"MAX_STREAMS_IN_FLIGHT must be less than MAX_REQUESTS_IN_FLIGHT ({self.max_requests_in_flight}): "
                "the rest is for requests that are not streams"
            )
        if self.is_production and self.diagnostics and self.operator_token is None:
            raise ValueError("DIAGNOSTICS=true requires OPERATOR_TOKEN when APP_ENV=production")
        if self.cors_credentials and "*" in self.cors_origins:
            raise ValueError("CORS_CREDENTIALS=true needs a list of origins: CORS_ORIGINS must not contain *")
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
        return self.max_requests_in_flight + self.max_requests_queued + self.max_imports_in_flight + RESERVED_THREADS

    @property
    def drain_time(self) -> float:
        """Seconds of connection draining: `DRAIN_SECONDS`, or 10 in production, 0 in development."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 10.0 if self.is_production else 0.0

    @property
    def has_diagnostics(self) -> bool:
        """Whether the diagnostics routes exist: `DIAGNOSTICS`, or true in development."""
        return self.app_env == "development" if self.diagnostics is None else self.diagnostics

    @property
    def broker_url(self) -> str | None:
        """`CELERY_BROKER_URL`; in development also files. None in production without the variable: no messages."""
        if self.celery_broker_url is not None:
            return self.celery_broker_url.get_secret_value()
        return None if self.is_production else "filesystem://localhost"

    @property
    def job_port(self) -> int | None:
        """The port of a job worker: `JOB_METRICS_PORT`, or 8090 in production; None for no port."""
        return self.job_metrics_port or (8090 if self.is_production else None)

    @property
    def is_production(self) -> bool:
        """Whether the service runs in production."""
        return self.app_env == "production"

    @property
    def sign_in(self) -> Literal["off", "writes", "all"]:
        """What requires a token: `AUTH`, or everything in production, nothing in development."""
        return self.auth or ("all" if self.is_production else "off")

    @property
    def is_registration_open(self) -> bool:
        """Whether clients may create accounts: `REGISTRATION`, or only in development."""
        return self.registration == "open" if self.registration else not self.is_production

    @property
    def request_limit(self) -> str | None:
        """The rate limit of a client: `RATE_LIMIT`, or 6000 per minute in production; None for no limit."""
        text = self.rate_limit or ("6000 per minute" if self.is_production else "off")
        return None if text == "off" else text

    @property
    def astra(self) -> bool:
        """Whether the cluster is Astra DB, where CQL can't create keyspaces."""
        return self.astra_db_secure_bundle_path is not None

    @cached_property
    def token_key_set(self) -> str | None:
        """The text of the file TOKEN_KEYS, read once: after a reload that fails, new workers use the previous keys.

        :raises ValueError: the file can't be read.
        """
        try:
            return None if self.token_keys is None else self.token_keys.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"TOKEN_KEYS: {self.token_keys} can't be read: {error}") from None

    @cached_property
    def signing_key(self) -> bytes:
        """`SECRET_KEY`; in development a generated key that all workers of this checkout share."""
        if self.secret_key is not None:
            return self.secret_key.get_secret_value().encode()
        if self.is_production:
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
