"""What other libraries call the parameters, one table for each library and model.

On the left are our names and on the right theirs; `{n}` stands for one word and is the same
on both sides. Of a stage's number `{s}`, `{s1}` is the next one, and `{odd}` and `{even}`
are `2 s + 1` and `2 s + 2`, which is how torchvision numbers stages and what is between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from attnref.errors import InvalidProblem
from attnref.models.configurations import (
    BERTConfig,
    Config,
    GPT2Config,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
)
from attnref.models.parameters import shapes


@dataclass(frozen=True)
class Stored:
    """How a library stores one of our parameters.

    Attributes:
        names: Its name; or several, whose arrays stand one above the other.
        transposed: Its matrix is `(inputs, outputs)`.
        rows: The first and the last but one of the rows that are ours.
        of: How many rows there are; zero if all are ours.
    """

    names: tuple[str, ...]
    transposed: bool = False
    rows: tuple[int, int] | None = None
    of: int = 0


@dataclass(frozen=True)
class Layout:
    """One library's names for one model.

    Attributes:
        table: Our names to theirs.
        prefix: What stands before every name where the model is part of a larger one.
        spellings: Patterns of older names, and what they became.
        tied: Their names for what is another of our parameters.
        buffers: A pattern of names that hold nothing learned.
    """

    table: Mapping[str, str | Stored]
    prefix: str = ""
    spellings: tuple[tuple[str, str], ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: str = "(?!)"


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


def _joined(*names: str) -> Stored:
    return Stored(names)


def _matrix(name: str) -> Stored:
    """Describe a matrix of GPT-2, which multiplies from the other side."""
    return Stored((name,), transposed=True)


_AFTER_LOADING = r".*(relative_position_index|relative_coords_table|attn_mask|position_ids)"


def _gpt2(_: Config) -> Layout:
    table: dict[str, str | Stored] = {
        "tokens": "wte.weight",
        "positions": "wpe.weight",
        "blocks.{n}.norm{i}.{w}": "h.{n}.ln_{i}.{w}",
        "norm.{w}": "ln_f.{w}",
    }
    for ours, theirs in (
        ("attention.qkv", "attn.c_attn"),
        ("attention.output", "attn.c_proj"),
        ("mlp.up", "mlp.c_fc"),
        ("mlp.down", "mlp.c_proj"),
    ):
        table[f"blocks.{{n}}.{ours}.weight"] = _matrix(f"h.{{n}}.{theirs}.weight")
        table[f"blocks.{{n}}.{ours}.bias"] = f"h.{{n}}.{theirs}.bias"
    tied = {"lm_head.weight": "tokens"}
    return Layout(table, "transformer.", tied=tied, buffers=r"h\.\d+\.attn\.(bias|masked_bias)")


def _bert(_: Config) -> Layout:
    layer, words = "encoder.layer.{n}", "cls.predictions"
    qkv = (f"{layer}.attention.self.{part}.{{w}}" for part in ("query", "key", "value"))
    return Layout(
        {
            "tokens": "embeddings.word_embeddings.weight",
            "positions": "embeddings.position_embeddings.weight",
            "segments": "embeddings.token_type_embeddings.weight",
            "norm.{w}": "embeddings.LayerNorm.{w}",
            "blocks.{n}.attention.qkv.{w}": _joined(*qkv),
            "blocks.{n}.attention.output.{w}": f"{layer}.attention.output.dense.{{w}}",
            "blocks.{n}.norm1.{w}": f"{layer}.attention.output.LayerNorm.{{w}}",
            "blocks.{n}.mlp.up.{w}": f"{layer}.intermediate.dense.{{w}}",
            "blocks.{n}.mlp.down.{w}": f"{layer}.output.dense.{{w}}",
            "blocks.{n}.norm2.{w}": f"{layer}.output.LayerNorm.{{w}}",
            "pooler.{w}": "pooler.dense.{w}",
            "words.transform.{w}": f"{words}.transform.dense.{{w}}",
            "words.norm.{w}": f"{words}.transform.LayerNorm.{{w}}",
            "words.bias": f"{words}.bias",
        },
        "bert.",
        spellings=(
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        tied={f"{words}.decoder.weight": "tokens", f"{words}.decoder.bias": "words.bias"},
        buffers=_AFTER_LOADING,
    )


_HUGGINGFACE_BLOCK = {
    "attention.output.{w}": "attention.o_proj.{w}",
    "norm1.{w}": "layernorm_before.{w}",
    "norm2.{w}": "layernorm_after.{w}",
    "mlp.up.{w}": "mlp.fc1.{w}",
    "mlp.down.{w}": "mlp.fc2.{w}",
}

_HUGGINGFACE_SPELLINGS = (
    (r"attention\.(?:attention|self)\.(query|key|value)\.", r"attention.\1_proj."),
    (r"attention\.query_proj\.", "attention.q_proj."),
    (r"attention\.key_proj\.", "attention.k_proj."),
    (r"attention\.value_proj\.", "attention.v_proj."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (
        r"attention\.self\.relative_position_bias_table$",
        "attention.relative_position_bias.relative_position_bias_table",
    ),
)
"""Files that were published before version 5 of transformers have the names on the left."""


def _huggingface_block(ours: str, theirs: str) -> dict[str, str | Stored]:
    table: dict[str, str | Stored] = {
        f"{ours}.{o}": f"{theirs}.{t}" for o, t in _HUGGINGFACE_BLOCK.items()
    }
    qkv = (f"{theirs}.attention.{x}_proj.{{w}}" for x in "qkv")
    return {**table, f"{ours}.attention.qkv.{{w}}": _joined(*qkv)}


def _huggingface_vit(_: Config) -> Layout:
    return Layout(
        {
            "patches.{w}": "embeddings.patch_embeddings.projection.{w}",
            "class": "embeddings.cls_token",
            "positions": "embeddings.position_embeddings",
            **_huggingface_block("blocks.{n}", "layers.{n}"),
            "norm.{w}": "layernorm.{w}",
            "head.{w}": "classifier.{w}",
        },
        "vit.",
        spellings=((r"^encoder\.layer\.", "layers."), *_HUGGINGFACE_SPELLINGS),
    )


def _huggingface_swin(_: Config) -> Layout:
    block = "encoder.layers.{s}.blocks.{n}"
    table = "relative_position_bias.relative_position_bias_table"
    return Layout(
        {
            "patches.norm.{w}": "embeddings.norm.{w}",
            "patches.{w}": "embeddings.patch_embeddings.projection.{w}",
            **_huggingface_block("stages.{s}.blocks.{n}", block),
            "stages.{s}.blocks.{n}.attention.table": f"{block}.attention.{table}",
            "stages.{s}.merge.norm.{w}": "encoder.layers.{s}.downsample.norm.{w}",
            "stages.{s}.merge.weight": "encoder.layers.{s}.downsample.reduction.weight",
            "norm.{w}": "layernorm.{w}",
            "head.{w}": "classifier.{w}",
        },
        "swin.",
        spellings=_HUGGINGFACE_SPELLINGS,
        buffers=_AFTER_LOADING,
    )


def _timm_block(ours: str, theirs: str) -> dict[str, str | Stored]:
    return {
        f"{ours}.norm{{i}}.{{w}}": f"{theirs}.norm{{i}}.{{w}}",
        f"{ours}.attention.output.{{w}}": f"{theirs}.attn.proj.{{w}}",
        f"{ours}.attention.{{part}}.{{w}}": f"{theirs}.attn.{{part}}.{{w}}",
        f"{ours}.mlp.up.{{w}}": f"{theirs}.mlp.fc1.{{w}}",
        f"{ours}.mlp.down.{{w}}": f"{theirs}.mlp.fc2.{{w}}",
    }


def _timm_parallel(c: ViTConfig) -> dict[str, str | Stored]:
    """Describe a block whose MLP and projections are one matrix, the MLP's rows first."""
    F, rows = c.hidden, c.hidden + 3 * c.width
    table: dict[str, str | Stored] = {
        "blocks.{n}.norm1.{w}": "blocks.{n}.in_norm.{w}",
        "blocks.{n}.attention.output.{w}": "blocks.{n}.attn_out_proj.{w}",
        "blocks.{n}.attention.q_norm.{w}": "blocks.{n}.q_norm.{w}",
        "blocks.{n}.attention.k_norm.{w}": "blocks.{n}.k_norm.{w}",
        "blocks.{n}.mlp.down.{w}": "blocks.{n}.mlp_out_proj.{w}",
    }
    if not c.qkv_bias:
        table["blocks.{n}.mlp.up.bias"] = "blocks.{n}.mlp_bias"
    fused = ("blocks.{n}.in_proj.{w}",)
    table["blocks.{n}.mlp.up.{w}"] = Stored(fused, rows=(0, F), of=rows)
    table["blocks.{n}.attention.qkv.{w}"] = Stored(fused, rows=(F, rows), of=rows)
    return table


