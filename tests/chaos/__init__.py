"""The fault suite (`make chaos`): real nodes, real faults, and a check of every row: docs/faults.md."""
