"""The public functions: normalise, choose, run, return.

Raw arguments exist only left of `attnref.normalize`. From there on there is one frozen
problem, one backend that was found fit for it, and one result.
"""
