"""Astra DB's connection path to the node with TLS and passwords: bundle, metadata service and SNI proxy.

In Astra DB the user name is `token`, the password is the application token, and only the console creates keyspaces.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cassandra.cluster import Session

from environment import get_settings
from settings import Settings, SettingsError
from storage import db_connect
from storage.cql import KeyRange, QueryOptions
from storage.db_connect import NotConnected
from storage.db_initialize import initialize
from storage.schema import SchemaError
from tests.astra import MetadataService, SniProxy, metadata_of, write_bundle
from tests.support import OBSERVER, PROJECT, Service, clean_environment, service, wait_for
from tests.testbed import database
from tests.testbed.db_io import finds
from tests.testbed.sample_data.finds import HAWKWEEDS

pytestmark = [
    # The first test starts a node, which takes more than a minute on a busy machine.
    pytest.mark.timeout(300),
    # The driver creates its TLS context with this constant.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning"),
]

KEYSPACE = "astra"
TOKEN = "AstraCS:a-token-of-the-tests"
UNKNOWN_NODE = "11111111-1111-4111-8111-111111111111"


def settings_of(variables: dict[str, str]) -> Settings:
    return Settings(_env_file=None, **{name.lower(): value for name, value in variables.items()})


@dataclass
class Astra:
    """The parts of a database, and a superuser's session that connects directly to the node.

    :ivar host_id: the host id of the node.
    :ivar variables: the environment variables of a service that connects through these parts.
    """

    host_id: str
    proxy: SniProxy
    metadata: MetadataService
    variables: dict[str, str]
    admin: Session

    def settings(self, **changes: object) -> Settings:
        return settings_of(self.variables | {name.upper(): str(value) for name, value in changes.items()})

    def schema(self) -> set[Any]:
        """All keyspaces, and all tables with their ids."""
        keyspaces = self.admin.execute("SELECT keyspace_name FROM system_schema.keyspaces")
        tables = self.admin.execute("SELECT keyspace_name, table_name, id FROM system_schema.tables")
        return {*keyspaces, *tables}


@pytest.fixture(scope="module")
def client_certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("client.example.org")


def log_in(variables: dict[str, str]) -> Session | None:
    """A session; None if the node has not created its superuser yet."""
    try:
        return db_connect.open_session(settings_of(variables), None)
    except NotConnected:
        return None


@pytest.fixture(scope="module")
def astra(
    secured: dict[str, str],
    authority: trustme.CA,
    client_certificate: trustme.LeafCert,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Astra]:
    """A database with a keyspace that has the tables and the sample rows of the product and of the testbed."""
    files = Path(secured["CASSANDRA_TLS_CA"]).parent
    with ExitStack() as stack:
        admin = wait_for(lambda: log_in(secured), description="the superuser of the node")
        stack.callback(admin.cluster.shutdown)
        for keyspace in (KEYSPACE, "not_granted"):
            admin.execute(
                f"CREATE KEYSPACE {keyspace} WITH replication = "
                "{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}"
            )
        admin.execute(f"CREATE ROLE \"token\" WITH LOGIN = true AND PASSWORD = '{TOKEN}'")
        for permission in ("CREATE", "ALTER", "DROP", "SELECT", "MODIFY"):
            admin.execute(f'GRANT {permission} ON KEYSPACE {KEYSPACE} TO "token"')
        (host_id,) = map(str, admin.execute("SELECT host_id FROM system.local").one())
        proxy = SniProxy({host_id: int(secured["CASSANDRA_PORT"])})
        stack.callback(proxy.close)
        metadata = MetadataService(files / "server.pem", files / "ca.pem", metadata_of([host_id], proxy.port))
        stack.callback(metadata.close)
        bundle = tmp_path_factory.mktemp("astra") / "secure-connect-fieldbook.zip"
        variables = {
            "ASTRA_DB_SECURE_BUNDLE_PATH": str(write_bundle(bundle, metadata.port, authority, client_certificate)),
            "ASTRA_DB_APPLICATION_TOKEN": TOKEN,
            "CASSANDRA_KEYSPACE": KEYSPACE,
            "CASSANDRA_RECONNECT_MAX": "1",
            # The service must use the bundle only.
            "CASSANDRA_HOSTS": "no.such.host.invalid",
        }
        astra = Astra(host_id, proxy, metadata, variables, admin)
        initialize(astra.settings(), say=lambda _: None)
        session = db_connect.open_session(astra.settings(), KEYSPACE)
        stack.callback(session.cluster.shutdown)
        database.create_tables(session, KEYSPACE)
        database.insert_samples(session, KEYSPACE)
        yield astra


@pytest.fixture(scope="module")
def running(astra: Astra, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one worker that connects through Astra DB's connection path. All tests of this module share it."""
    variables = environment | astra.variables | {"WEB_CONCURRENCY": "1"}
    with service(variables, tmp_path_factory.mktemp("service") / "log") as running:
        yield running


