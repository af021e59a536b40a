"""Fault-injection suite (`make chaos`): real nodes, real faults, a check of every row.

See docs/faults.md.
"""
