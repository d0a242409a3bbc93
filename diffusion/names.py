"""What the weights of DiT and MMDiT are called elsewhere: facebookresearch/DiT, SiT, and diffusers.

SiT (willisma/SiT) took DiT's names over.
"""

from typing import Any

import torch
from torch import Tensor

from core.weights import Reshape, Rules, Split, Squeeze, Table, Tied
from core.weights.published import patch_kernel
from core.weights.rules import Rule

from .dit import DiTConfig
from .mmdit import MMDiTConfig

__all__ = ["POSITIONS", "diffusers", "facebook", "stable_diffusion_3"]

POSITIONS = "pos_embed.pos_embed"
"""The table of positions, which diffusers' DiT computes and doesn't save."""


class Exchanged(Rule):
    """The same tensor with the halves of its first axis exchanged: scale and shift, which ours has as shift and scale.

    Args:
        name: of our tensor.
    """

    def load(self, theirs: Tensor) -> tuple[Tensor, ...]:
        """Return it exchanged."""
        if theirs.ndim == 0 or theirs.shape[0] % 2:
            raise ValueError(f"{tuple(theirs.shape)} has no two equal halves")
        return (torch.cat(theirs.chunk(2)[::-1]),)

    def export(self, *ours: Tensor) -> Tensor:
        """Return it exchanged."""
        return torch.cat(ours[0].chunk(2)[::-1])


def facebook(config: DiTConfig) -> Table:
    """Return the table of facebookresearch/DiT and of SiT."""
    parts = [f"blocks.{{i}}.attn.fn.{part}.proj.{{leaf}}" for part in "qkv"]
    modulations = [f"blocks.{{i}}.{branch}.modulation.proj.{{leaf}}" for branch in ("attn", "mlp")]
    return Table(
        "facebook-dit",
        {
            "pos_embed": Squeeze("positions.table"),
            "x_embedder.proj.weight": _kernel(config),
            "x_embedder.proj.bias": "patch.proj.bias",
            "t_embedder.mlp.0.{leaf}": "timestep.fc1.{leaf}",
            "t_embedder.mlp.2.{leaf}": "timestep.fc2.{leaf}",
            "y_embedder.embedding_table.{leaf}": "label.table.{leaf}",
            "blocks.{i}.attn.qkv.{leaf}": Split(*parts),
            "blocks.{i}.attn.proj.{leaf}": "blocks.{i}.attn.fn.out.{leaf}",
            "blocks.{i}.mlp.fc1.{leaf}": "blocks.{i}.mlp.fn.fc1.{leaf}",
            "blocks.{i}.mlp.fc2.{leaf}": "blocks.{i}.mlp.fn.fc2.{leaf}",
            "blocks.{i}.adaLN_modulation.1.{leaf}": Split(*modulations),
            "final_layer.adaLN_modulation.1.{leaf}": "head.norm.proj.{leaf}",
            "final_layer.linear.{leaf}": "head.proj.{leaf}",
        },
    )


def diffusers(config: DiTConfig) -> Table:
    """Return the table of diffusers' ``DiTTransformer2DModel``.

    It has the embeddings of time and class in every block; all must be equal, as they are in what was converted from
    facebookresearch/DiT.
    """
    block = "transformer_blocks.{i}"
    modulations = [f"blocks.{{i}}.{branch}.modulation.proj.{{leaf}}" for branch in ("attn", "mlp")]
    rules: dict[str, Any] = {
        POSITIONS: Squeeze("positions.table"),
        "pos_embed.proj.weight": _kernel(config),
        "pos_embed.proj.bias": "patch.proj.bias",
        f"{block}.norm1.linear.{{leaf}}": Split(*modulations),
        **_attention(f"{block}.attn1", "blocks.{i}.attn.fn"),
        **_mlp(f"{block}.ff", "blocks.{i}.mlp.fn"),
        "proj_out_1.{leaf}": "head.norm.proj.{leaf}",
        "proj_out_2.{leaf}": "head.proj.{leaf}",
    }
    embeddings = {
        "timestep_embedder.linear_1": "timestep.fc1",
        "timestep_embedder.linear_2": "timestep.fc2",
        "class_embedder.embedding_table": "label.table",
    }
    for theirs, ours in embeddings.items():
        first, *others = (f"transformer_blocks.{i}.norm1.emb.{theirs}.{{leaf}}" for i in range(config.depth))
        rules[first] = f"{ours}.{{leaf}}"
        rules |= {other: Tied(first) for other in others}
    return Table("diffusers-dit", rules)