# --- the service -------------------------------------------------------------------------------------------


def test_service_is_healthy(running: Service) -> None:
    """/health sees the node up and a quorum of replicas."""
    health = running.client.get("/health").json()
    assert (health["status"], health["nodes"], health["quorum"]) == ("healthy", {"up": 1, "down": 0}, True)


def test_service_writes_and_reads(running: Service) -> None:
    """Inserts, lightweight transactions, a batch and deletions work with the permissions of the token."""
    created = running.client.post("/observers", json=OBSERVER, headers={"Idempotency-Key": uuid.uuid4().hex})
    assert created.status_code == 201, created.text
    url = created.headers["Location"]
    changed = running.client.patch(url, json={"age": 37}, headers={"If-Match": created.headers["ETag"]})
    assert (changed.status_code, running.client.get(url).json()["age"]) == (200, 37)
    batch = running.client.post("/observers/batch", json=[OBSERVER, OBSERVER])
    assert batch.json()["created"] == 2, batch.text
    assert running.client.delete(url).status_code == 204
    assert running.client.get(url).status_code == 404


def test_service_streams_and_pages(running: Service) -> None:
    """Streams of a partition and of a whole table, and a walk over pages, return each row once."""
    hawkweeds = running.client.get("/find/Hieracium").json()
    assert len({row["species"] for row in hawkweeds}) == len(hawkweeds) == HAWKWEEDS
    observers = [row["id"] for row in running.client.get("/observers/stream?fetch_size=10").json()]
    assert len(set(observers)) == len(observers) >= 50
    species, url = [], "/find/Hieracium?limit=1000"
    while url:
        page = running.client.get(url)
        species += [row["species"] for row in page.json()]
        url = page.links.get("next", {}).get("url")
    assert species == [row["species"] for row in hawkweeds]


@pytest.mark.parametrize("down", [False, True], ids=["all connections dropped", "proxy down for a moment"])
def test_service_reconnects_through_the_proxy(running: Service, astra: Astra, down: bool) -> None:
    """After a failure of the SNI proxy, the service works again without a restart."""
    accepted = astra.proxy.accepted
    astra.proxy.disconnect()
    if down:
        wait_for(lambda: running.client.get("/health").status_code == 503, description="/health to return 503")
        assert running.client.get("/find/Quercus").status_code == 503
    astra.proxy.reconnect()
    wait_for(
        lambda: astra.proxy.accepted > accepted and running.client.get("/find/Quercus").status_code == 200,
        description="rows to be readable",
    )
    wait_for(running.healthy, description="the service to be healthy")
    find = {"genus": "Fagus", "species": "sylvatica", "sightings": 1}
    assert running.client.post("/find", json=find).status_code == 201


@pytest.mark.slow
def test_wrong_token_is_logged_without_the_token(start: Callable[..., Service], astra: Astra) -> None:
    """The log names the variable of the token; it has neither its value nor a traceback."""
    wrong = {"ASTRA_DB_APPLICATION_TOKEN": "AstraCS:secret", "WEB_CONCURRENCY": "1"}
    running = start(astra.variables | wrong, healthy=False)
    running.wait_for_log("ASTRA_DB_APPLICATION_TOKEN is not accepted: ")
    assert "AstraCS" not in running.log_text()
    assert "Traceback" not in running.log_text()
    assert running.client.get("/health").status_code == 503


