"""First benchmarks: `attnref bench NAME`, or `pytest --pyargs attnref_conformance.bench`."""
