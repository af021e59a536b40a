"""What the service returns for the pages and their files, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest

from tests.sockets import take_response
from tests.support import Service, get, raw_request, service

HTML = "text/html; charset=utf-8"
PAGES = ("/", "/ui/dashboard", "/ui/observers", "/ui/finds", "/ui/jobs", "/ui/diagnostics")
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self' data:; "
    "object-src 'none'"
)


class Page(HTMLParser):
    """The files that a page loads, its links, and what its policy would block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: list[str] = []
        self.links: list[str] = []
        self.blocked: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self._inside = tag
        self.files += [given[name] for name in ("src", "href") if name in given and tag in ("script", "link", "img")]
        self.links += [given["href"]] if tag == "a" else []
        self.blocked += [name for name in given if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.blocked.append(data)


def page_of(client: httpx.Client, path: str, **headers: str) -> Page:
    response = client.get(path, headers={"Accept": "text/html", **headers})
    assert (response.status_code, response.headers["Content-Type"]) == (200, HTML)
    return Page(response.text)


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_html_with_nothing_that_their_policy_blocks(live: Service, path: str) -> None:
    response = live.client.get(path, headers={"Accept": "text/html"})
    assert (response.status_code, response.headers["Content-Type"]) == (200, HTML)
    assert response.headers["Content-Security-Policy"] == POLICY
    page = Page(response.text)
    assert page.blocked == []
    assert page.files
    assert all(re.fullmatch(r"/ui/static/[a-z_]+\.(js|css|svg)", file) for file in page.files)


def test_every_link_of_the_home_page_works(live: Service) -> None:
    links = {link for link in page_of(live.client, "/").links if link.startswith("/")}
    assert {"/docs", "/health", "/metrics", "/ui/dashboard", "/ui/observers"} <= links
    assert {link: get(live, link).status_code for link in links} == dict.fromkeys(links, 200)


def test_clients_that_accept_json_get_the_links_as_json(live: Service) -> None:
    assert live.client.get("/").headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", PAGES)
def test_pages_work_under_the_path_prefix_of_a_proxy(guarded: Service, path: str) -> None:
    prefix = {"X-Forwarded-Prefix": "/field"}
    if path == "/ui/diagnostics":
        path = "/ui/accounts"
    page = page_of(guarded.client, path, **prefix)
    assert all(url.startswith("/field/") for url in (*page.files, *page.links) if not url.startswith("#"))
    assert 'data-root="/field"' in guarded.client.get(path, headers=prefix | {"Accept": "text/html"}).text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ui", 404),
        ("HEAD", "/ui/dashboard", 200),
        ("HEAD", "/ui/static/style.css", 200),
        ("GET", "/ui/nothing", 404),
        ("GET", "/ui/observers/1", 404),
        ("GET", "/ui/static/nothing.js", 404),
        ("GET", "/ui/static/", 404),
        # Without sign-in, nobody has an account.
        ("GET", "/ui/accounts", 404),
        ("POST", "/ui/dashboard", 405),
        ("DELETE", "/ui/static/style.css", 405),
        ("GET", "/ui/session", 405),
    ],
)
def test_status_of_other_requests(live: Service, method: str, path: str, status: int) -> None:
    response = live.client.request(method, path)
    assert response.status_code == status
    if status >= 400:
        assert response.headers["Content-Type"] == "application/problem+json"
    if method == "HEAD":
        assert response.content == b""


@pytest.mark.parametrize(
    "path", ["/ui/static/../blueprint.py", "/ui/static/..%2fblueprint.py", "/ui/static/%2e%2e/blueprint.py"]
)
def test_only_files_of_the_folder_are_served(live: Service, path: str) -> None:
    with raw_request(live.port, "1.1", path) as connection:
        data = connection.recv(65536)
    response, _ = take_response(data, at_end=False)
    assert response.status == 404


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("dom.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_browsers_ask_before_they_use_a_file_again(live: Service, name: str, media_type: str) -> None:
    """After an upgrade of the service, no page uses an old script."""
    path = f"/ui/static/{name}"
    first = live.client.get(path)
    assert (first.status_code, first.headers["Content-Type"]) == (200, media_type)
    assert "no-cache" in first.headers["Cache-Control"]
    again = live.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "Content-Type" not in again.headers
    assert live.client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_pages_need_no_token_and_contain_no_data(guarded: Service) -> None:
    """With AUTH=all, the scripts of a page ask for the data with the token of the person."""
    anonymous = httpx.Client(base_url=guarded.url)
    with anonymous:
        assert anonymous.get("/observers").status_code == 401
        for path in ("/", "/ui/dashboard", "/ui/observers", "/ui/jobs", "/ui/accounts", "/ui/static/dom.js"):
            assert anonymous.get(path, headers={"Accept": "text/html,*/*"}).status_code == 200


def test_pages_work_without_cassandra(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The pages then show that Cassandra is unreachable."""
    variables = {"CASSANDRA_PORT": "1", "WEB_CONCURRENCY": "1"}
    with service(environment | variables, tmp_path_factory.mktemp("ui") / "log", healthy=False) as running:
        for path in PAGES:
            assert page_of(running.client, path).files


def test_openapi_document_has_no_page(live: Service) -> None:
    """The pages are not part of the API: they may change in any release."""
    paths = live.client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path.startswith("/ui")]
