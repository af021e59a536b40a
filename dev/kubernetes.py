"""Validate Kubernetes manifests against the schemas of Kubernetes:

    python -m dev.kubernetes deploy/k8s/*.yaml

`kubernetes-validate` alone only prints a warning for a kind that it does not know, such as a misspelled one. Here an
unknown kind is an error, unless `deploy/k8s/schemas/` has its schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = Path(__file__).resolve().parent.parent / "deploy" / "k8s" / "schemas"

# The oldest version that has each field in the manifests, and the newest one that kubernetes-validate knows.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def problems(file: Path) -> Iterator[str]:
    """Yield a sentence for each error in a file, which may contain several documents."""
    documents = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
    if not documents:
        yield f"{file}: no document"
    for document in documents:
        try:
            kind = document["kind"]
            if (schema := SCHEMAS / f"{kind}.json").exists():
                jsonschema.validate(document, json.loads(schema.read_text()))
                continue
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
        except (KeyError, TypeError):
            yield f"{file}: a document is not a Kubernetes object with apiVersion and kind"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{file}: no schema for the kind {kind} of {document['apiVersion']}"
        except jsonschema.ValidationError as error:
            yield f"{file}: {kind}: {error.json_path}: {error.message}"


def main() -> None:
    """Check the files that the arguments name. The exit status is 1 if there are errors."""
    if found := [problem for name in sys.argv[1:] for problem in problems(Path(name))]:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
