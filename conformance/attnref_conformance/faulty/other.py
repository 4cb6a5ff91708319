"""Bases of faults that compute another problem than the one they were given, correctly."""

from typing import Any

from attnref.problem import AttentionProblem, Result, VarlenProblem, WindowProblem
from attnref_conformance.honest import Tiled


class OtherAttention(Tiled):
    """Computes another problem for `attention`."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        """Return the problem that is computed instead."""
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        return super().pieces(self.other(p) if isinstance(p, AttentionProblem) else p)


class OtherPacked(Tiled):
    """Computes another problem for `attention_varlen`."""

    def other(self, p: VarlenProblem) -> VarlenProblem:
        """Return the problem that is computed instead."""
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        return super().pieces(self.other(p) if isinstance(p, VarlenProblem) else p)


class OtherMap(Tiled):
    """Computes another problem for `window_attention`."""

    def other(self, p: WindowProblem) -> WindowProblem:
        """Return the problem that is computed instead."""
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        return super().pieces(self.other(p) if isinstance(p, WindowProblem) else p)


class OtherBackward(Tiled):
    """Computes the gradients of another problem than the one that it ran."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        """Return the problem whose gradients are computed."""
        raise NotImplementedError

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        p = self.other(p) if isinstance(p, AttentionProblem) else p
        return super().attention_gradients(p, result, dout, dlse)
