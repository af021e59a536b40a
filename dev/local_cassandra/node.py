"""Configure, start and stop one Cassandra process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.local_cassandra.jars import NodeError, cassandra_version, class_path
from dev.local_cassandra.java import java_executable

STATE = Path(__file__).resolve().parents[2] / ".fieldbook"

# `settings` of a node that acknowledges a write before it is on disk, as Cassandra does by default. Tests use them
# because writes are faster, and benchmarks because most clusters have them.
FAST_COMMIT_LOG = {"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms"}

# `settings` and `java_options` of a node that lives as long as a test run. A test run starts nodes, creates keyspaces
# and drops them, and few statements run often enough for the optimizing compiler. A new keyspace costs a third of the
# processor time: no snapshot of what is dropped, no flush of the schema tables after each statement (they are in the
# commit log), and only the fast compiler. Benchmarks must not use these options: they make hot code slower.
TEST_SETTINGS = {**FAST_COMMIT_LOG, "auto_snapshot": False}
FAST_COMPILER = ("-XX:TieredStopAtLevel=1",)
TEST_JAVA_OPTIONS = (*FAST_COMPILER, "-Dcassandra.test.flush_local_schema_changes=false")

# From Cassandra's own conf/jvm17-server.options, which includes those of Java 11.
_EXPORTS = """
java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry
java.rmi/sun.rmi.server java.sql/java.sql java.base/java.lang.ref jdk.unsupported/sun.misc
""".split()
_OPENS = """
java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect
java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar
jdk.management/com.sun.management.internal java.base/sun.nio.ch java.base/java.io java.base/java.lang.reflect
java.base/java.lang java.base/java.util
""".split()

_LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date{ISO8601} %-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"""


