"""Job workers: real processes of Celery, with messages as files and in a real Redis."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from cassandra.cluster import Session
from redis import Redis

from jobs.messages import send_work
from observability import metrics
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.db_io.jobs import open_job_ids
from storage.db_io.versioned import now
from tests.job_workers import JobTests, job_tests
from tests.redis_server import RedisServer, redis_server
from tests.support import PROJECT, clean_environment, wait_for
from tests.testbed import database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=["files", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    """The value of CELERY_BROKER_URL."""
    if request.param == "files":
        return ""
    server: RedisServer = request.getfixturevalue("redis")
    return server.url.replace("/0", "/1")


@pytest.fixture(scope="module")
def job_environment(
    broker: str, environment: dict[str, str], settings: Settings, session: Session
) -> Iterator[dict[str, str]]:
    """The environment of workers with a keyspace of their own, where leases are 2 s."""
    with database.new_keyspace(session, settings) as keyspace:
        variables = {"CELERY_BROKER_URL": broker, "CASSANDRA_KEYSPACE": keyspace, "JOB_LEASE": "2"}
        yield environment | variables | {"JOB_CONCURRENCY": "1", "APP_ENV": "development"}


@pytest.fixture(scope="module")
def job_settings(job_environment: dict[str, str]) -> Settings:
    """The settings of these workers."""
    return Settings(**{name.lower(): value for name, value in job_environment.items() if value})


@pytest.fixture(scope="module")
def job_session(job_settings: Settings) -> Iterator[Session]:
    session = db_connect.open_session(job_settings, job_settings.cassandra_keyspace)
    yield session
    session.cluster.shutdown()


@pytest.fixture
def jobs(
    job_environment: dict[str, str], job_settings: Settings, job_session: Session, tmp_path: Path
) -> Iterator[JobTests]:
    """Start workers, create jobs, and read what they have done."""
    with job_tests(job_environment, job_settings, job_session, tmp_path) as helper:
        yield helper


def test_worker_runs_a_job_to_its_end(jobs: JobTests) -> None:
    """A message starts a job. Its steps are done once, in order, and the list of open jobs is empty then."""
    worker = jobs.worker()
    worker.wait_until_ready()
    job = jobs.job(steps=5)
    assert send_work(jobs.settings, job.id)
    ended = jobs.wait_for_end(job)
    assert [step for _, _, step in jobs.steps(job)] == list(range(5))
    assert (ended.attempts, ended.stalled) == (1, 0)
    wait_for(lambda: not open_job_ids(jobs.session, QueryOptions()), description="an empty list of open jobs")


def test_job_survives_the_kill_of_its_process(jobs: JobTests) -> None:
    """After `kill -9` of the child, the worker starts another one. It continues when the lease has expired."""
    worker = jobs.worker("--beat")
    worker.wait_until_ready()
    job = jobs.job(steps=100)
    send_work(jobs.settings, job.id)
    ((_, child, _), *_) = jobs.wait_for_steps(job, 10)
    os.kill(child, signal.SIGKILL)
    ended = jobs.wait_for_end(job)
    steps = jobs.steps(job)
    assert sorted({step for _, _, step in steps}) == list(range(100))
    assert len({process for _, process, _ in steps}) == 2
    assert ended.attempts == 2
    # The metrics of the ended process are kept, and its gauges are not.
    assert worker.metric('fieldbook_job_retries_total{kind="lines"}') == 1
    assert worker.metric("fieldbook_workers") == 1


def test_job_survives_the_kill_of_its_worker(jobs: JobTests) -> None:
    """After `kill -9` of the parent, its processes end. Another worker continues after the lease."""
    first = jobs.worker("--beat")
    first.wait_until_ready()
    job = jobs.job(steps=100)
    send_work(jobs.settings, job.id)
    jobs.wait_for_steps(job, 10)
    children = [psutil.Process(child) for child in first.children()]
    assert len(children) == 2
    first.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    jobs.worker("--beat").wait_until_ready()
    jobs.wait_for_end(job)
    assert {parent for parent, _, _ in jobs.steps(job)} >= {first.process.pid}
    assert sorted({step for _, _, step in jobs.steps(job)}) == list(range(100))


def test_worker_hands_its_job_over_on_sigterm(jobs: JobTests) -> None:
    """On SIGTERM a worker ends after the current step. The next one continues at once, and repeats no step."""
    first = jobs.worker()
    first.wait_until_ready()
    job = jobs.job(steps=120)
    send_work(jobs.settings, job.id)
    jobs.wait_for_steps(job, 5)
    first.terminate(timeout=10)
    assert first.process.returncode == 0, first.text()
    handed_over = jobs.find(job)
    assert (handed_over.state, handed_over.lease_until) == ("running", None)
    assert 5 <= handed_over.checkpoint < 120
    # No beat: the message that the first worker has sent is enough.
    jobs.worker().wait_until_ready()
    ended = jobs.wait_for_end(job)
    assert [step for _, _, step in jobs.steps(job)] == list(range(120))
    assert (ended.attempts, ended.stalled) == (1, 0)


def test_worker_ends_if_its_children_get_sigterm_too(jobs: JobTests) -> None:
    worker = jobs.worker()
    worker.wait_until_ready()
    job = jobs.job(steps=120)
    send_work(jobs.settings, job.id)
    jobs.wait_for_steps(job, 5)
    children = [psutil.Process(child) for child in worker.children()]
    worker.terminate_all(timeout=15)
    assert not [child for child in children if child.is_running()]
    handed_over = jobs.find(job)
    assert (handed_over.state, handed_over.lease_until) == ("running", None)
    jobs.worker().wait_until_ready()
    jobs.wait_for_end(job)
    assert [step for _, _, step in jobs.steps(job)] == list(range(120))


def test_one_of_two_workers_with_the_same_message_works(jobs: JobTests) -> None:
    workers = [jobs.worker(), jobs.worker()]
    for worker in workers:
        worker.wait_until_ready()
    job = jobs.job(steps=40)
    for _ in range(6):
        send_work(jobs.settings, job.id)
    ended = jobs.wait_for_end(job)
    assert [step for _, _, step in jobs.steps(job)] == list(range(40))
    assert ended.claim == 1


def test_worker_starts_with_the_jobs_whose_messages_are_lost(jobs: JobTests) -> None:
    """A worker sweeps when it starts. No beat runs."""
    job = jobs.job(steps=3)
    wait_for(lambda: now() - job.created_at > timedelta(seconds=2), description="a job that should have started")
    jobs.worker().wait_until_ready()
    jobs.wait_for_end(job)


def test_worker_sweeps_before_a_job_if_no_message_asks_for_it(jobs: JobTests) -> None:
    """In a long queue, each message "sweep" expires. No beat runs."""
    worker = jobs.worker()
    worker.wait_until_ready()
    wait_for(lambda: worker.metric("fieldbook_job_sweep_timestamp_seconds"), description="the sweep of the start")
    lost = jobs.job(steps=3)
    # Two intervals of sweeps, which is also the lease.
    wait_for(lambda: now() - lost.created_at > timedelta(seconds=2.5), description="a sweep that is overdue")
    other = jobs.job(steps=3)
    send_work(jobs.settings, other.id)
    jobs.wait_for_end(other)
    jobs.wait_for_end(lost)


def test_port_serves_metrics_and_probes(jobs: JobTests) -> None:
    worker = jobs.worker("--beat")
    worker.wait_until_ready()
    assert worker.get("/health/live").json() == {"status": "alive"}
    assert worker.get("/health/ready").json() == {"status": "ready"}
    assert worker.get("/nothing").status_code == 404
    job = jobs.job(steps=30)
    send_work(jobs.settings, job.id)
    jobs.wait_for_end(job)
    wait_for(lambda: worker.metric("fieldbook_job_sweep_timestamp_seconds"), description="a sweep")
    assert worker.metric('fieldbook_job_rows_total{kind="lines"}') == 30
    assert worker.metric('fieldbook_jobs_ended_total{kind="lines",outcome="succeeded"}') == 1
    assert worker.metric('fieldbook_jobs_open{kind="lines",state="running"}') == 0
    assert worker.metric('fieldbook_job_queue_age_seconds{kind="lines"}') == 0
    assert worker.metric("fieldbook_driver_connections") > 0


def test_jobs_run_after_the_broker_was_down(jobs: JobTests, broker: str, request: pytest.FixtureRequest) -> None:
    """A message that can't be sent is counted. The worker connects again, and the sweep finds the job."""
    if not broker:
        pytest.skip("a directory is never down")
    redis: RedisServer = request.getfixturevalue("redis")
    worker = jobs.worker("--beat")
    worker.wait_until_ready()
    before = failed_messages()
    redis.pause()
    lost = jobs.job(steps=3)
    assert not send_work(jobs.settings, lost.id)
    redis.resume()
    redis.kill()
    wait_for(lambda: worker.get("/health/ready").status_code == 503, description="a worker that is not ready")
    assert worker.get("/health/live").status_code == 200
    second = jobs.job(steps=3)
    assert not send_work(jobs.settings, second.id)
    assert failed_messages() == before + 2
    redis.start()
    jobs.wait_for_end(lost)
    jobs.wait_for_end(second)
    assert worker.is_ready()


