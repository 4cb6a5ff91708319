"""Attention on a GPU, timed beside its peers: `python -m attnref_conformance.bench.device`.

`workloads` says what is run, `peers` who else runs it, `timing` how it is timed, `measure`
puts a row together, `costs` looks at memory and the host, and `page` writes everything as
Markdown. Needs torch and a GPU.
"""
