"""The headers that trusted reverse proxies add to a request (TRUSTED_PROXIES).

A proxy that does not set or clear one of them forwards the client's value. Each value that reaches a response or the
log is therefore checked, and an invalid header is ignored. trusted_hosts.py checks the host, of `Host` or
`X-Forwarded-Host`. `X-Forwarded-Port` and `Forwarded` are never used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.middleware.proxy_fix import ProxyFix

# The variables of the WSGI environment that ProxyFix sets from a header, each with the form of a valid value.
_VALID = {
    # X-Forwarded-Prefix. "//evil.example" would be a link to another host, and browsers normalize "." and "..".
    "SCRIPT_NAME": re.compile(r"(?=.{1,200}\Z)(/(?!\.\.?(/|\Z))[A-Za-z0-9._~-]+)+/?"),
    "wsgi.url_scheme": re.compile("https?"),
    # X-Forwarded-For: the characters of an IP address, with or without a port.
    "REMOTE_ADDR": re.compile(r"[0-9A-Fa-f.:\[\]]{1,60}"),
}


def trust_proxies(app: WSGIApplication, count: int) -> WSGIApplication:
    """Apply `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`, as far as they are valid.

    :param app: the application to wrap.
    :param count: number of trusted proxies.
    """

    def restore_invalid(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        original = environ["werkzeug.proxy_fix.orig"]
        for variable, valid in _VALID.items():
            value = environ.get(variable)
            if value != original[variable] and not valid.fullmatch(str(value)):
                environ[variable] = original[variable]
        return app(environ, start_response)

    return ProxyFix(restore_invalid, count, count, count, x_prefix=count)
