"""attnref on CuPy: kernels in CUDA C++, for GPUs from Ampere up, without torch.

Read it in this order:

1. `backend` says what can be run and what cannot, and `machine` why a machine cannot.
2. `operations` sends each kind of problem to its module.
3. `compiling` makes a kernel of a `.cu` file, on the GPU's machine or for a GPU that is not
   there; `launching` queues it, and `replay` queues it again for calls of the same form.
4. `mma.cuh` has the instructions of tensor cores, and nothing else here is PTX.

Importing it does not import CuPy, so that listing the backends stays cheap, and possible
where it is not installed.
"""

from attnref_cupy.backend import CupyBackend

__all__ = ["CupyBackend", "backend"]

backend = CupyBackend()
