"""Two resources of the tests, the fault-injection suite and the benchmarks, in the shape of a generated resource.

`observers` has an id that the service generates, `finds` has a partition for each genus. Tests of features that all
resources share use the testbed, so that a project can remove the sample resources.
"""
