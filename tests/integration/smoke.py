"""`smoke`: each operation of the OpenAPI document once. Each response is validated against the document."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from tests.integration.client import Answer, Target, create_is_safe, send_limited
from tests.integration.document import Operation, Resource
from tests.integration.values import NoValue, Values

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
SHUTDOWN, METRICS = "POST /shutdown", "GET /metrics"
# Without a token, SHUTDOWN would stop a service whose access control is broken, and private addresses may read metrics.
NOT_WITHOUT_TOKEN = {SHUTDOWN, METRICS}
# Enough for the slow diagnostics (10 s) to run beside everything else, and too few for an overload.
THREADS = 6


@dataclass
class Result:
    """The result of one request."""

    operation: str
    media_type: str
    status: int
    milliseconds: float
    result: str
    detail: str = ""


class Smoke:
    """One run."""

    def __init__(self, target: Target, include_shutdown: bool, advance: Callable[[], None]) -> None:
        """:param advance: called after each operation."""
        self._target = target
        self._include_shutdown = include_shutdown
        self._advance = advance
        self._results: dict[Operation, list[Result]] = {}
        self._values = Values(target.document.components, f"smoke{uuid.uuid4().hex[:8]}")
        self._number = random.randrange(2**28)

    def run(self) -> list[Result]:
        """Call all operations, and return their results in the order of the document."""
        document = self._target.document
        of_resources = {each for resource in document.resources for each in resource.all_operations}
        shutdown = [each for each in document.operations if str(each) == SHUTDOWN]
        of_accounts = [
            each
            for each in document.operations
            if each.method != "GET" and each.path.startswith(("/auth/", "/accounts"))
        ]
        apart = of_resources | {*shutdown, *of_accounts}
        others = [each for each in document.operations if each not in apart]
        for each in of_accounts:
            self._skip(each, "creates or needs an account, and HTTP can't delete accounts")
        with self._target.client() as http, ThreadPoolExecutor(THREADS) as pool:
            tasks = [pool.submit(self._call, http, each, {}) for each in others]
            tasks += [pool.submit(self._resource, http, each) for each in document.resources]
            try:
                for task in tasks:
                    task.result()
            finally:
                # After Ctrl-C, running tasks still delete their rows.
                pool.shutdown(cancel_futures=True)
            for each in shutdown:
                if self._include_shutdown:
                    self._call(http, each, {})
                else:
                    self._skip(each, "only with --include-shutdown")
        return [result for each in document.operations for result in self._results.get(each, ())]

    def without_token(self) -> dict[str, Any]:
        """Send requests without a token to the operations that require one. Each must return 401."""
        operations = [
            each for each in self._target.document.operations if each.needs_token and str(each) not in NOT_WITHOUT_TOKEN
        ]
        problems = []
        with self._target.client() as http:
            http.headers.pop("Authorization", None)
            for each in operations:
                # No row has these keys, and there is no body: a service that is not protected changes nothing.
                answer = send_limited(http, each.method, each.url(dict.fromkeys(each.path_parameters, "-")))
                if answer.status != 401 or not answer.header("WWW-Authenticate"):
                    problems.append(f"{each} without a token {answer.outcome}, not 401 with WWW-Authenticate")
        rejected = len(operations) - len(problems)
        return {"operations": len(operations), "rejected": rejected, "problems": problems}

    def _resource(self, http: httpx.Client, resource: Resource) -> None:
        """Create a row, call all other operations with its key, and delete it."""
        pending = sorted(
            resource.operations, key=lambda each: ("GET", "PUT", "PATCH", "POST", "DELETE").index(each.method)
        )
        if resource.delete is None:
            for each in (resource.create, *pending):
                if each.method == "GET" and not each.path_parameters:
                    self._call(http, each, {})
                else:
                    self._skip(each, "the row could not be deleted: the service has no DELETE for it")
            return
        keys: list[dict[str, str]] = []
        try:
            key = self._create(http, resource, keys)
            for operation in pending:
                if operation is resource.batch:
                    self._batch(http, resource, operation, keys)
                elif operation is not resource.delete:
                    self._call(http, operation, key or {})
            if key is not None and self._call(http, resource.delete, key):
                keys.remove(key)
            elif key is None:
                self._skip(resource.delete, "there is no row")
        finally:
            for left in keys:
                answer = send_limited(http, "DELETE", resource.delete.url(left))
                if answer.status not in (204, 404):
                    url = resource.delete.url(left)
                    self._add(resource.delete, "", answer, [f"{url} could not be deleted"])

    def _create(self, http: httpx.Client, resource: Resource, keys: list[dict[str, str]]) -> dict[str, str] | None:
        """Create a row, and add its key to `keys`. Return None if that failed."""
        try:
            body = resource.body(self._values, self._number)
        except NoValue as error:
            return self._skip(resource.create, str(error))
        if not create_is_safe(resource, body, self._values, http):
            return self._skip(resource.create, "a row with the generated key may exist already")
        if not resource.generates_key:
            keys.append(resource.key_in(body))
        headers = resource.create.idempotency_header(uuid.uuid4().hex)
        answer = send_limited(http, "POST", resource.create.path, json=body, headers=headers)
        if answer.status in (401, 403, 429):
            # The service has not written the row.
            keys.clear()
        problems = []
        key = None
        if answer.status != 201 and answer.status in (0, 504) and headers:
            # The row may exist: the same key tells its id, so that it can be deleted.
            self._remember(send_limited(http, "POST", resource.create.path, json=body, headers=headers), resource, keys)
        elif answer.status == 201:
            key = self._remember(answer, resource, keys)
            if key is None:
                problems.append(f"the Location {answer.header('Location')!r} does not end like {resource.item}")
            elif not (answer.header("Location") or "").startswith(httpx.URL(self._target.url).path.rstrip("/") + "/"):
                problems.append(f"the Location {answer.header('Location')!r} lacks the prefix of {self._target.url}")
        self._add(resource.create, "", answer, problems)
        return key

    def _remember(self, answer: Answer, resource: Resource, keys: list[dict[str, str]]) -> dict[str, str] | None:
        try:
            key = resource.key_of(answer.header("Location") or "")
        except ValueError:
            return None
        keys[:] = [key]
        return key

    def _batch(self, http: httpx.Client, resource: Resource, operation: Operation, keys: list[dict[str, str]]) -> None:
        rows = [resource.body(self._values, self._number + each) for each in (1, 2)]
        headers = operation.idempotency_header(uuid.uuid4().hex)
        answer = send_limited(http, "POST", operation.path, json=rows, headers=headers)
        self._add(operation, "", answer, [])
        if answer.status in (0, 504) and headers:
            answer = send_limited(http, "POST", operation.path, json=rows, headers=headers)
        keys += created_keys(resource, answer)

    def _call(self, http: httpx.Client, operation: Operation, key: dict[str, str]) -> bool:
        """Call an operation once for each media type of its response. Return whether all succeeded."""
        try:
            arguments: dict[str, Any] = {
                "params": {
                    each["name"]: self._values.value(each["schema"], each["name"], self._number)
                    for each in operation.parameters
                    if each["in"] == "query" and each.get("required")
                }
            }
            if operation.body_schema is not None:
                schema = self._values.resolve(operation.body_schema)
                if "properties" not in schema:
                    return bool(self._skip(operation, "its body is no JSON object"))
                arguments["json"] = self._values.body(schema, self._number + 3) | self._key_fields(schema, key)
            elif "requestBody" in operation.description:
                return bool(self._skip(operation, "its body is not JSON"))
            url = operation.url(key)
        except KeyError as missing:
            return bool(self._skip(operation, f"there is no row, so no value for {missing.args[0]}"))
        except NoValue as error:
            return bool(self._skip(operation, str(error)))
        succeeded = True
        for media_type in operation.media_types or [""]:
            accept = {"Accept": media_type} if media_type else {}
            answer = send_limited(http, operation.method, url, headers=accept, **arguments)
            problems = []
            received = (answer.header("Content-Type") or "").partition(";")[0]
            if answer.status == 200 and media_type and received != media_type.partition(";")[0]:
                problems.append(f"the Content-Type is {received}, not {media_type}")
            succeeded &= self._add(operation, media_type, answer, problems)
        self._advance()
        return succeeded

    def _key_fields(self, schema: dict[str, Any], key: dict[str, str]) -> dict[str, Any]:
        """Fields of a body that repeat a path parameter."""
        return {name: value for name, value in key.items() if name in schema["properties"]}

    def _add(self, operation: Operation, media_type: str, answer: Answer, problems: list[str]) -> bool:
        """Add the result of a request. Return whether it is ok."""
        result = FAILED
        if answer.response is None:
            problems = [answer.error]
        elif str(operation) == METRICS and answer.status == 404:
            # As in deploy/nginx.
            result, problems = SKIPPED, ["a proxy hides it"]
        else:
            problems = problems + self._target.document.problems(operation, answer.response)
            if problems:
                pass
            elif answer.status == 429:
                result, problems = SKIPPED, [answer.outcome]
            elif answer.status == 403 and operation.needs_account:
                result, problems = SKIPPED, ["needs the token of an account"]
            elif answer.status in (401, 403) and operation.needs_token and not self._target.token:
                result, problems = SKIPPED, ["needs a token"]
            elif answer.status == operation.success[0]:
                result = OK
            else:
                problems = [f"expected {operation.success[0]}{_detail(answer)}"]
        row = Result(
            str(operation), media_type, answer.status, round(answer.milliseconds, 1), result, "; ".join(problems)
        )
        self._results.setdefault(operation, []).append(row)
        return result == OK

    def _skip(self, operation: Operation, reason: str) -> None:
        self._results.setdefault(operation, []).append(Result(str(operation), "", 0, 0, SKIPPED, reason))
        self._advance()


def _detail(answer: Answer) -> str:
    document = answer.json()
    detail = document.get("detail") if isinstance(document, dict) else None
    return f": {str(detail)[:150]}" if detail else ""


def created_keys(resource: Resource, answer: Answer) -> list[dict[str, str]]:
    """The keys of the rows that a batch created."""
    document = answer.json()
    if answer.status != 201 or not isinstance(document, dict):
        return []
    rows = [row for value in document.values() if isinstance(value, list) for row in value if isinstance(row, dict)]
    names = (resource.get or resource.delete).path_parameters  # type: ignore[union-attr]
    return [{name: str(row[name]) for name in names} for row in rows if set(names) <= row.keys()]


def run(target: Target, include_shutdown: bool, advance: Callable[[], None]) -> dict[str, Any]:
    """Run the command. The result is JSON."""
    smoke = Smoke(target, include_shutdown, advance)
    # First, because the last request of run() may stop the service.
    without_token = smoke.without_token()
    results = smoke.run()
    return {
        "ok": all(each.result != FAILED for each in results) and not without_token["problems"],
        "operations": [asdict(each) for each in results],
        "without_token": without_token,
    }
