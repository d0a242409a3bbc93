"""What the weights of decoder language models are called in Hugging Face's files."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.nn.scaling import scaled_frequencies
from core.weights import Rules, Split, Table, Tied, Transpose, nested
from core.weights.rules import Derived, SplitColumns
from multimodal.decoder import DecoderConfig

__all__ = ["gpt2", "inner_rules", "llama", "table_for"]


def table_for(config: DecoderConfig, theirs: Mapping[str, Any]) -> Table:
    """Return the table for tensors of the given names: GPT-2's where the positions are learned, else Llama's."""
    if config.positions == "rope":
        return llama(config, mixtral=any(".block_sparse_moe." in name for name in theirs))
    return gpt2(config, prefix="transformer." if any(name.startswith("transformer.") for name in theirs) else "")


def llama(config: DecoderConfig, *, mixtral: bool = False) -> Table:
    """Return the table of Llama, Mistral, Qwen2, Qwen3 and SmolLM2; of Mixtral, whose experts have other names."""
    rules = nested(inner_rules(config, mixtral=mixtral), "model.", "")
    rules["lm_head.weight"] = Tied("model.embed_tokens.weight") if config.tied else "head.weight"
    return Table("huggingface-mixtral" if mixtral else "huggingface-llama", rules)


def inner_rules(config: DecoderConfig, *, mixtral: bool = False) -> Rules:
    """Return the rules of all but the output layer: the part that vision-language models have inside."""
    there, here = "layers.{i}.", "blocks.{i}."
    rules: dict[str, Any] = {
        "embed_tokens.weight": "tokens.weight",
        "norm.weight": "norm.weight",
        there + "input_layernorm.weight": here + "attn.norm.weight",
        there + "post_attention_layernorm.weight": here + "mlp.norm.weight",
        **{f"{there}self_attn.{part}_proj.{{leaf}}": f"{here}attn.fn.{part}.proj.{{leaf}}" for part in "qkv"},
        there + "self_attn.o_proj.{leaf}": here + "attn.fn.out.{leaf}",
        # files of before 2023-08 hold the frequencies
        there + "self_attn.rotary_emb.inv_freq": _Frequencies(config, of=there + "input_layernorm.weight"),
    }
    if config.qk_norm:
        rules |= {f"{there}self_attn.{part}_norm.weight": f"{here}attn.fn.{part}.norm.weight" for part in "qk"}
    if config.experts is None:
        return rules | {
            f"{there}mlp.{part}_proj.{{leaf}}": f"{here}mlp.fn.{part}.{{leaf}}" for part in ("gate", "up", "down")
        }
    branch = there + ("block_sparse_moe." if mixtral else "mlp.")
    parts = {"gate": "w1", "up": "w3", "down": "w2"} if mixtral else {p: f"{p}_proj" for p in ("gate", "up", "down")}
    rules[branch + "gate.weight"] = here + "mlp.fn.router.weight"
    return rules | {
        f"{branch}experts.{{e}}.{theirs}.weight": f"{here}mlp.fn.experts.{{e}}.{ours}.weight"
        for ours, theirs in parts.items()
    }


def gpt2(config: DecoderConfig, prefix: str = "transformer.") -> Table:
    """Return the table of GPT-2, whose linear layers are stored transposed.

    Args:
        config: of the model.
        prefix: of all names: OpenAI's own files have none.
    """
    there, here = "h.{i}.", "blocks.{i}."
    q, k, v = (f"{here}attn.fn.{part}.proj." for part in "qkv")
    rules: dict[str, Any] = {
        "wte.weight": "tokens.weight",
        "wpe.weight": "positions.table",
        "ln_f.{leaf}": "norm.{leaf}",
        there + "ln_1.{leaf}": here + "attn.norm.{leaf}",
        there + "ln_2.{leaf}": here + "mlp.norm.{leaf}",
        there + "attn.c_attn.weight": SplitColumns(q + "weight", k + "weight", v + "weight"),
        there + "attn.c_attn.bias": Split(q + "bias", k + "bias", v + "bias"),
        there + "attn.bias": _Triangle(config.context, of=there + "ln_1.weight"),
        there + "attn.masked_bias": _Far(of=there + "ln_1.weight"),
    }
    for theirs, ours in (("attn.c_proj", "attn.fn.out"), ("mlp.c_fc", "mlp.fn.fc1"), ("mlp.c_proj", "mlp.fn.fc2")):
        rules[f"{there}{theirs}.weight"] = Transpose(f"{here}{ours}.weight")
        rules[f"{there}{theirs}.bias"] = f"{here}{ours}.bias"
    rules = dict(nested(rules, prefix, ""))
    rules["lm_head.weight"] = Tied(prefix + "wte.weight") if config.tied else "head.weight"
    return Table("huggingface-gpt2" if prefix else "openai-gpt2", rules)


class _Made(Derived):
    """What follows from the config alone; ``of`` only says that the block is there."""

    def value(self) -> Tensor:
        """Return what it must be."""
        raise NotImplementedError

    def make(self, twin: Tensor | None) -> Tensor:
        """Return it."""
        return self.value()

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """It must be that, as far as its dtype can say."""
        mine = self.value()
        same = theirs.shape == mine.shape and torch.equal(mine.to(theirs.dtype).float(), theirs.float())
        return None if same else "is not what the config says"


class _Triangle(_Made):
    """The causal mask of GPT-2's attention, (1, 1, context, context)."""

    def __init__(self, context: int, of: str) -> None:
        super().__init__(of)
        self.context = context

    def value(self) -> Tensor:
        """Ones at and below the diagonal."""
        return torch.ones(self.context, self.context).tril()[None, None]


class _Far(_Made):
    """What GPT-2's attention once put where the mask is 0."""

    def value(self) -> Tensor:
        """One number."""
        return torch.tensor(-1e4)


class _Frequencies(_Made):
    """Rotary frequencies (head_dim / 2,)."""

    def __init__(self, config: DecoderConfig, of: str) -> None:
        super().__init__(of)
        self.config = config

    def value(self) -> Tensor:
        """Those of the config."""
        return scaled_frequencies(self.config.width, self.config.theta, self.config.scaling)[0]

    def flaw(self, theirs: Tensor, twin: Tensor | None) -> str | None:
        """They may be rounded in another way."""
        mine = self.value()
        same = theirs.shape == mine.shape and torch.allclose(mine, theirs.float(), rtol=1e-2)
        return None if same else "are not the rotary frequencies that the config says"
