"""Whether a library's code is the code that attnref was held to.

A replacement takes over the meaning of some functions of a library. Names say nothing of
meaning, nor do version numbers of a copy that somebody patched. So the functions
themselves are compared: without comments, docstrings, annotations and layout, because
those mean nothing when they run.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

DIGITS = 12
"""Hexadecimal digits of a print."""

Prints = Mapping[Callable[..., Any], frozenset[str]]
"""Functions, each with the prints of all its versions that have one meaning."""


def fingerprint(function: Callable[..., Any]) -> str | None:
    """Return a print of what a function does, or `None` if its source is not there.

    Args:
        function: One that was written in Python.

    Returns:
        Twelve hexadecimal digits.

    Example:
        >>> import textwrap
        >>> fingerprint(textwrap.dedent) == fingerprint(textwrap.dedent)
        True
        >>> fingerprint(len) is None
        True
    """
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return None
    tree = ast.parse(textwrap.dedent(source))
    bare = ast.unparse(_Bare().visit(tree))
    return hashlib.sha256(bare.encode()).hexdigest()[:DIGITS]


def unknown(prints: Prints) -> list[str]:
    """Return the names of the functions that are none of the versions known."""
    return [f.__qualname__ for f, known in prints.items() if fingerprint(f) not in known]


class _Bare(ast.NodeTransformer):
    """Takes away what means nothing when a function runs."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # ast's name
        self.generic_visit(node)
        node.returns = None
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:  # ast's name
        # Each Python quotes an f-string in its own way, and 3.12.1 adds empty parts. The
        # tuple of what is in it is written alike by all.
        parts = [p for p in node.values if not isinstance(p, ast.Constant) or p.value]
        return ast.Tuple([self.visit(part) for part in parts], ast.Load())

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:  # ast's name
        self.generic_visit(node)
        how = [ast.Constant(node.conversion), node.format_spec or ast.Constant(None)]
        return ast.Tuple([node.value, *how], ast.Load())

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node