def stable_diffusion_3(config: MMDiTConfig) -> Table:
    """Return the table of diffusers' ``SD3Transformer2DModel``."""
    rules: dict[str, Any] = {
        POSITIONS: Squeeze("positions.table"),
        "pos_embed.proj.weight": _kernel(config),
        "pos_embed.proj.bias": "patch.proj.bias",
        "time_text_embed.timestep_embedder.linear_1.{leaf}": "timestep.fc1.{leaf}",
        "time_text_embed.timestep_embedder.linear_2.{leaf}": "timestep.fc2.{leaf}",
        "time_text_embed.text_embedder.linear_1.{leaf}": "pooled.fc1.{leaf}",
        "time_text_embed.text_embedder.linear_2.{leaf}": "pooled.fc2.{leaf}",
        "context_embedder.{leaf}": "text.{leaf}",
        "norm_out.linear.{leaf}": Exchanged("head.norm.proj.{leaf}"),
        "proj_out.{leaf}": "head.proj.{leaf}",
    }
    for i in range(config.depth):
        theirs, ours, last = f"transformer_blocks.{i}", f"blocks.{i}", i == config.depth - 1
        own = [f"{ours}.joint.modulations.{stream}.proj.{{leaf}}" for stream in (0, 1)]
        if last:
            own = [f"{ours}.joint.modulation.proj.{{leaf}}", f"{ours}.joint.norm.proj.{{leaf}}"]
        picture, text = own
        made = [picture, f"{ours}.mlp.branches.0.modulation.proj.{{leaf}}"]
        if i in config.dual:
            made.append(f"{ours}.joint.second.proj.{{leaf}}")
            rules |= _attention(f"{theirs}.attn2", f"{ours}.joint.own")
        rules[f"{theirs}.norm1.linear.{{leaf}}"] = Split(*made)
        rules |= _attention(f"{theirs}.attn", f"{ours}.joint.fn.parts.0")
        rules |= _mlp(f"{theirs}.ff", f"{ours}.mlp.branches.0.fn")
        added = f"{ours}.joint.fn.parts.1"
        for part in "qkv":
            rules[f"{theirs}.attn.add_{part}_proj.{{leaf}}"] = f"{added}.{part}.proj.{{leaf}}"
        for part in "qk":
            rules[f"{theirs}.attn.norm_added_{part}.{{leaf}}"] = f"{added}.{part}.norm.{{leaf}}"
        if last:
            rules[f"{theirs}.norm1_context.linear.{{leaf}}"] = Exchanged(text)
        else:
            other = f"{ours}.mlp.branches.1"
            rules[f"{theirs}.norm1_context.linear.{{leaf}}"] = Split(text, f"{other}.modulation.proj.{{leaf}}")
            rules[f"{theirs}.attn.to_add_out.{{leaf}}"] = f"{added}.out.{{leaf}}"
            rules |= _mlp(f"{theirs}.ff_context", f"{other}.fn")
    return Table("diffusers-sd3", rules)


def _kernel(config: DiTConfig | MMDiTConfig) -> Reshape:
    return patch_kernel(config.channels, config.patch)


def _attention(theirs: str, ours: str) -> Rules:
    """The names of diffusers' ``Attention``."""
    return {
        **{f"{theirs}.to_{part}.{{leaf}}": f"{ours}.{part}.proj.{{leaf}}" for part in "qkv"},
        **{f"{theirs}.norm_{part}.{{leaf}}": f"{ours}.{part}.norm.{{leaf}}" for part in "qk"},
        f"{theirs}.to_out.0.{{leaf}}": f"{ours}.out.{{leaf}}",
    }


def _mlp(theirs: str, ours: str) -> Rules:
    """The names of diffusers' ``FeedForward``."""
    return {
        f"{theirs}.net.0.proj.{{leaf}}": f"{ours}.fc1.{{leaf}}",
        f"{theirs}.net.2.{{leaf}}": f"{ours}.fc2.{{leaf}}",
    }
