"""What other libraries call the parameters: a module for each library, a table for each model.

On the left are our names and on the right theirs; `{n}` stands for one word and is the same
on both sides. Of a stage's number `{s}`, `{s1}` is the next one, and `{odd}` and `{even}`
are `2 s + 1` and `2 s + 2`, which is how torchvision numbers stages and what is between.
"""

from collections.abc import Callable

from attnref.errors import InvalidProblem
from attnref.models.configurations import (
    BERTConfig,
    Config,
    GPT2Config,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
)
from attnref.models.names import huggingface, timm, torchvision
from attnref.models.names.stored import Layout, Stored
from attnref.models.parameters import shapes

__all__ = ["Layout", "Stored", "layout"]


def layout(config: Config, source: str) -> Layout:
    """Return a library's names for a model.

    Raises:
        InvalidProblem: The library has no such model, or nobody wrote down its names.
    """
    if source == "attnref":
        return Layout({name: name for name in shapes(config)})
    kind = type(config)
    if (source, kind) not in _LAYOUTS:
        known = sorted(s for s, k in _LAYOUTS if k is kind)
        raise InvalidProblem(
            f"there are no names of {source!r} for a {kind.__name__}.",
            see="attnref.models.names",
            hint=f"source is one of {', '.join(['attnref', *known])}",
        )
    return _LAYOUTS[source, kind](config)


_LAYOUTS: dict[tuple[str, type], Callable[[Config], Layout]] = {
    ("huggingface", GPT2Config): huggingface.gpt2,
    ("huggingface", BERTConfig): huggingface.bert,
    ("huggingface", ViTConfig): huggingface.vit,
    ("huggingface", SwinConfig): huggingface.swin,
    ("timm", ViTConfig): timm.vit,
    ("timm", SwinConfig): timm.swin,
    ("timm", SwinV2Config): timm.swin,
    ("torchvision", ViTConfig): torchvision.vit,
    ("torchvision", SwinConfig): torchvision.swin,
    ("torchvision", SwinV2Config): torchvision.swin,
}
