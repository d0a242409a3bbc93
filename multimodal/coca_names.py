"""What the weights of CoCa are called in open_clip."""

from collections.abc import Iterator
from typing import Any

from core.weights import Reshape, Split, Table
from core.weights.rules import Transpose
from multimodal.coca import CoCaConfig

__all__ = ["open_clip"]


def open_clip(config: CoCaConfig) -> Table:
    """Return the table of open_clip's names (``coca_model.py``)."""
    image, patch = config.image, config.image.patch
    pool = "image.block.cross.fn."
    rules: dict[str, Any] = {
        "visual.class_embedding": Reshape("image.tower.cls_token", theirs=(-1,), ours=(1, 1, -1)),
        "visual.positional_embedding": "image.tower.positions.table",
        "visual.conv1.weight": Reshape(
            "image.tower.patch.proj.weight",
            theirs=(-1, image.channels, patch, patch),
            ours=(-1, image.channels * patch * patch),
        ),
        "visual.ln_pre.{leaf}": "image.tower.pre_norm.{leaf}",
        **dict(_block("visual.transformer.resblocks", "image.tower.blocks", "attn", "mlp")),
        "visual.attn_pool.query": "image.query",
        "visual.attn_pool.ln_q.{leaf}": "image.block.cross.norm.{leaf}",
        "visual.attn_pool.ln_k.{leaf}": pool + "pre.{leaf}",
        **_pool_attention(config, pool),
        "visual.ln_post.{leaf}": "image.norm.{leaf}",
        "visual.proj": Transpose("image_proj.weight"),
        "text.token_embedding.weight": "text.tower.tokens.weight",
        "text.cls_emb": "text.cls_token",
        "text.positional_embedding": "text.tower.positions.table",
        **dict(_block("text.transformer.resblocks", "text.tower.blocks", "attn", "mlp")),
        "text.ln_final.{leaf}": "text.tower.norm.{leaf}",
        "text.text_projection": Transpose("text.tower.proj.weight"),
        **dict(_block("text_decoder.resblocks", "decoder.blocks", "attn", "mlp")),
        **dict(_block("text_decoder.cross_attn", "decoder.blocks", "cross", "mlp2")),
        "text_decoder.cross_attn.{i}.ln_1_kv.{leaf}": "decoder.blocks.{i}.cross.fn.pre.{leaf}",
        "text_decoder.ln_final.{leaf}": "decoder.norm.{leaf}",
        "text_decoder.text_projection": Transpose("decoder.head.weight"),
        "logit_scale": "logit_scale",
    }
    return Table("open_clip-coca", rules)


def _pool_attention(config: CoCaConfig, ours: str) -> dict[str, Any]:
    """The attention of the queries: its projections are one matrix only where query and key have the same width."""
    theirs = "visual.attn_pool.attn."
    q, k, v = (f"{ours}{part}.proj." for part in "qkv")
    rules: dict[str, Any] = {theirs + "out_proj.{leaf}": ours + "out.{leaf}"}
    rules[theirs + "in_proj_bias"] = Split(q + "bias", k + "bias", v + "bias")
    if config.embed == config.image.dim:
        rules[theirs + "in_proj_weight"] = Split(q + "weight", k + "weight", v + "weight")
    else:
        rules |= {f"{theirs}{part}_proj_weight": f"{ours}{part}.proj.weight" for part in "qkv"}
    return rules


def _block(there: str, here: str, attn: str, mlp: str) -> Iterator[tuple[str, Any]]:
    """The names of a residual block: its attention is the branch ``attn``, its feed-forward the branch ``mlp``."""
    q, k, v = (f"{here}.{{i}}.{attn}.fn.{part}.proj." for part in "qkv")
    yield f"{there}.{{i}}.ln_1.{{leaf}}", f"{here}.{{i}}.{attn}.norm.{{leaf}}"
    yield f"{there}.{{i}}.attn.in_proj_weight", Split(q + "weight", k + "weight", v + "weight")
    yield f"{there}.{{i}}.attn.in_proj_bias", Split(q + "bias", k + "bias", v + "bias")
    yield f"{there}.{{i}}.attn.out_proj.{{leaf}}", f"{here}.{{i}}.{attn}.fn.out.{{leaf}}"
    yield f"{there}.{{i}}.ln_2.{{leaf}}", f"{here}.{{i}}.{mlp}.norm.{{leaf}}"
    yield f"{there}.{{i}}.mlp.c_fc.{{leaf}}", f"{here}.{{i}}.{mlp}.fn.fc1.{{leaf}}"
    yield f"{there}.{{i}}.mlp.c_proj.{{leaf}}", f"{here}.{{i}}.{mlp}.fn.fc2.{{leaf}}"
