"""Hooks of Schemathesis, which tests/functional/test_openapi.py runs.

The document can't express every rule, and some of its values need a larger cluster or the service's signature. Each
exception has its reason here. Values are replaced where possible: most generated requests have all headers, and with a
deadline of 5e-324 seconds their other parts would never be read.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

from web.headers import MAX_HEADER_LENGTH
from web.idempotency import KEY_PATTERN

# Seconds in which the service answers every request of this test.
ENOUGH = 5.0
ETAG = re.compile(r'"[0-9a-f]{32}"')
PAGE_STATE = re.compile(r"(\d+\.\d+\.)?[\w-]+\.[\w-]+\.[\w-]{64}", re.ASCII)


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Replace values that the document allows and this service can't accept. Invalid values stay."""
    headers, query = case.headers, case.query
    # In a JSON Schema, 1.0 is an integer. The service takes numbers that are written as integers (422).
    case.body = _with_integers(case.body)
    # No response can meet such a deadline. It would be 504.
    if _is_between(headers.get("X-Request-Timeout"), 0, ENOUGH):
        headers.pop("X-Request-Timeout")
    # The keyspace has one replica, so Cassandra refuses levels that need more (422).
    if headers.get("X-Consistency-Level") in ("TWO", "THREE"):
        headers.pop("X-Consistency-Level")
    # These routes are POST, but they also read, and ANY is for writes (422).
    if headers.get("X-Consistency-Level") == "ANY" and case.path.startswith("/context_manager_safety/"):
        headers.pop("X-Consistency-Level")
    # A key belongs to one request: with another body it is refused (422).
    if re.fullmatch(KEY_PATTERN, str(headers.get("Idempotency-Key", ""))):
        headers["Idempotency-Key"] = f"{headers['Idempotency-Key'][:200]}-{uuid.uuid4()}"
    # An ETag is opaque: only the service can write one that matches (412).
    if len(headers.get("If-Match", "")) <= MAX_HEADER_LENGTH and not ETAG.fullmatch(headers.get("If-Match", "")):
        headers.pop("If-Match", None)
    # Every row has an ETag, so that this condition fails on writes (412).
    if headers.get("If-None-Match") == "*" and case.method != "GET":
        headers.pop("If-None-Match")
    # A page_state is opaque: only the service can sign one (400), and it needs the limit of its query (422).
    state = query.get("page_state")
    if isinstance(state, str) and not (PAGE_STATE.fullmatch(state) and ("limit" in query or "fetch_size" in query)):
        query.pop("page_state")


def _is_between(text: Any, least: float, most: float) -> bool:
    try:
        return least < float(text) < most
    except (TypeError, ValueError):
        return False


def _with_integers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_integers(each) for each in value]
        case dict():
            return {name: _with_integers(each) for name, each in value.items()}
    return value


# Rules of valid values that a JSON Schema can't express, by the message of the service.
RULES = re.compile(
    # A stream has no upper limit of rows, but the number in the query string has at most 20 digits.
    r"Input should be a whole number"
    # Domains that are reserved, such as "test".
    r"|The part after the @-sign is a special-use or reserved name.*"
)


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Whether a failure counts."""
    if case.path.endswith("/import") and failure.title in ("Schema-valid request rejected", "Allow header mismatch"):
        # The document can't describe the text of a file. GET on this path is documented as the list of a partition.
        return False
    match failure:
        case AcceptedNegativeData():
            # A server ignores headers that it does not know.
            return "in header - object with unexpected properties" not in str(failure)
        case RejectedPositiveData() if response.status_code == 422:
            return not all(RULES.fullmatch(each["msg"]) for each in response.json()["errors"])
        case RejectedPositiveData() if response.status_code == 400:
            document = response.json()
            if "error" in document:
                # No generated password or refresh token is valid, and the schema can't say which fields a grant needs.
                # A form may have each field only once.
                return case.path != "/auth/token" and "more than once" not in document["error_description"]
            # Schemathesis uses a page_state with another query or limit than the one that it was issued for.
            return not document["detail"].startswith("Invalid page_state: it was")
    return True
