"""A request as gunicorn parses it, with the rules of RFC 9110 and 9112 that gunicorn does not check.

| Private name of gunicorn | Used for |
|---|---|
| `http.message.Request`: `.uri`, `.path`, `.method`, `.version`, `.headers`, `.must_close` | the parsed request |
| `Request.should_close` | overridden: whether the connection ends after the response |
| `Request._peer_trusted_for_forwarded` | overridden: gunicorn itself applies no headers of proxies |
| `http.errors.ParseException` and its subclasses | why a request is not valid |
| `util.http_date` | the `Date` header |
"""

from __future__ import annotations

import re
from http import HTTPStatus
from uuid import uuid4

import orjson
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.util import http_date

# RFC 3986: a name, an IPv4 or an IPv6 address, and a port. The name may be empty.
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?", re.ASCII)
_ABSOLUTE_FORM = re.compile(r"https?://([^:/?#][^/?#]*)", re.IGNORECASE | re.ASCII)
# Characters of `detail`. gunicorn's messages repeat parts of the request.
_MAX_DETAIL = 500


class RequestRefused(Exception):
    """The request breaks a rule of HTTP, or needs a feature that the service does not have.

    :ivar status: of the response.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class HttpRequest(Request):
    """A request that the service can serve.

    Its target has a path, and its `Host` header is the authority of the target if the target has one.
    """

    headers: list[tuple[str, str]]

    def __init__(self, *arguments: object) -> None:
        """Parse a request.

        :raises RequestRefused: the request is valid for gunicorn, but the service can't serve it.
        :raises ParseException: the request is not valid.
        """
        super().__init__(*arguments)
        if self.method == "CONNECT":
            raise RequestRefused(501, "The service does not support CONNECT, because it is not a proxy.")
        host: str | None = None
        connection = ""
        for name, value in self.headers:
            if name == "HOST":
                host = value
            elif name == "CONNECTION":
                connection += f"{value},"
            elif name == "TRANSFER-ENCODING" and value.lower() != "chunked":
                # gunicorn would not decompress a body with another coding, for example "gzip, chunked".
                raise RequestRefused(501, "The only Transfer-Encoding that the service decodes is chunked.")
        if host is None:
            if self.version >= (1, 1):
                raise RequestRefused(400, "A request of HTTP/1.1 must have a Host header.")
        elif not _AUTHORITY.fullmatch(host):
            raise RequestRefused(400, "The Host header must be a host name or IP address, with or without a port.")
        if not self.uri.startswith("/"):
            self._take_other_target()
        options = {option.strip(" \t") for option in connection.lower().split(",")} if connection else ()
        self._is_last = "close" in options or (self.version <= (1, 0) and "keep-alive" not in options)

    def should_close(self) -> bool:
        """Whether no request may follow on the connection."""
        return self.must_close or self._is_last

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        """Trust no client with the headers of proxies: the setting TRUSTED_PROXIES decides, in `api.py`.

        gunicorn would trust every client of a Unix socket, whatever `forwarded_allow_ips` says: with a `SCRIPT_NAME`
        header, the client could change the path.
        """
        return {}, []

    def _take_other_target(self) -> None:
        """Set path and Host header for a target that is not a path (RFC 9112, 3.2)."""
        if self.uri == "*":
            # OPTIONS for the whole server. A proxy may send "*" instead of "http://host" (RFC 9112, 3.2.4).
            self.path = "/"
            return
        target = _ABSOLUTE_FORM.match(self.uri)
        if target is None or not _AUTHORITY.fullmatch(target[1]):
            raise RequestRefused(400, "The target of a request must be a path, or a URL that begins with http://host.")
        self.path = self.path or "/"
        self.headers = [(name, value) for name, value in self.headers if name != "HOST"] + [("HOST", target[1])]


def _status(error: BaseException) -> int:
    match error:
        case RequestRefused(status=status):
            return status
        case InvalidResponseHeader() | InvalidResponseHeaderName() | ConfigurationProblem():
            # Subclasses of ParseException that the client did not cause.
            return 500
        case LimitRequestLine():
            return 414
        case ExpectationFailed():
            return 417
        case LimitRequestHeaders():
            return 431
        case UnsupportedTransferCoding():
            return 501
        case ParseException():
            return 400
    return 500


def error_response(error: BaseException) -> tuple[int, str, bytes]:
    """The response to a request that is not valid or that caused an exception, as a problem document (RFC 9457).

    The connection ends after it, because it is unknown where the next request starts.

    :returns: status, request id, and the bytes of the response.
    """
    status, request_id = _status(error), str(uuid4())
    detail = "An unexpected error occurred. The service's log has it under this request_id."
    if status != 500:
        detail = str(error)
        if len(detail) > _MAX_DETAIL:
            detail = f"{detail[:_MAX_DETAIL]}…"
    title = HTTPStatus(status).phrase
    body = orjson.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            # An empty reference: the path of the request may be unknown.
            "instance": "",
            "request_id": request_id,
        }
    )
    head = (
        f"HTTP/1.1 {status} {title}\r\nDate: {http_date()}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\n"
        "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n\r\n"
    )
    return status, request_id, head.encode() + body
