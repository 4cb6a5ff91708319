"""How fast a backend is, beside its peers: `attnref bench NAME`.

workloads   what is timed, as data, for a laptop and for a large GPU
method      in turns, rotated, warmed up; the clocks of the host and of CUDA
verify      whether a result is the specification's, before and after
contenders  who computes it: the backend; `cpu` and `gpu` know the peers
machine     which BLAS, how many threads, which versions
overhead    what a call costs the host, what importing costs
measure     a row, put together
results     a run, as data and as pytest-benchmark's JSON
compare     two runs, with their noise
growth      exponents against length
page        everything as HTML and as Markdown
planted     an experiment: is a slowdown of 20 % called out, and nothing else?
"""
