"""Two resources of the tests, the fault-injection suite and the benchmarks, in the shape of a generated resource.

`observers` has an id that the service makes, `finds` has a partition for each genus. Tests of what all resources share
use them, so that a project can remove the sample resources. Tests of the sample resources use those.
"""
