"""What transformers calls the parameters of GPT-2, BERT, ViT and Swin."""

from attnref.models.configurations import Config
from attnref.models.names.stored import BUFFERS, Layout, Stored, Table


def _joined(*names: str) -> Stored:
    return Stored(names)


def _matrix(name: str) -> Stored:
    """Describe a matrix of GPT-2, which multiplies from the other side."""
    return Stored((name,), transposed=True)


def gpt2(_: Config) -> Layout:
    """Name GPT-2's parameters; its matrices are stored transposed."""
    table: Table = {
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


def bert(_: Config) -> Layout:
    """Name BERT's parameters; published files call scales and shifts gamma and beta."""
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
        buffers=BUFFERS,
    )


_BLOCK = {
    "attention.output.{w}": "attention.o_proj.{w}",
    "norm1.{w}": "layernorm_before.{w}",
    "norm2.{w}": "layernorm_after.{w}",
    "mlp.up.{w}": "mlp.fc1.{w}",
    "mlp.down.{w}": "mlp.fc2.{w}",
}

_SPELLINGS = (
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
"""Files have the names on the left; models in memory, since version 5, those on the right."""


def _block(ours: str, theirs: str) -> Table:
    table: Table = {f"{ours}.{o}": f"{theirs}.{t}" for o, t in _BLOCK.items()}
    qkv = (f"{theirs}.attention.{x}_proj.{{w}}" for x in "qkv")
    return {**table, f"{ours}.attention.qkv.{{w}}": _joined(*qkv)}


def vit(_: Config) -> Layout:
    """Name ViT's parameters."""
    return Layout(
        {
            "patches.{w}": "embeddings.patch_embeddings.projection.{w}",
            "class": "embeddings.cls_token",
            "positions": "embeddings.position_embeddings",
            **_block("blocks.{n}", "layers.{n}"),
            "norm.{w}": "layernorm.{w}",
            "head.{w}": "classifier.{w}",
        },
        "vit.",
        spellings=((r"^encoder\.layer\.", "layers."), *_SPELLINGS),
    )


def swin(_: Config) -> Layout:
    """Name Swin's parameters; merging is at the end of a stage."""
    block = "encoder.layers.{s}.blocks.{n}"
    table = "relative_position_bias.relative_position_bias_table"
    return Layout(
        {
            "patches.norm.{w}": "embeddings.norm.{w}",
            "patches.{w}": "embeddings.patch_embeddings.projection.{w}",
            **_block("stages.{s}.blocks.{n}", block),
            "stages.{s}.blocks.{n}.attention.table": f"{block}.attention.{table}",
            "stages.{s}.merge.norm.{w}": "encoder.layers.{s}.downsample.norm.{w}",
            "stages.{s}.merge.weight": "encoder.layers.{s}.downsample.reduction.weight",
            "norm.{w}": "layernorm.{w}",
            "head.{w}": "classifier.{w}",
        },
        "swin.",
        spellings=_SPELLINGS,
        buffers=BUFFERS,
    )
