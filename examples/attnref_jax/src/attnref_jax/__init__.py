"""attnref on JAX: a complete backend in a project of its own.

Read it in this order:

1. `backend` says what can be run and what cannot.
2. `operations` sends each kind of problem to its module.
3. `rows` is the idea: one function computes forward, and JAX differentiates the same one
   backward.
4. `attention`, `packed` and `windows` lay their inputs out in rows.
5. `merging`, `softmax` and `tables` are the operations that are no attention.
6. `precision` decides the dtype in between, and `compiling` what is kept of XLA's work.

Importing it does not import JAX, so that listing the backends stays cheap.
"""

from attnref_jax.backend import JaxBackend

__all__ = ["JaxBackend", "backend"]

backend = JaxBackend()