def _timm_vit(config: Config) -> Layout:
    assert isinstance(config, ViTConfig)
    last = "norm" if config.pool == "class" else "fc_norm"
    return Layout(
        {
            "patches.{w}": "patch_embed.proj.{w}",
            "class": "cls_token",
            "positions": "pos_embed",
            **(
                _timm_parallel(config)
                if config.parallel
                else _timm_block("blocks.{n}", "blocks.{n}")
            ),
            "norm.{w}": f"{last}.{{w}}",
            "head.{w}": "head.{w}",
        }
    )


def _timm_swin(_: Config) -> Layout:
    ours, theirs = "stages.{s}.blocks.{n}", "layers.{s}.blocks.{n}"
    attention = f"{ours}.attention"
    return Layout(
        {
            "patches.norm.{w}": "patch_embed.norm.{w}",
            "patches.{w}": "patch_embed.proj.{w}",
            f"{attention}.q.bias": f"{theirs}.attn.q_bias",
            f"{attention}.v.bias": f"{theirs}.attn.v_bias",
            f"{attention}.scale": f"{theirs}.attn.logit_scale",
            f"{attention}.table.up.{{w}}": f"{theirs}.attn.cpb_mlp.0.{{w}}",
            f"{attention}.table.down.weight": f"{theirs}.attn.cpb_mlp.2.weight",
            f"{attention}.table": f"{theirs}.attn.relative_position_bias_table",
            **_timm_block(ours, theirs),
            "stages.{s}.merge.norm.{w}": "layers.{s1}.downsample.norm.{w}",
            "stages.{s}.merge.weight": "layers.{s1}.downsample.reduction.weight",
            "norm.{w}": "norm.{w}",
            "head.{w}": "head.fc.{w}",
        },
        buffers=_AFTER_LOADING + r"|.*\.attn\.k_bias",
    )


