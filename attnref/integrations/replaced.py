"""What the class of a replaced module adds to the library's own class."""

from operator import attrgetter
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnref.backend import Backend
from attnref.errors import Reason
from attnref.integrations.sources import Prints, unknown


class Replaced(nn.Module):
    """Put before a library's class, it makes the class of a replaced module.

    A replaced module changes its class and nothing else, so that its weights, names and
    hooks stay where they are, and copies and pickles of it are of the same class.
    """

    replaces: ClassVar[type[nn.Module]]
    """The library's class."""

    parts: ClassVar[dict[str, type[nn.Module]]] = {}
    """Modules inside that are not called any more, and the classes they must be of."""

    sources: ClassVar[Prints]
    """The functions whose meaning was taken over, and the versions that were compared."""

    drops: ClassVar[str]
    """Where the dropout of attention weights is: a number, or a module with a `p`."""

    attnref_backend: str | Backend | None = None
    """What runs the calls; `None` walks the preference order."""

    def runs_own_code(self, x: Tensor) -> bool:
        """Tell whether this call needs what attnref does not have, and is the library's.

        That is dropout of weights, a hook on a module that would not be called, and a
        tracer that follows the library's code but not attnref's.
        """
        if torch.jit.is_tracing() or isinstance(x, torch.fx.Proxy):
            return True
        passed_by = [attrgetter(name)(self) for name in self.parts]
        trains = any(module.training for module in (self, *passed_by))
        return (trains and chance(self, self.drops) > 0) or any(map(_hooked, passed_by))


def against(module: nn.Module, becomes: type[Replaced]) -> Reason | None:
    """Return the reason why a module of the class that is replaced may not be, if any."""
    changed = unknown(becomes.sources)
    if changed:
        library = becomes.replaces.__module__.partition(".")[0]
        return Reason(
            "version",
            f"{', '.join(changed)} of the installed {library} is none of the versions that "
            "attnref was compared with",
        )
    if "forward" in vars(module):
        return Reason("forward", "its forward was replaced by something else already")
    for name, kind in becomes.parts.items():
        part = attrgetter(name)(module)
        if type(part) is not kind:
            fact = f"{name} is a {type(part).__name__} and would be passed by as a {kind.__name__}"
            return Reason("part", fact, field=name)
        if "forward" in vars(part):
            return Reason("part", f"the forward of {name} was replaced already", field=name)
    return None


def chance(module: nn.Module, drops: str) -> float:
    """Return the probability with which a module drops attention weights in training."""
    found = attrgetter(drops)(module)
    return float(getattr(found, "p", found))


def _hooked(module: nn.Module) -> bool:
    """Tell whether somebody waits for a module to be called."""
    return bool(
        module._forward_hooks  # noqa: SLF001  # torch has no public question for it
        or module._forward_pre_hooks  # noqa: SLF001
        or module._backward_hooks  # noqa: SLF001
        or module._backward_pre_hooks  # noqa: SLF001
    )