def test_processes_send_messages_before_and_after_a_fork(redis: RedisServer) -> None:
    """A child uses a connection of its own, and the parent's connection still works afterwards."""
    url = redis.url.replace("/0", "/2")
    code = (
        "import os, uuid\n"
        "from environment import get_settings\n"
        "from jobs.messages import send_work\n"
        "sent = [send_work(get_settings(), uuid.uuid4())]\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(not send_work(get_settings(), uuid.uuid4()))\n"
        "sent += [os.waitpid(child, 0)[1] == 0, send_work(get_settings(), uuid.uuid4())]\n"
        "print(sent)"
    )
    run = run_python(code, CELERY_BROKER_URL=url)
    assert run.stdout.strip() == "[True, True, True]", run.stderr
    with Redis.from_url(url) as client:
        assert client.llen("fieldbook") == 3


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the project."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def failed_messages() -> float:
    """Return the number of messages that this process could not send."""
    (family,) = metrics.JOB_MESSAGES_FAILED.collect()
    return family.samples[0].value


def test_production_without_a_broker_sends_no_messages(settings: Settings) -> None:
    production = settings.model_copy(update={"app_env": "production"})
    assert not send_work(production, uuid4())


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"APP_ENV": "production"}, "CELERY_BROKER_URL is required when APP_ENV=production"),
        ({"JOB_LEASE": "1"}, "JOB_LEASE: Input should be greater than or equal to 2"),
        ({"JOB_METRICS_PORT": "taken"}, "can't be used: Address already in use"),
    ],
)
def test_worker_refuses_wrong_settings(
    variables: dict[str, str], message: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """The application of the product ends with status 2 and one message."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = {name: value.replace("taken", str(listener.getsockname()[1])) for name, value in variables.items()}
        ended = subprocess.run(
            [sys.executable, "-m", "celery", "--app", "worker", "--quiet", "worker"],
            cwd=PROJECT,
            env=clean_environment() | environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_web_process_imports_celery_with_its_first_message() -> None:
    code = (
        "import sys, uuid, wsgi\n"
        "from environment import get_settings\n"
        "from jobs.messages import send_work\n"
        "before = 'celery' in sys.modules or 'kombu' in sys.modules\n"
        "print(before, send_work(get_settings(), uuid.uuid4()), 'celery' in sys.modules)"
    )
    keyspace = "fieldbook_test_no_worker"
    try:
        run = run_python(code, CASSANDRA_KEYSPACE=keyspace)
    finally:
        shutil.rmtree(PROJECT / ".fieldbook" / "jobs" / keyspace, ignore_errors=True)
    assert run.stdout.split() == ["False", "True", "True"], run.stderr