def _torchvision_block(ours: str, theirs: str) -> dict[str, str | Stored]:
    return {
        f"{ours}.mlp.up.{{w}}": f"{theirs}.mlp.0.{{w}}",
        f"{ours}.mlp.down.{{w}}": f"{theirs}.mlp.3.{{w}}",
    }


def _torchvision_vit(_: Config) -> Layout:
    ours, theirs = "blocks.{n}", "encoder.layers.encoder_layer_{n}"
    return Layout(
        {
            "patches.{w}": "conv_proj.{w}",
            "class": "class_token",
            "positions": "encoder.pos_embedding",
            f"{ours}.norm{{i}}.{{w}}": f"{theirs}.ln_{{i}}.{{w}}",
            f"{ours}.attention.qkv.{{w}}": f"{theirs}.self_attention.in_proj_{{w}}",
            f"{ours}.attention.output.{{w}}": f"{theirs}.self_attention.out_proj.{{w}}",
            **_torchvision_block(ours, theirs),
            "norm.{w}": "encoder.ln.{w}",
            "head.{w}": "heads.head.{w}",
        },
        spellings=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    )


def _torchvision_cosines(c: SwinV2Config, ours: str, theirs: str) -> dict[str, str | Stored]:
    """Describe attention of Swin V2, which keeps a bias of the keys and sets it to zero."""
    table: dict[str, str | Stored] = {
        f"{ours}.scale": f"{theirs}.logit_scale",
        f"{ours}.table.up.{{w}}": f"{theirs}.cpb_mlp.0.{{w}}",
        f"{ours}.table.down.weight": f"{theirs}.cpb_mlp.2.weight",
    }
    for s in range(len(c.depths)):
        C, at = (
            c.stage_width(s),
            (ours.replace("{s}", str(s)), theirs.replace("{odd}", str(2 * s + 1))),
        )
        for part, rows in (("q", (0, C)), ("v", (2 * C, 3 * C))):
            table[f"{at[0]}.{part}.bias"] = Stored((f"{at[1]}.qkv.bias",), rows=rows, of=3 * C)
    return table


def _torchvision_swin(c: Config) -> Layout:
    ours, theirs = "stages.{s}.blocks.{n}", "features.{odd}.{n}"
    names = f"{ours}.attention", f"{theirs}.attn"
    return Layout(
        {
            **(_torchvision_cosines(c, *names) if isinstance(c, SwinV2Config) else {}),
            "patches.norm.{w}": "features.0.2.{w}",
            "patches.{w}": "features.0.0.{w}",
            f"{ours}.norm{{i}}.{{w}}": f"{theirs}.norm{{i}}.{{w}}",
            f"{ours}.attention.table": f"{theirs}.attn.relative_position_bias_table",
            f"{ours}.attention.qkv.{{w}}": f"{theirs}.attn.qkv.{{w}}",
            f"{ours}.attention.output.{{w}}": f"{theirs}.attn.proj.{{w}}",
            **_torchvision_block(ours, theirs),
            "stages.{s}.merge.norm.{w}": "features.{even}.norm.{w}",
            "stages.{s}.merge.weight": "features.{even}.reduction.weight",
            "norm.{w}": "norm.{w}",
            "head.{w}": "head.{w}",
        },
        buffers=_AFTER_LOADING,
    )


_LAYOUTS: dict[tuple[str, type], Callable[[Config], Layout]] = {
    ("huggingface", GPT2Config): _gpt2,
    ("huggingface", BERTConfig): _bert,
    ("huggingface", ViTConfig): _huggingface_vit,
    ("huggingface", SwinConfig): _huggingface_swin,
    ("timm", ViTConfig): _timm_vit,
    ("timm", SwinConfig): _timm_swin,
    ("timm", SwinV2Config): _timm_swin,
    ("torchvision", ViTConfig): _torchvision_vit,
    ("torchvision", SwinConfig): _torchvision_swin,
    ("torchvision", SwinV2Config): _torchvision_swin,
}
