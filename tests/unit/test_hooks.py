"""The order of the steps of a request, as web/hooks.py documents it."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from auth.callers import Scope
from settings import Settings
from tests.support import access_token, bearer
from tests.testbed import app
from tests.unit.test_app import UnreachableSession

REQUESTS_PER_DAY = 5
SETTINGS = Settings.model_validate(
    {
        "secret_key": "the secret of the unit tests",
        "auth": "all",
        "rate_limit": f"{REQUESTS_PER_DAY} per day",
        "web_concurrency": 1,
        "read_only": True,
        "trusted_hosts": "field.example.org",
        "cors_origins": "https://app.example.org",
    }
)
PREFLIGHT = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}


class Request:
    """A request that every step would reject. A test corrects one mistake after the other."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.path = "/nothing"
        self.headers = {"Host": "another.example.org", "X-Request-Timeout": "never", "Accept": "image/png"}
        self.query = "?limit=1&limit=2"

    def send(self, method: str) -> TestResponse:
        return self.client.open(self.path + self.query, method=method, headers=self.headers)

    def sign_in(self, *scopes: Scope) -> None:
        self.headers |= bearer(access_token(SETTINGS, scopes))


@pytest.fixture
def request_with_mistakes() -> Request:
    return Request(app.create_app(SETTINGS, UnreachableSession()).test_client())


def test_each_step_runs_before_the_next_one(request_with_mistakes: Request) -> None:
    sent = request_with_mistakes
    assert "host name" in sent.send("POST").get_json()["detail"]
    sent.headers["Host"] = "field.example.org"
    assert sent.send("POST").status_code == 404

    sent.path = "/find"
    preflight = sent.client.options(sent.path, headers=sent.headers | PREFLIGHT)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Methods"]) == (204, "OPTIONS, POST")
    # Neither a preflight request nor a wrong path counts for the rate limit. Requests without a token do.
    statuses = [sent.send("POST").status_code for _ in range(REQUESTS_PER_DAY + 1)]
    assert statuses == [401] * REQUESTS_PER_DAY + [429]
    sent.sign_in("read")
    assert sent.send("POST").status_code == 403
    sent.sign_in("read", "write")
    assert "read-only" in sent.send("POST").get_json()["detail"]

    sent.path = "/observers"
    assert sent.send("GET").get_json()["errors"][0]["loc"] == ["header", "X-Request-Timeout"]
    del sent.headers["X-Request-Timeout"]
    assert sent.send("GET").status_code == 406
    del sent.headers["Accept"]
    assert sent.send("GET").get_json()["errors"][0]["loc"] == ["query", "limit"]
    sent.query = ""
    unavailable = sent.send("GET")
    assert unavailable.get_json()["detail"] == "The session of this test is not connected."
    # The headers of step 13 are also on errors.
    for name in ("X-Request-ID", "Server-Timing", "RateLimit", "Content-Security-Policy", "Vary"):
        assert name in unavailable.headers
