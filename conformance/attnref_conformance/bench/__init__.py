"""How fast a backend is, beside its peers: `attnref bench NAME`.

workloads   what is timed, as data, for a laptop and for a large GPU
method      in turns, rotated, warmed up; the clocks of the host and of CUDA
verify      whether a result is the specification's, before and after
contenders  who computes it: the backend; `cpu` and `gpu` know the peers
machine     which BLAS, how many threads, which versions
overhead    what a call costs the host, what importing costs
measure     a row, put together
processes   rows in fresh processes, and what several of them make of a row
results     a run, as data and as pytest-benchmark's JSON
compare     two runs, with their noise
growth      exponents against length
page        everything as HTML and as Markdown
slowed      a backend that takes a fifth longer than another
planted     an experiment: is a slowdown of 20 % called out, and nothing else?
"""
