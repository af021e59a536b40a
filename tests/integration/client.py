"""The deployed service: finds out whether a URL is one, and sends it requests that never raise."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.document import Document, Operation, Resource
from tests.integration.values import Values

# Seconds. The first two requests must be complete within CONNECT_SECONDS.
CONNECT_SECONDS = 10.0
# Longer than the longest deadline that the service accepts (60 s).
REQUEST_SECONDS = 70.0
# Seconds for which a request is repeated.
RETRY_SECONDS = 60.0
MAX_DOCUMENT_BYTES = 20 * 2**20
MAX_PAUSE = 10.0
# A rate limit can have a window of a minute, after which it accepts requests again.
MAX_RATE_LIMIT_PAUSE = 61.0
# SSL_CERT_FILE names a private certificate authority. The proxies of the environment are not used.
TLS = httpx.create_ssl_context()


class TargetError(Exception):
    """The command can't run against this URL. The message is one sentence."""


@dataclass
class Target:
    """A deployed service."""

    url: str
    token: str | None
    document: Document

    def client(self) -> httpx.Client:
        """A client with connections of its own."""
        return httpx.Client(
            base_url=self.url, headers=_headers(self.token), timeout=REQUEST_SECONDS, verify=TLS, trust_env=False
        )

    def resource(self, name: str) -> Resource:
        """The resource with this name. :raises TargetError: the service has none."""
        found = self.document.resource(name)
        if found is None:
            names = ", ".join(sorted(each.name for each in self.document.resources)) or "none"
            raise TargetError(f"The service at {self.url} has no resource {name!r}. Its resources: {names}.")
        return found

    def require_ready(self) -> None:
        """:raises TargetError: the readiness probe fails, or the service rejects writes or the token."""
        with self.client() as http:
            answer = send(http, "GET", "/health")
        if answer.status != 200:
            raise TargetError(f"The service at {self.url} is not ready: GET /health {answer.outcome}.")
        health = answer.json()
        if isinstance(health, dict) and health.get("read_only"):
            raise TargetError(f"The service at {self.url} is in read-only mode, so it rejects writes.")
        self._require_token()

    def _require_token(self) -> None:
        """:raises TargetError: operations of resources require a token, and the service does not accept ours."""
        operations = [each for resource in self.document.resources for each in resource.all_operations]
        needing = [each for each in operations if each.needs_token]
        if needing and not self.token:
            raise TargetError(
                f"The service at {self.url} requires a token: set FIELDBOOK_TOKEN to its OPERATOR_TOKEN, or to an "
                "access token with the scope operator."
            )
        read = next((each for each in needing if each.method == "GET"), None)
        if read is not None:
            with self.client() as http:
                # No row has this key, and the service checks the token first.
                answer = send_limited(http, "GET", read.url(dict.fromkeys(read.path_parameters, "-")))
            if answer.status in (401, 403):
                raise TargetError(f"The service at {self.url} rejects the token: {read} {answer.outcome}.")


