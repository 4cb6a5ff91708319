"""Keep shapes in rendered signatures as they are written.

Griffe reads a string inside an annotation as a forward reference if it parses. The shape
`"B #Hq Sq Sk"` does, as `B` and a comment, and would be shown as `B`.
"""

import ast
from typing import Any

import griffe


class Shapes(griffe.Extension):
    """Replaces parsed annotations of functions by their source."""

    def on_function_instance(
        self, *, node: ast.AST | griffe.ObjectNode, func: griffe.Function, **_: Any
    ) -> None:
        """Copy every annotation from the syntax tree."""
        if not isinstance(node, ast.FunctionDef):
            return
        for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if arg.annotation is not None:
                func.parameters[arg.arg].annotation = ast.unparse(arg.annotation)
        if node.returns is not None:
            func.returns = ast.unparse(node.returns)
