"""The snapshot of the OpenAPI document, and the check for changes of the API that break clients."""
