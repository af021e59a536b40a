"""Requests and responses through nginx: headers, links, limits, and what is not public."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.functional.nginx.conftest import TOKEN
from tests.nginx import HOST, Nginx
from tests.sockets import take_response
from tests.support import OBSERVER, Service, wait_for

# The first test starts both instances.
pytestmark = pytest.mark.timeout(180)

PROBLEM = "application/problem+json"
# As JSON above nginx's gzip_min_length.
LONG = OBSERVER | {"name": "Ada " * 25}


def log_line(instances: list[Service], request_id: str) -> str:
    """The line of the service's access log with this request id."""
    return wait_for(
        lambda: next(
            (line for each in instances for line in each.log.read_text().splitlines() if f"[{request_id}]" in line), ""
        ),
        description=f"the log line of {request_id}",
    )


def test_etag_survives_gzip(client: httpx.Client) -> None:
    """nginx makes the ETag of a compressed response weak. It works in If-None-Match and If-Match."""
    path = client.post("/observers", json=LONG).headers["Location"]
    observer = client.get(path, headers={"Accept-Encoding": "gzip"})
    assert observer.headers["Content-Encoding"] == "gzip"
    assert observer.headers["Vary"] == "Accept-Encoding"
    tag = observer.headers["ETag"]
    assert tag.startswith('W/"')
    known = client.get(path, headers={"If-None-Match": tag})
    assert (known.status_code, known.content) == (304, b"")
    changed = client.patch(path, json={"age": 37}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["age"]) == (200, 37)
    assert client.patch(path, json={"age": 38}, headers={"If-Match": tag}).status_code == 412
    assert client.delete(path, headers={"If-Match": tag}).status_code == 412
    assert client.delete(path, headers={"If-Match": changed.headers["ETag"]}).status_code == 204


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
def test_lists_are_compressed(client: httpx.Client, accept: str) -> None:
    headers = {"Accept": accept, "Accept-Encoding": "gzip"}
    with client.stream("GET", "/observers?limit=100", headers=headers) as response:
        compressed = b"".join(response.iter_raw())
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed).count(b"@example.org") == 100


# --- the client's address and forwarded headers --------------------------------------------------------------

FORGED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "javascript",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "X_Forwarded_Prefix": "/evil",
    "X-Real-IP": "203.0.113.7",
    "Forwarded": "for=203.0.113.7;host=evil.example;proto=http",
}


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_log_has_the_address_of_the_client(nginx: Nginx, instances: list[Service], http2: bool) -> None:
    """Also if the client sends forwarded headers. Every address of 127.0.0.0/8 can be that of a client."""
    request_id = f"address-{http2}"
    with nginx.client(http2, local_address="127.0.0.9") as client:
        assert client.get("/observers?limit=1", headers=FORGED | {"X-Request-ID": request_id}).status_code == 200
    assert log_line(instances, request_id).endswith(" 127.0.0.9")
    assert "203.0.113.7" not in nginx.access_log.read_text()


def test_client_cannot_change_links(client: httpx.Client) -> None:
    created = client.post("/observers", json=OBSERVER, headers=FORGED)
    assert created.status_code == 201
    assert created.headers["Location"].startswith("/observers/")
    link = client.get("/observers?limit=1", headers=FORGED).links["next"]["url"]
    assert link.startswith("/observers?limit=1&page_state=")
    assert client.get(link).status_code == 200
    assert "evil" not in client.get("/", headers=FORGED | {"Accept": "text/html"}).text


def test_http_is_redirected_to_https(nginx: Nginx) -> None:
    """With 308, a client repeats a POST as it was."""
    redirected = httpx.post(f"http://127.0.0.1:{nginx.http_port}/observers?a=%2F", headers={"Host": HOST})
    assert (redirected.status_code, redirected.headers["Location"]) == (308, f"https://{HOST}/observers?a=%2F")