@dataclass
class Node:
    """A Cassandra node with its own directory. Two nodes on one address need different ports.

    CASSANDRA_VERSION sets the version of a node that is started.

    :param directory: holds configuration, data, log and pid file; created if missing, kept on stop.
    :param seed: address of the first node of the cluster; None for a single node.
    :param settings: additional entries of cassandra.yaml, such as those for TLS and passwords in tests.
    :param java_options: additional options of the Java virtual machine.
    """

    directory: Path
    address: str = "127.0.0.1"
    native_port: int = 9042
    storage_port: int = 7000
    seed: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    java_options: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def log(self) -> Path:
        return self.directory / "system.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "pid"

    def running(self) -> int | None:
        """The process id, or None when the node is not running or another program now has its process id."""
        pid = self._pid_in_file()
        return pid if pid and f"-Dcassandra.storagedir={self.directory}" in _command_line(pid) else None

    def _pid_in_file(self) -> int | None:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def start(self) -> None:
        """Start the process and return immediately; see :meth:`wait_until_ready`.

        :raises NodeError: when the address or a port is not available, or the node already runs.
        """
        check_address(self.address)
        if self.seed is None and not port_is_free(self.address, self.storage_port):
            # All nodes of a cluster must use the same storage port. A single node may use any (macOS uses port 7000).
            self.storage_port = free_port(self.address)
        for port in (self.native_port, self.storage_port):
            if reason := bind_error(self.address, port):
                raise NodeError(
                    f"Cassandra needs port {port} on {self.address}: {reason}. "
                    "To use another client port than 9042, set CASSANDRA_PORT."
                )
        if self.running() is not None:
            raise NodeError(f"The node in {self.directory} already runs, on another port. `make stop` stops it.")
        version = cassandra_version()
        jars = class_path(version, STATE / f"jars-{version}")
        java = java_executable(version, STATE)
        conf = self._write_configuration()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(java, jars, conf),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                # In its own session the node does not receive Ctrl-C: the program that started it stops the service
                # before its database.
                start_new_session=True,
            )
        self._pid_file.write_text(str(self._process.pid))

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Return when the node accepts CQL connections.

        :param timeout: seconds.
        :raises NodeError: when the process ends or the timeout expires.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if speaks_cql(self.address, self.native_port):
                return
            if self._process is not None and self._process.poll() is not None:
                raise NodeError(f"Cassandra stopped while starting. The end of {self.log}:\n{self._log_tail()}")
            time.sleep(0.1)
        raise NodeError(f"Cassandra was not ready within {timeout:.0f} s. The end of {self.log}:\n{self._log_tail()}")

    def stop(self, timeout: float = 60.0) -> bool:
        """Stop the process with SIGTERM, and after `timeout` seconds with SIGKILL.

        This is the process that :meth:`start` started, or else the process in the pid file. If the started process was
        killed and another program has started the node again since, that node keeps running and keeps its pid file.

        :returns: whether the process was running.
        """
        pid = self._process.pid if self._process else self.running()
        if pid is None:
            return False
        was_running = self._is_running(pid)
        if was_running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self._is_running(pid):
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self._process = None
        if self._pid_in_file() == pid:
            self._pid_file.unlink(missing_ok=True)
        return was_running

    def _is_running(self, pid: int) -> bool:
        # A child process stays in the process list until poll() collects its exit status; other processes do not.
        return self._process.poll() is None if self._process else self.running() == pid

    def _log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _write_configuration(self) -> Path:
        conf = self.directory / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        settings = {
            "cluster_name": "fieldbook development",
            "num_tokens": 16,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "seed_provider": [
                {
                    "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                    "parameters": [{"seeds": f"{self.seed or self.address}:{self.storage_port}"}],
                }
            ],
            "listen_address": self.address,
            "rpc_address": self.address,
            "native_transport_port": self.native_port,
            "storage_port": self.storage_port,
            "endpoint_snitch": "SimpleSnitch",
            # The node acknowledges a write after it is on disk, so that `kill -9` loses none. With 1 ms, the shortest
            # window, an INSERT takes 1.1 ms instead of 0.5 ms, and a lightweight transaction 5.5 ms instead of 1.5 ms.
            "commitlog_sync": "group",
            "commitlog_sync_group_window": "1ms",
            "data_file_directories": [str(self.directory / "data")],
            "commitlog_directory": str(self.directory / "commitlog"),
            "saved_caches_directory": str(self.directory / "saved_caches"),
            "hints_directory": str(self.directory / "hints"),
            "cdc_raw_directory": str(self.directory / "cdc_raw"),
            "authenticator": "AllowAllAuthenticator",
            "authorizer": "AllowAllAuthorizer",
            **self.settings,
        }
        # JSON is YAML.
        (conf / "cassandra.yaml").write_text(json.dumps(settings, indent=2))
        (conf / "logback.xml").write_text(_LOGBACK)
        return conf

    def _command(self, java: Path, jars: list[Path], conf: Path) -> list[str]:
        agent = next(jar for jar in jars if jar.name.startswith("jamm-"))
        return [
            str(java),
            "-Xms512M",
            "-Xmx512M",
            "-XX:+UseG1GC",
            *self.java_options,
            "-Djava.net.preferIPv4Stack=true",
            "-Djdk.attach.allowAttachSelf=true",
            "-Dio.netty.tryReflectionSetAccessible=true",
            *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
            *(f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS),
            f"-javaagent:{agent}",
            f"-Dcassandra.config={(conf / 'cassandra.yaml').as_uri()}",
            f"-Dcassandra.storagedir={self.directory}",
            "-Dcassandra-foreground=yes",
            # On one machine gossip settles quickly, so shorten the waits at startup.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=2000",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-cp",
            os.pathsep.join([str(conf), *map(str, jars)]),
            "org.apache.cassandra.service.CassandraDaemon",
        ]


def scratch_node(directory: Path) -> Node:
    """A node on free ports that lives as long as a command or a test run: not started yet."""
    return Node(
        directory=directory,
        native_port=free_port(),
        storage_port=free_port(),
        settings=TEST_SETTINGS,
        java_options=TEST_JAVA_OPTIONS,
    )


def service_pid_file(port: int | str) -> Path:
    """The pid file of the gunicorn that `make run` starts on this HTTP port."""
    return STATE / f"gunicorn-{port}.pid"


def job_worker_pid_file(port: int | str) -> Path:
    """The pid file of the job worker that `make run` starts beside the gunicorn on this HTTP port."""
    return STATE / f"job-worker-{port}.pid"


