"""What a backend prints, whichever way it prints.

Python's `print` goes through `sys.stdout`; C's `printf` and a kernel's go to the file
descriptors 1 and 2, and C keeps them in a buffer of its own. All of it is heard here.
"""

import atexit
import ctypes
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from typing import BinaryIO

_DESCRIPTORS = (1, 2)


@contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """Keep what is printed inside the block from the terminal.

    Yields:
        A function that, after the block, returns what was printed.
    """
    text = io.StringIO()
    heard: list[str] = []
    with ExitStack() as stack:
        file = stack.enter_context(_descriptors())
        stack.enter_context(redirect_stdout(text))
        stack.enter_context(redirect_stderr(text))
        yield lambda: "".join((text.getvalue(), *heard))
        _flush()
        file.seek(0)
        heard.append(file.read().decode(errors="replace"))


@contextmanager
def _descriptors() -> Iterator[BinaryIO]:
    """Point the descriptors at one file for a while."""
    file = _file()
    file.seek(0)
    file.truncate()
    _flush()
    kept: dict[int, int] = {}
    try:
        for number in _DESCRIPTORS:
            with suppress(OSError):  # a process may have been started without it
                kept[number] = os.dup(number)
                os.dup2(file.fileno(), number)
        yield file
    finally:
        _flush()
        for number, original in kept.items():
            os.dup2(original, number)
            os.close(original)


@cache
def _file() -> BinaryIO:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # as long as the process
    atexit.register(file.close)
    return file


@cache
def _c_library() -> ctypes.CDLL | None:
    """Return the C library, if the process shows it; Windows does not."""
    return None if sys.platform == "win32" else ctypes.CDLL(None)


def _flush() -> None:
    """Empty the buffers of Python and of C."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]  # it may be None
    library = _c_library()
    if library is not None:
        library.fflush(None)
