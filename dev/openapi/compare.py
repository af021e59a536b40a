"""Find the changes between two OpenAPI 3.1 documents that break clients."""

from __future__ import annotations

from typing import Any

from dev.openapi.schemas import SchemaComparison, resolve, shown

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
# How many operations a sentence about a shared schema names.
_NAMED = 3


def breaking_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Describe each change that breaks clients in one sentence: operation, location, old value and new value.

    docs/api.md lists these changes. A change of a schema that several operations use is one sentence.
    """
    return _Comparison(before, after).sentences()


class _Comparison:
    def __init__(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        self._before = before
        self._after = after
        # Each change with the places where it is found.
        self._found: dict[str, dict[str, None]] = {}
        self._input = SchemaComparison(before, after, is_input=True)
        self._output = SchemaComparison(before, after, is_input=False)

    def sentences(self) -> list[str]:
        for path, item in self._before["paths"].items():
            for method in [each for each in METHODS if each in item]:
                name = f"{method.upper()} {path}"
                new_item = self._after["paths"].get(path, {})
                if method not in new_item:
                    self._report(name, "the operation was removed")
                    continue
                old, new = item[method], new_item[method]
                self._parameters(name, _parameters(self._before, item, old), _parameters(self._after, new_item, new))
                self._request_body(name, old.get("requestBody"), new.get("requestBody"))
                self._responses(name, old["responses"], new["responses"])
                if new.get("security") and not old.get("security"):
                    self._report(name, f"security was not set, is now {shown(new['security'])}")
        return [_sentence(list(places), change) for change, places in self._found.items()]

    def _report(self, place: str, *changes: str) -> None:
        for change in changes:
            self._found.setdefault(change, {})[place] = None

    def _parameters(self, name: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        for title in old.keys() - new.keys():
            self._report(name, f"{title} was removed")
        for title, parameter in new.items():
            required = parameter.get("required", False)
            if title not in old:
                if required:
                    self._report(name, f"{title} is new and required")
                continue
            place = f"{name}, {title}"
            if required and not old[title].get("required", False):
                self._report(place, "the parameter was optional, is now required")
            self._report(place, *self._input.changes(old[title].get("schema", True), parameter.get("schema", True)))

    def _request_body(self, name: str, before: Any, after: Any) -> None:
        if before is None or after is None:
            if before is not None:
                self._report(name, "the request body was removed")
            elif after is not None and resolve(self._after, after)[0].get("required", False):
                self._report(name, "the request body is new and required")
            return
        old, new = resolve(self._before, before)[0], resolve(self._after, after)[0]
        if new.get("required", False) and not old.get("required", False):
            self._report(name, "the request body was optional, is now required")
        self._content(f"{name}, request body", old, new, self._input)

    def _responses(self, name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        for status in before:
            if status not in after:
                self._report(name, f"response {status} was removed")
                continue
            place = f"{name}, response {status}"
            old, new = resolve(self._before, before[status])[0], resolve(self._after, after[status])[0]
            self._content(place, old, new, self._output)
            new_headers = {title.lower(): header for title, header in new.get("headers", {}).items()}
            for title, header in old.get("headers", {}).items():
                if title.lower() not in new_headers:
                    self._report(place, f"header {title} was removed")
                    continue
                schemas = (
                    resolve(document, each)[0].get("schema", True)
                    for document, each in ((self._before, header), (self._after, new_headers[title.lower()]))
                )
                self._report(f"{place}, header {title}", *self._output.changes(*schemas))

    def _content(self, place: str, old: dict[str, Any], new: dict[str, Any], comparison: SchemaComparison) -> None:
        """Compare the media types of a body."""
        after = new.get("content", {})
        for media_type, content in old.get("content", {}).items():
            if media_type in after:
                schemas = content.get("schema", True), after[media_type].get("schema", True)
                self._report(f"{place} ({media_type})", *comparison.changes(*schemas))
            else:
                self._report(place, f"{media_type} was removed")


def _parameters(document: dict[str, Any], item: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an operation, each with its title, for example `query parameter limit`."""
    given = [resolve(document, each)[0] for each in (*item.get("parameters", ()), *operation.get("parameters", ()))]
    # Names of headers are not case-sensitive.
    names = [each["name"].lower() if each["in"] == "header" else each["name"] for each in given]
    return {f"{each['in']} parameter {name}": each for name, each in zip(names, given, strict=True)}


def _sentence(places: list[str], change: str) -> str:
    named = "; ".join(places[:_NAMED])
    more = f"; and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{named}{more}: {change}."