def job_worker_name(port: int | str) -> str:
    """The name of this job worker in its command line."""
    return f"--hostname=fieldbook-{port}@%h"


def beat_pid_file(port: int | str) -> Path:
    """The pid file of the beat that `make run` starts beside the gunicorn on this HTTP port."""
    return STATE / f"beat-{port}.pid"


def beat_pid_option(port: int | str) -> str:
    """The name of this beat in its command line. Celery writes the file too."""
    return f"--pidfile={beat_pid_file(port)}"


def stop_services(timeout: float = 60.0) -> int:
    """Stop every gunicorn, job worker and beat that a killed `make run` left behind, and wait until it has ended.

    :param timeout: seconds to wait for each process.
    :returns: the number of processes.
    """
    # After a process has ended, another program may have received its process id. Skip that program: its command line
    # has another argument.
    kinds: dict[str, tuple[str, Callable[[str], str]]] = {
        "gunicorn": ("the service: in-flight requests complete first", lambda port: f"--pid {service_pid_file(port)}"),
        "job-worker": ("the job worker", job_worker_name),
        "beat": ("beat", beat_pid_option),
    }
    return sum(
        _stop_service(file, argument(file.stem.rpartition("-")[2]), what, timeout)
        for kind, (what, argument) in kinds.items()
        for file in STATE.glob(f"{kind}-*.pid")
    )


def _stop_service(file: Path, argument: str, what: str, timeout: float) -> bool:
    stopped = False
    with suppress(ValueError, ProcessLookupError, FileNotFoundError):
        pid = int(file.read_text())
        if f"{argument} " in _command_line(pid):
            os.kill(pid, signal.SIGTERM)
            stopped = True
            print(f"Stopping {what} ...", flush=True)
            deadline = time.monotonic() + timeout
            while f"{argument} " in _command_line(pid) and time.monotonic() < deadline:
                time.sleep(0.1)
    file.unlink(missing_ok=True)
    return stopped


def ring(count: int, native_port: int) -> list[Node]:
    """The development nodes: one on 127.0.0.1, or `count` on consecutive addresses from 127.0.0.1.

    Clusters of different sizes have different directories, because a node's data belongs to one cluster. So do clusters
    of Cassandra 4.1 and 5.0, because 4.1 can't read the data of 5.0.

    :raises NodeError: CASSANDRA_VERSION is not supported.
    """
    home = STATE / (f"cassandra-4.1-{count}" if cassandra_version().startswith("4.1") else f"cassandra-{count}")
    seed = "127.0.0.1" if count > 1 else None
    return [
        Node(directory=home / f"node{i}", address=f"127.0.0.{i}", native_port=native_port, seed=seed)
        for i in range(1, count + 1)
    ]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    # Only Linux has /proc.
    return subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout


def check_address(address: str) -> None:
    """Check that this machine has the address; macOS only has 127.0.0.1 unless an alias is added.

    :raises NodeError: when the address is missing.
    """
    try:
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError as error:
        raise NodeError(
            f"This machine does not have the address {address} ({error}). On macOS, add it with "
            f"`sudo ifconfig lo0 alias {address} up`."
        ) from error


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which no program is listening now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def bind_error(address: str, port: int) -> str | None:
    """The operating system's reason why no program can listen on the port, or None when one can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def port_is_free(address: str, port: int) -> bool:
    """True when a program can listen on the port."""
    return bind_error(address, port) is None


def speaks_cql(address: str, port: int, timeout: float = 2.0) -> bool:
    """True when a CQL server listens on the port: it answers an OPTIONS frame with SUPPORTED.

    Source: native_protocol_v4.spec, sections 2 and 4.1.3. Cassandra 2.2 and later and ScyllaDB support version 4.
    """
    options = bytes([4, 0, 0, 0, 5, 0, 0, 0, 0])
    supported = 6
    try:
        with socket.create_connection((address, port), timeout=timeout) as connection:
            connection.sendall(options)
            header = connection.recv(9)
    except OSError:
        return False
    return len(header) >= 5 and header[0] & 0x80 != 0 and header[4] == supported
