"""Finds the window attention of a built model, and lets it run on attnref, or not.

Classes are recognised by name, without importing their libraries. A module is replaced if
it is of exactly a class that is known, in a version that was compared, and untouched by
anybody else. Everything else that looks like window attention is reported with a reason.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from attnref import registry
from attnref.backend import Backend, is_backend
from attnref.errors import InvalidProblem, Reason
from attnref.integrations.report import Report

if TYPE_CHECKING:
    from torch import nn

    from attnref.integrations.replaced import Replaced

HERE = "attnref.integrations"

REPLACEABLE = {
    "timm.models.swin_transformer.SwinTransformerBlock": ("timm_swin.Block",),
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": ("timm_swin.BlockV2",),
    "timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock": ("timm_swin.BlockV2Cr",),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("torchvision_swin.Attention",),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": (
        "torchvision_swin.AttentionV2",
    ),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": (
        "torchvision_swin.Attention3d",
    ),
    "transformers.models.swin.modeling_swin.SwinLayer": (
        "transformers_swin.Layer",
        "transformers_swin4.Layer",
    ),
    "transformers.models.swinv2.modeling_swinv2.Swinv2Layer": ("transformers_swinv2.LayerV2",),
}
"""Classes whose window attention can run on attnref, and what they become.

Where a library cut a class anew under its old name, the first counts whose names it has.
"""

_COPIES = "a copy of Swin's layer that attnref was not compared with"

NOT_REPLACEABLE = {
    "transformers.models.clap.modeling_clap.ClapAudioLayer": _COPIES,
    "transformers.models.donut.modeling_donut_swin.DonutSwinLayer": _COPIES,
    "transformers.models.maskformer.modeling_maskformer_swin.MaskFormerSwinLayer": _COPIES,
    "transformers.models.swin2sr.modeling_swin2sr.Swin2SRLayer": _COPIES,
}
"""Classes of window attention that are known and stay, and why."""


def accelerate(model: "nn.Module", *, backend: str | Backend | None = None) -> Report:
    """Let the window attention of a built model run on attnref.

    The model is changed in place. Its weights, their names and its results stay; every
    later call, in training and inference, attends on attnref. Called again, it only
    changes the backend. A call that needs what attnref does not have, such as dropout of
    attention weights or the weights themselves, runs the library's own code.

    Args:
        model: A Swin transformer of timm, torchvision or transformers, or any module that
            holds one.
        backend: As in `attnref.attention`: a name, a backend object, or `None` for the
            first of the preference order that can run a call.

    Returns:
        A `Report`: what was replaced, and what was not and why, by module name.

    Raises:
        InvalidProblem: The model holds no window attention that is known.
        UnknownBackend: No package registers the name.
        BackendLoadError: The named backend's package cannot be imported.

    Source:
        The conventions of each library, and where they differ, are in
        `docs/integrations.md`.

    Example:
        >>> import timm
        >>> sizes = {"img_size": 32, "window_size": 4, "embed_dim": 16}
        >>> model = timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), **sizes)
        >>> report = accelerate(model, backend="torch")
        >>> print(report)
        4 of 4 modules of window attention run on attnref, by torch.
          layers.0.blocks.0  timm.models.swin_transformer.SwinTransformerBlock
          ...
        >>> len(restore(model))
        4
    """
    _check(model, backend)
    replaced: dict[str, str] = {}
    except_when: dict[str, Reason] = {}
    kept: dict[str, Reason] = {}
    for name, module in model.named_modules():
        path = _recognised(module)
        if path is None:
            continue
        becomes = _becomes(module, path)
        if isinstance(becomes, Reason):
            kept[name] = becomes
            continue
        module.__class__ = becomes
        module.attnref_backend = backend
        replaced[name] = path
        drops = _drops(module)
        if drops:
            except_when[name] = drops
    if not replaced and not kept:
        raise InvalidProblem(
            f"{type(model).__name__} holds no window attention.",
            [f"looked for  {path}" for path in (*REPLACEABLE, *NOT_REPLACEABLE)],
            hint="an own model can call attnref.window_attention_qkv where it attends",
        )
    return Report(backend, replaced, except_when, kept)


def restore(model: "nn.Module") -> tuple[str, ...]:
    """Undo `accelerate`: every module is of its library's class again.

    Args:
        model: One that `accelerate` was called on, or not.

    Returns:
        The names of the modules that were restored.

    Raises:
        InvalidProblem: The class of a replaced module was changed again since, as
            sharding does.

    Example:
        >>> from torch import nn
        >>> restore(nn.Linear(2, 2))
        ()
    """
    _check(model, None)
    from attnref.integrations.replaced import Replaced

    ours = [(n, m) for n, m in model.named_modules() if isinstance(m, Replaced)]
    for name, module in ours:
        if not type(module).__module__.startswith(HERE):
            raise InvalidProblem(
                f"{name} is of {type(module).__name__}, which somebody made of a class of "
                "attnref's; it cannot be restored.",
                hint="undo what changed its class first",
            )
    for _, module in ours:
        module.__class__ = type(module).replaces
        del module.attnref_backend
    return tuple(name for name, _ in ours)


def _check(model: object, backend: object) -> None:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InvalidProblem(
            f"model is a {type(model).__name__}; it must be a torch module that is built.",
            see="attnref.integrations",
        )
    if isinstance(backend, str):
        registry.load(backend)
    elif backend is not None and (isinstance(backend, type) or not is_backend(backend)):
        raise InvalidProblem(
            f"backend is a {type(backend).__name__}; it must be a name or a backend object.",
            see="attnref.dispatch (H1)",
            hint='backend="torch", or an object as in attnref.backend',
        )


def _recognised(module: "nn.Module") -> str | None:
    """Return which known class a module is of, or descends from."""
    paths = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return next((p for p in paths if p in REPLACEABLE or p in NOT_REPLACEABLE), None)


def _becomes(module: "nn.Module", path: str) -> "type[Replaced] | Reason":
    """Return the class that a module shall be of, or the reason why it stays as it is."""
    if path in NOT_REPLACEABLE:
        return Reason("class", NOT_REPLACEABLE[path])
    becomes = _ours(path)
    if isinstance(becomes, Reason) or type(module) is becomes:
        return becomes
    if type(module) is not becomes.replaces:
        descends = f"{type(module).__name__} descends from {path} and may attend otherwise"
        return Reason("subclass", descends)
    from attnref.integrations.replaced import against

    return against(module, becomes) or becomes


def _ours(path: str) -> "type[Replaced] | Reason":
    """Import what a known class becomes; fails where its library lacks what it is made of."""
    missing = []
    for place in REPLACEABLE[path]:
        where, _, name = place.partition(".")
        try:
            return getattr(import_module(f"{HERE}.{where}"), name)
        except (ImportError, AttributeError) as error:
            missing.append(str(error))
    library = path.partition(".")[0]
    fact = f"the installed {library} is none of the versions that are known: {'; '.join(missing)}"
    return Reason("version", fact)


def _drops(module: "nn.Module") -> Reason | None:
    """Say when dropout will keep a replaced module from attnref, if it will."""
    from attnref.integrations.replaced import chance

    p = chance(module, module.drops)
    if p == 0:
        return None
    return Reason(
        "dropout",
        f"not in training, where {module.drops} is {p:g}: there is no dropout in attnref yet",
        field=module.drops,
        limit=0.0,
    )