def connect(url: str, token: str | None) -> Target:
    """Return the service at this URL. :raises TargetError: there is none."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise TargetError(f"--app-url {url!r} is not a URL: {error}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise TargetError(f"--app-url {url!r} is not a URL such as http://127.0.0.1:8000 or https://example.org/field.")
    if parsed.userinfo:
        # The output has the URL, and the Authorization header has the token.
        raise TargetError("--app-url must not have a user name or a password.")
    url = url.rstrip("/")
    try:
        client = httpx.Client(
            base_url=url, headers=_headers(token), timeout=CONNECT_SECONDS, verify=TLS, trust_env=False
        )
    except (ValueError, UnicodeError):
        raise TargetError("--token has characters that are not allowed in a header.") from None
    with client:
        home = _read_json(client, url, "/")
        content = _read_json(client, url, "/openapi.json")
    if not {"message", "version", "resources", "health"} <= home.keys():
        raise TargetError(f"{url} is another service: GET / does not return the links of a Fieldbook service.")
    try:
        return Target(url, token, Document(content))
    except Exception as error:
        raise TargetError(
            f"{url} is another service: its /openapi.json can't be used ({type(error).__name__})."
        ) from None


def _headers(token: str | None) -> dict[str, str]:
    headers = {"User-Agent": "fieldbook-integration", "Accept": "application/json"}
    return headers | ({"Authorization": f"Bearer {token}"} if token else {})


def _read_json(client: httpx.Client, url: str, path: str) -> dict[str, Any]:
    """The JSON object at a path. :raises TargetError: there is none."""
    deadline = time.monotonic() + CONNECT_SECONDS
    body = b""
    try:
        with client.stream("GET", path) as response:
            if response.is_redirect:
                destination = response.headers.get("Location", "an unknown URL")
                raise TargetError(f"{url} redirects to {destination}. Give the URL of the service itself.")
            for part in response.iter_bytes():
                body += part
                if time.monotonic() > deadline or len(body) > MAX_DOCUMENT_BYTES:
                    raise TargetError(f"{url} is another service: GET {path} is too slow or too long.")
            if response.status_code != 200:
                raise TargetError(f"{url} is another service: GET {path} returned {response.status_code}.")
    except httpx.TimeoutException:
        raise TargetError(f"{url} did not answer within {CONNECT_SECONDS:.0f} s.") from None
    except (httpx.HTTPError, UnicodeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise TargetError(f"Nothing usable answers at {url}: {' '.join(reason.split()).rstrip('.')}.") from None
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise TargetError(f"{url} is another service: GET {path} did not return a JSON object.")
    return content


_RATE_LIMITED = " (rate limited: send fewer requests, or set RATE_LIMIT of the service higher)"


@dataclass
class Answer:
    """A response, or the reason why there is none."""

    response: httpx.Response | None
    error: str
    milliseconds: float

    @property
    def status(self) -> int:
        """The status; 0 without a response."""
        return self.response.status_code if self.response is not None else 0

    @property
    def outcome(self) -> str:
        """What happened, for a message."""
        if self.response is None:
            return f"failed: {self.error}"
        return f"returned {self.status}{_RATE_LIMITED if self.status == 429 else ''}"

    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return self.response.json() if self.response is not None else None
        except ValueError:
            return None

    def header(self, name: str) -> str | None:
        return self.response.headers.get(name) if self.response is not None else None


def send(http: httpx.Client, method: str, url: str, **arguments: Any) -> Answer:
    """Send a request, and read the whole response. Errors of the connection become an `Answer` too."""
    started = time.monotonic()
    response, error = None, ""
    try:
        response = http.request(method, url, **arguments)
        response.elapsed  # noqa: B018  Schemathesis reads it. It is there when the body is complete.
    except httpx.ConnectError as refused:
        error = f"no connection: {refused}"
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as failed:
        error = str(failed) or type(failed).__name__
    return Answer(response, " ".join(error.split()), (time.monotonic() - started) * 1000)


class Counts:
    """Counters that threads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def failures(self) -> dict[str, int]:
        """The counters of failed requests, by their text."""
        with self._lock:
            return {name: number for name, number in self._counts.items() if ": " in name}


def send_until_answered(
    http: httpx.Client, operation: Operation, url: str, counts: Counts, stop: threading.Event, **arguments: Any
) -> Answer:
    """Send a request that is safe to repeat, until its outcome is known.

    429 and 503 (overload), 409 (the first request with the same key is in progress) and 504 are repeated, and so is a
    request without a response. `counts` counts these responses by status, and each failure by operation and reason.

    :param stop: ends the repetition.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        answer = send(http, operation.method, url, **arguments)
        counts.add("requests")
        if answer.response is None:
            counts.add(f"{operation}: {answer.error}")
        elif answer.status in (409, 429, 503, 504):
            counts.add(str(answer.status))
        else:
            return answer
        if stop.is_set() or time.monotonic() > deadline:
            return answer
        stop.wait(pause(answer))


def pause(answer: Answer) -> float:
    """Seconds to wait before the next attempt: `Retry-After` and a random part, so that clients spread out."""
    try:
        seconds = float(answer.header("Retry-After") or 0.2)
    except ValueError:
        seconds = 1.0
    if answer.status == 429:
        # No request succeeds earlier.
        return min(seconds, MAX_RATE_LIMIT_PAUSE) * random.uniform(1.0, 1.1)
    return min(seconds, MAX_PAUSE) * random.uniform(0.5, 1.5)


def send_limited(http: httpx.Client, method: str, url: str, **arguments: Any) -> Answer:
    """Send a request, and after a 429 once more when the rate limit accepts requests again."""
    answer = send(http, method, url, **arguments)
    if answer.status == 429:
        time.sleep(pause(answer))
        answer = send(http, method, url, **arguments)
    return answer


def read_metrics(http: httpx.Client) -> dict[str, float]:
    """The gauges and counters without labels of /metrics, by name; empty if they can't be read."""
    answer = send(http, "GET", "/metrics", headers={"Accept": "text/plain"})
    if answer.response is None or answer.status != 200:
        return {}
    try:
        families = list(text_string_to_metric_families(answer.response.text))
    except ValueError:
        return {}
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def create_is_safe(resource: Resource, body: dict[str, Any], values: Values, http: httpx.Client) -> bool:
    """Return whether a POST with this body can't replace a row that this run did not create."""
    if resource.generates_key:
        return True
    key = resource.key_in(body)
    if any(values.tag in text for text in key.values()):
        return True
    if resource.get is None:
        return False
    return send(http, "GET", resource.get.url(key)).status == 404
