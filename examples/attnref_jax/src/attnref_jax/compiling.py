"""`jax.jit` that forgets.

XLA compiles one program per shape, and JAX keeps them all. A process that meets thousands
of shapes, as packed sequences make it, runs out of memory maps: the system grants some
65 thousand, and a program takes dozens.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

PROGRAMS = 128
"""How many programs a function keeps."""


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function, and let go of all of its programs when there are many.

    Args:
        function: What to compile; its body runs once per program, when JAX traces it.
        **options: Those of `jax.jit`.
    """
    programs = 0

    @wraps(function)
    def traced(*args: Any, **named: Any) -> Any:
        nonlocal programs
        programs += 1
        return function(*args, **named)

    program = jax.jit(traced, **options)

    @wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        nonlocal programs
        if programs >= PROGRAMS:
            program.clear_cache()
            programs = 0
        return program(*args, **named)

    return run
