"""`make bench`: the cost of a request and of a row in Fieldbook, compared with three baselines.

The baselines are the bare driver, FastAPI and plain Flask. All systems run against one Cassandra node, in turn, round
after round; docs/performance.md describes the method. The service never imports this package.
"""
