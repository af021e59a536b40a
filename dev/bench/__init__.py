"""`make bench`: what a request and a row cost in Fieldbook, beside the bare driver, FastAPI and plain Flask.

One node, one run, all contenders in turn, round after round: docs/performance.md. The service never imports this.
"""
