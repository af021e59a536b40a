"""Request and response models: one module per resource, shared field types in `fields`.

Nothing here imports Flask, the driver or another package of the service.
"""
