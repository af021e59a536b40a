"""The snapshot of the OpenAPI document, and the check that no change of the API breaks clients unannounced."""
