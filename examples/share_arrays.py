"""Call a backend with another library's arrays, and see that their memory is shared.

    python examples/share_arrays.py

Whoever names a backend may give it arrays of another library on the same device: they cross
by DLPack, and so do results. Each line names the libraries, and says of the queries and of
the result whether both sides see the same memory.

On the CPU, torch's tensors go to the NumPy backend. With a GPU and CuPy
(`pip install "attnref[cupy]"`), torch's go to CuPy's kernels as well, and JAX's where it is
installed with CUDA.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import attnref
from attnref.problem import Problem, Result
from attnref.registry import load

Pointer = Callable[[Any], int]

POINTERS: dict[str, Pointer] = {
    "numpy": lambda x: x.__array_interface__["data"][0],
    "torch": lambda x: x.data_ptr(),
    "cupy": lambda x: x.data.ptr,
    "jax": lambda x: x.unsafe_buffer_pointer(),
}
"""Where an array of each library begins in memory."""


class Watched:
    """A backend that remembers where the arrays were that it was given and returned.

    Args:
        name: Of a registered backend, which does the work.
    """

    def __init__(self, name: str) -> None:
        self._backend = load(name)
        self.queries = self.result = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, problem: Problem) -> Result:
        """Run the problem."""
        result = self._backend.forward(problem)
        pointer = POINTERS[problem.library]
        self.queries, self.result = pointer(problem.q), pointer(result.out)  # type: ignore[attr-defined]
        return result


def shared(name: str, source: str, q: Any, k: Any, v: Any) -> tuple[bool, bool]:
    """Tell whether queries and result lie where the backend saw them."""
    backend = Watched(name)
    out = attnref.attention(q, k, v, backend=backend)
    assert type(out) is type(q)
    pointer = POINTERS[source]
    return pointer(q) == backend.queries, pointer(out) == backend.result


def drawn() -> list[np.ndarray]:
    """Draw queries, keys and values."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 4, 128, 64), np.float32) for _ in range(3)]


def pairs() -> Iterator[tuple[str, str, str, list[Any]]]:
    """List what can be shown on this machine: backend, library, device, arrays."""
    import torch

    values = list(map(torch.from_numpy, drawn()))
    yield "numpy", "torch", "cpu", values
    if load("cupy").available():
        return
    for dtype in (torch.float16, torch.bfloat16):
        yield "cupy", "torch", "cuda", [x.to("cuda", dtype) for x in values]
    if find_spec("jax"):
        import jax

        if jax.default_backend() == "gpu":
            yield "cupy", "jax", "cuda", list(map(jax.numpy.asarray, drawn()))


def main() -> None:
    """Print a line for each pair of libraries."""
    for name, source, device, arrays in pairs():
        queries, result = ("shared" if same else "copied" for same in shared(name, source, *arrays))
        dtype = str(arrays[0].dtype).rpartition(".")[2]
        print(f"{source} on {device}, {dtype}, backend {name}: queries {queries}, result {result}")
    for reason in load("cupy").available():
        print(f"cupy cannot run here: {reason}")


if __name__ == "__main__":
    main()