def test_other_host_names_are_rejected(nginx: Nginx, client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert httpx.get(f"http://127.0.0.1:{nginx.http_port}/", headers={"Host": "evil.example"}).status_code == 421
    for extensions in ({"sni_hostname": "evil.example"}, {}):
        with (
            httpx.Client(verify=nginx.tls()) as other,
            pytest.raises(httpx.ConnectError, match=r"(?i)unrecognized"),
        ):
            other.get(f"https://127.0.0.1:{nginx.port}/", headers={"Host": HOST}, extensions=extensions)


@pytest.mark.parametrize("host", [HOST, "evil.example"])
def test_query_strings_are_not_logged(nginx: Nginx, host: str) -> None:
    """They may contain secrets. Clients also send requests without TLS, or for another host name."""
    name = f"logged-{uuid4()}"
    httpx.get(f"http://127.0.0.1:{nginx.http_port}/{name}?token=secret", headers={"Host": host})
    line = wait_for(
        lambda: [line for line in nginx.access_log.read_text().splitlines() if name in line],
        description="the line in the log",
    )
    assert "secret" not in str(line)


# --- what is not public --------------------------------------------------------------------------------------

SPELLINGS = """
/NAME /NAME/ //NAME ///NAME// /NAME? /NAME?a=b /NAME# /NAME#a /NAME/. /NAME/../NAME /./NAME /a/../NAME /a/..//NAME
/%2e/NAME /a/%2e%2e/NAME /a/%2e%2e%2fNAME /%2FNAME /%2f%2fNAME /%ENAME /%%NAME /NAME%2F /NAME%20 /NAME%00 /NAME%0a
/NAME%3f /NAME%23 /NAME;a /NAME;/../ /NAME/..;/NAME /NAME/%2e%2e /NAME/..%2f /NAME. /NAME/a /\\NAME /a\\..\\NAME
http://HOST/NAME http://HOST//NAME https://HOST/NAME http://evil.example/NAME http://HOST/%2e/NAME NAME *NAME
/health/../NAME /health/..%2fNAME /docs/../NAME /docs/..%2fNAME /docs/%2e%2e/NAME /health/live/..//..//NAME /NAME%c0%af
""".split()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_metrics_and_shutdown_are_not_public(nginx: Nginx, instances: list[Service], method: str) -> None:
    """By no spelling of the path, not even with the operator's token."""
    names = ["metrics", "shutdown"]
    names += [f"%{ord(name[0]):02x}{name[1:]}" for name in names] + [name.upper() for name in names]
    names += [f"%25{ord(name[0]):02x}{name[1:]}" for name in ("metrics", "shutdown")]
    for name in names:
        for spelling in SPELLINGS:
            encoded = f"{ord(name[0]):02x}{name[1:]}"
            target = spelling.replace("%ENAME", f"%{encoded}").replace("NAME", name).replace("HOST", HOST)
            head = f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {TOKEN}\r\nAccept: text/plain"
            with nginx.connect() as connection:
                connection.sendall(f"{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                data = b""
                while part := connection.recv(65536):
                    data += part
            response, _ = take_response(data, at_end=True)
            assert response.status in (400, 404, 405, 421), (target, response)
            assert b"fieldbook_" not in response.body
    assert all(instance.healthy() for instance in instances)
    assert instances[0].client.get("/metrics").status_code == 200


# --- limits and errors ---------------------------------------------------------------------------------------


def test_body_size_limits_are_the_same(client: httpx.Client) -> None:
    """nginx forwards a body of MAX_BODY_BYTES, and rejects a longer one."""
    headers = {"Content-Type": "application/json"}
    most = json.dumps(OBSERVER).encode().ljust(1024 * 1024)
    assert client.post("/observers", content=most, headers=headers).status_code == 201
    rejected = client.post("/observers", content=most + b" ", headers=headers)
    assert (rejected.status_code, rejected.headers["Content-Type"]) == (413, PROBLEM)
    # The service's own document has the member `instance`.
    assert "instance" not in rejected.json()


def test_nginx_forwards_headers_that_the_service_accepts(client: httpx.Client) -> None:
    """The service accepts lines of 8,190 bytes and 64 KiB in all."""
    headers = {f"X-Long-{number}": 8000 * "a" for number in range(7)}
    assert client.get("/observers?limit=1", headers=headers).status_code == 200
    rejected = client.get("/observers?limit=1", headers={"X-Long": 8200 * "a"})
    assert (rejected.status_code, rejected.headers["Content-Type"]) == (431, PROBLEM)
    assert client.get(f"/observers?limit=1&a={8300 * 'a'}").status_code == 414


def test_errors_of_the_service_are_unchanged(client: httpx.Client) -> None:
    missing = client.get("/observers/00000000-0000-4000-8000-000000000000")
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, PROBLEM)
    assert missing.json()["instance"].startswith("/observers/")
    invalid = client.post("/observers", json={"name": ""})
    assert (invalid.status_code, invalid.headers["Content-Type"]) == (422, PROBLEM)
    assert invalid.json()["errors"]


@pytest.mark.parametrize(
    ("path", "status"), [("/observers?limit=1", 200), ("/docs", 200), ("/nothing", 404), ("/metrics", 404)]
)
def test_security_headers_are_sent_once(client: httpx.Client, path: str, status: int) -> None:
    """nginx sends them with its own errors too, such as that for /metrics, and hides those of the service."""
    response = client.get(path)
    assert response.status_code == status
    assert response.headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]
    assert response.headers.get_list("X-Content-Type-Options") == ["nosniff"]


@pytest.mark.parametrize("given", ["given-7", 'no"id', ""])
def test_request_id_is_the_same_in_both_logs(
    nginx: Nginx, client: httpx.Client, instances: list[Service], given: str
) -> None:
    """nginx forwards a valid id of the client, or a new one, and writes it into its problem documents."""
    response = client.get("/observers?limit=1", headers={"X-Request-ID": given})
    request_id = response.headers["X-Request-ID"]
    assert (request_id == given) == (given == "given-7")
    assert log_line(instances, request_id)
    wait_for(lambda: request_id in nginx.access_log.read_text(), description="the line of nginx")
    rejected = client.get("/metrics", headers={"X-Request-ID": given})
    assert (rejected.status_code, rejected.headers["Content-Type"]) == (404, PROBLEM)
    assert (rejected.json()["request_id"] == given) == (given == "given-7")


def test_idempotency_key_is_forwarded(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "through-nginx"}
    first, second = (client.post("/observers", json=OBSERVER, headers=headers) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_connections_to_the_instances_are_reused(client: httpx.Client, instances: list[Service]) -> None:
    """nginx opens far fewer connections to the instances than it forwards requests."""
    served = {f"{instance.port:04X}" for instance in instances}

    def connections() -> set[str]:
        """The ports of the clients of the instances, also those of connections that have just ended (TIME_WAIT)."""
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            ports = {address.rpartition(":")[2] for address in line.split()[1:3]}
            if ports & served:
                found |= ports - served
        return found

    before = connections()
    for _ in range(40):
        assert client.get("/observers?limit=1").status_code == 200
    assert len(connections() - before) < 20
