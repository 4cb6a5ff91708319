"""What torchvision calls the parameters of ViT, Swin and Swin V2."""

from attnref.models.configurations import Config, SwinV2Config
from attnref.models.names.stored import BUFFERS, Layout, Stored, Table


def _block(ours: str, theirs: str) -> Table:
    return {
        f"{ours}.mlp.up.{{w}}": f"{theirs}.mlp.0.{{w}}",
        f"{ours}.mlp.down.{{w}}": f"{theirs}.mlp.3.{{w}}",
    }


def vit(_: Config) -> Layout:
    """Name ViT's parameters."""
    ours, theirs = "blocks.{n}", "encoder.layers.encoder_layer_{n}"
    return Layout(
        {
            "patches.{w}": "conv_proj.{w}",
            "class": "class_token",
            "positions": "encoder.pos_embedding",
            f"{ours}.norm{{i}}.{{w}}": f"{theirs}.ln_{{i}}.{{w}}",
            f"{ours}.attention.qkv.{{w}}": f"{theirs}.self_attention.in_proj_{{w}}",
            f"{ours}.attention.output.{{w}}": f"{theirs}.self_attention.out_proj.{{w}}",
            **_block(ours, theirs),
            "norm.{w}": "encoder.ln.{w}",
            "head.{w}": "heads.head.{w}",
        },
        spellings=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    )


def _cosines(c: SwinV2Config, ours: str, theirs: str) -> Table:
    """Describe attention of Swin V2, which keeps a bias of the keys and sets it to zero."""
    table: Table = {
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


def swin(c: Config) -> Layout:
    """Name Swin's and Swin V2's parameters; stages are odd features and merging is even ones."""
    ours, theirs = "stages.{s}.blocks.{n}", "features.{odd}.{n}"
    names = f"{ours}.attention", f"{theirs}.attn"
    return Layout(
        {
            **(_cosines(c, *names) if isinstance(c, SwinV2Config) else {}),
            "patches.norm.{w}": "features.0.2.{w}",
            "patches.{w}": "features.0.0.{w}",
            f"{ours}.norm{{i}}.{{w}}": f"{theirs}.norm{{i}}.{{w}}",
            f"{ours}.attention.table": f"{theirs}.attn.relative_position_bias_table",
            f"{ours}.attention.qkv.{{w}}": f"{theirs}.attn.qkv.{{w}}",
            f"{ours}.attention.output.{{w}}": f"{theirs}.attn.proj.{{w}}",
            **_block(ours, theirs),
            "stages.{s}.merge.norm.{w}": "features.{even}.norm.{w}",
            "stages.{s}.merge.weight": "features.{even}.reduction.weight",
            "norm.{w}": "norm.{w}",
            "head.{w}": "head.{w}",
        },
        buffers=BUFFERS,
    )
