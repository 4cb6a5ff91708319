"""What timm calls the parameters of ViT, Swin and Swin V2."""

from attnref.models.configurations import Config, ViTConfig
from attnref.models.names.stored import BUFFERS, Layout, Stored, Table


def _block(ours: str, theirs: str) -> Table:
    return {
        f"{ours}.norm{{i}}.{{w}}": f"{theirs}.norm{{i}}.{{w}}",
        f"{ours}.attention.output.{{w}}": f"{theirs}.attn.proj.{{w}}",
        f"{ours}.attention.{{part}}.{{w}}": f"{theirs}.attn.{{part}}.{{w}}",
        f"{ours}.mlp.up.{{w}}": f"{theirs}.mlp.fc1.{{w}}",
        f"{ours}.mlp.down.{{w}}": f"{theirs}.mlp.fc2.{{w}}",
    }


def _parallel(c: ViTConfig) -> Table:
    """Describe a block whose MLP and projections are one matrix, the MLP's rows first."""
    F, rows = c.hidden, c.hidden + 3 * c.width
    table: Table = {
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


def vit(config: Config) -> Layout:
    """Name ViT's parameters; the last norm is called after what it normalises."""
    assert isinstance(config, ViTConfig)
    last = "norm" if config.pool == "class" else "fc_norm"
    return Layout(
        {
            "patches.{w}": "patch_embed.proj.{w}",
            "class": "cls_token",
            "positions": "pos_embed",
            **(_parallel(config) if config.parallel else _block("blocks.{n}", "blocks.{n}")),
            "norm.{w}": f"{last}.{{w}}",
            "head.{w}": "head.{w}",
        }
    )


def swin(_: Config) -> Layout:
    """Name Swin's and Swin V2's parameters; merging is at the beginning of a stage."""
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
            **_block(ours, theirs),
            "stages.{s}.merge.norm.{w}": "layers.{s1}.downsample.norm.{w}",
            "stages.{s}.merge.weight": "layers.{s1}.downsample.reduction.weight",
            "norm.{w}": "norm.{w}",
            "head.{w}": "head.fc.{w}",
        },
        buffers=BUFFERS + r"|.*\.attn\.k_bias",
    )
