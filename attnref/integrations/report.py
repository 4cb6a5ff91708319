"""What `accelerate` did to each window attention of a model, and why not more."""

from collections.abc import Mapping
from dataclasses import dataclass

from attnref.backend import Backend
from attnref.errors import Reason


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome, by the names that `model.named_modules()` gives.

    Attributes:
        backend: What was asked for; `None` is the preference order.
        replaced: Modules whose window attention runs on attnref, and of which class each
            was.
        except_when: Those of them whose library's own code is sure to run now and then,
            and when.
        kept: Modules that were left as they are, and why.
    """

    backend: str | Backend | None
    replaced: Mapping[str, str]
    except_when: Mapping[str, Reason]
    kept: Mapping[str, Reason]

    def __str__(self) -> str:
        """Return one line per module, under one that counts them."""
        found = [*self.replaced, *self.kept]
        who = getattr(self.backend, "name", self.backend) or "the first backend that can"
        width = max(map(len, found))
        lines = [
            f"{len(self.replaced)} of {len(found)} modules of window attention run on attnref, "
            f"by {who}."
        ]
        for name, kind in self.replaced.items():
            lines.append(f"  {name:<{width}}  {kind}")
            if name in self.except_when:
                lines.append(f"  {'':<{width}}    but {self.except_when[name]}")
        lines += [f"  {name:<{width}}  kept: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)