# --- the session -------------------------------------------------------------------------------------------


def rows_of(settings: Settings) -> int:
    """Connect, and return the number of rows of a genus."""
    session = db_connect.open_session(settings, KEYSPACE)
    try:
        return sum(len(page) for page in finds.stream_finds(session, "Hieracium", KeyRange(), QueryOptions()))
    finally:
        session.cluster.shutdown()


def test_unknown_node_in_the_metadata_is_skipped(astra: Astra, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver connects to another node if the proxy refuses the host id of the first."""
    port = astra.proxy.port
    monkeypatch.setattr(astra.metadata, "metadata", metadata_of([UNKNOWN_NODE, astra.host_id], port))
    assert rows_of(astra.settings()) == HAWKWEEDS


def test_bundle_in_a_read_only_directory_is_accepted(astra: Astra) -> None:
    """The driver unpacks the bundle in the directory for temporary files, not beside it."""
    with Path(astra.variables["ASTRA_DB_SECURE_BUNDLE_PATH"]).open("rb") as bundle:
        # Nobody can create a directory in /proc, not even root.
        assert rows_of(astra.settings(astra_db_secure_bundle_path=f"/proc/{os.getpid()}/fd/{bundle.fileno()}"))


METADATA_CASES = {
    "unknown node": ({"contact_points": [UNKNOWN_NODE]}, f"no node answers: .*{UNKNOWN_NODE}: .*unrecognized name"),
    "SNI proxy down": ({"sni_proxy_address": "127.0.0.1:1"}, r"no node answers: 127\.0\.0\.1:1:.*Connection refused"),
    "no contact_points": ({"contact_points": ...}, "metadata service of Astra DB gives no addresses.*contact_points"),
}


@pytest.mark.parametrize(("change", "reason"), METADATA_CASES.values(), ids=list(METADATA_CASES))
def test_wrong_metadata_is_reported(
    astra: Astra, change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the node and the cause."""
    contact_info = metadata_of([astra.host_id], astra.proxy.port)["contact_info"] | change
    remaining = {name: value for name, value in contact_info.items() if value is not ...}
    monkeypatch.setattr(astra.metadata, "metadata", {"contact_info": remaining})
    with pytest.raises(NotConnected, match=reason):
        rows_of(astra.settings())


def bundle_with(changes: dict[str, bytes | None]) -> Callable[..., Path]:
    return lambda *arguments: write_bundle(*arguments, changes)


# Each function writes a bundle. Arguments: its path, the port of the metadata service, the authority, the certificate.
BUNDLES = {
    "foreign certificate authority": (
        lambda path, port, _, client: write_bundle(path, port, trustme.CA(), client),
        "gives no addresses of nodes .*certificate verify failed",
    ),
    "foreign client certificate": (
        lambda path, port, authority, _: write_bundle(path, port, authority, trustme.CA().issue_cert("a.example.org")),
        "gives no addresses of nodes .*unknown ca",
    ),
    "expired client certificate": (
        lambda path, port, authority, _: write_bundle(
            path,
            port,
            authority,
            authority.issue_cert("a.example.org", not_before=datetime(2020, 1, 1), not_after=datetime(2021, 1, 1)),
        ),
        "gives no addresses of nodes .*certificate expired",
    ),
    "metadata service down": (
        lambda path, _, *certificates: write_bundle(path, 1, *certificates),
        "gives no addresses of nodes .*Connection refused.*check in the Astra console",
    ),
    "damaged certificate": (bundle_with({"ca.crt": b"damaged"}), r"secure-connect bundle .*b\.zip is damaged"),
    "key of another certificate": (
        bundle_with({"key": trustme.CA().issue_cert("a.example.org").private_key_pem.bytes()}),
        r"secure-connect bundle .*b\.zip is damaged .*KEY_VALUES_MISMATCH",
    ),
    "damaged config.json": (bundle_with({"config.json": b"{"}), r"secure-connect bundle .*b\.zip is damaged"),
}


@pytest.mark.parametrize(("write", "reason"), BUNDLES.values(), ids=list(BUNDLES))
def test_unusable_bundle_is_reported(
    astra: Astra,
    authority: trustme.CA,
    client_certificate: trustme.LeafCert,
    tmp_path: Path,
    write: Callable[..., Path],
    reason: str,
) -> None:
    """No session is opened. The message has one line, with the cause and what to do."""
    path = write(tmp_path / "b.zip", astra.metadata.port, authority, client_certificate)
    with pytest.raises(NotConnected, match=reason) as raised:
        rows_of(astra.settings(astra_db_secure_bundle_path=path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [(name, f"There is no item named '{name}'") for name in ("config.json", "ca.crt", "cert", "key")]
    + [("the end", "File is not a zip file")],
    ids=lambda value: value if len(value) < 12 else "",
)
def test_incomplete_bundle_prevents_the_start(
    authority: trustme.CA,
    client_certificate: trustme.LeafCert,
    tmp_path: Path,
    missing: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The settings name the variable, the bundle, and what it lacks."""
    path = write_bundle(tmp_path / "b.zip", 1, authority, client_certificate, {missing: None})
    if missing == "the end":
        path.write_bytes(path.read_bytes()[:-10])
    monkeypatch.setenv("ASTRA_DB_SECURE_BUNDLE_PATH", str(path))
    monkeypatch.setenv("ASTRA_DB_APPLICATION_TOKEN", TOKEN)
    get_settings.cache_clear()
    try:
        with pytest.raises(SettingsError, match=rf"ASTRA_DB_SECURE_BUNDLE_PATH: .*b\.zip is not .*{reason}"):
            get_settings()
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


# --- migrations --------------------------------------------------------------------------------------------


def test_migrations_create_all_tables_in_an_existing_keyspace(astra: Astra) -> None:
    """The token may not create keyspaces, but may migrate its own. A second run changes nothing."""
    migrations = "".join(path.read_text() for path in (PROJECT / "storage" / "migrations").glob("*.cql"))
    expected = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", migrations))
    before = astra.schema()
    assert expected
    assert expected <= {name for keyspace, name, *_ in (row for row in before if len(row) == 3) if keyspace == KEYSPACE}
    initialize(astra.settings(), say=lambda _: None)
    assert astra.schema() == before


def test_missing_keyspace_error_names_the_astra_console(astra: Astra) -> None:
    """The message says in one line what to do, and nothing is created."""
    before = astra.schema()
    with pytest.raises(SchemaError, match=r"no keyspace missing.*Astra console") as raised:
        initialize(astra.settings(cassandra_keyspace="missing"), samples=False, say=lambda _: None)
    assert "\n" not in str(raised.value)
    assert astra.schema() == before
    with pytest.raises(NotConnected, match="keyspace missing does not exist; add it in the Astra console"):
        db_connect.open_session(astra.settings(), "missing")


@pytest.mark.parametrize("keyspace", ["missing", "not_granted"])
def test_missing_permission_is_reported(astra: Astra, secured: dict[str, str], keyspace: str) -> None:
    """Without Astra DB, the message names the permission in one line if the user may not create keyspace or tables."""
    variables = {"CASSANDRA_USERNAME": "token", "CASSANDRA_PASSWORD": TOKEN, "CASSANDRA_KEYSPACE": keyspace}
    before = astra.schema()
    with pytest.raises(SchemaError, match="has no CREATE permission on") as raised:
        initialize(settings_of(secured | variables), samples=False, say=lambda _: None)
    assert "\n" not in str(raised.value)
    assert astra.schema() == before


def test_command_reports_a_wrong_token_in_one_line(astra: Astra) -> None:
    """The exit status is 1, and standard error has one line, without a traceback."""
    run = subprocess.run(
        [sys.executable, "storage/db_initialize.py"],
        cwd=PROJECT,
        env=clean_environment() | astra.variables | {"ASTRA_DB_APPLICATION_TOKEN": "AstraCS:secret"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr.count("\n")) == (1, 1), run.stderr
    assert "Astra DB can't be reached: ASTRA_DB_APPLICATION_TOKEN is not accepted: " in run.stderr
    assert "AstraCS" not in run.stderr
