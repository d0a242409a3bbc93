"""AdamW (arXiv:1711.05101) with the parameter groups that Transformers are trained with.

Weight decay is for the matrices of linear, convolution and embedding layers: parameters called ``weight`` with two or
    more
dimensions. Norms, biases, position tables, class tokens, registers, LayerScale's gammas and other single vectors have
none.

Layer-wise decay (BEiT, arXiv:2106.08254, appendix) multiplies the learning rate by ``layer_decay`` per layer below
the top. Layers are the blocks of every :class:`core.nn.Stack`, counted through the model in the order of
registration: what comes before the first block is layer 0, block i is layer i + 1, what lies between two stacks goes
with the block after it, what comes after the last block (norm, pooling, head) is the top.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from core.nn.block import Stack
from core.train.master import MasterAdamW

__all__ = ["Optim", "blocks_of", "layers_of", "param_groups"]


@dataclass(frozen=True)
class Optim:
    """AdamW's settings.

    Args:
        lr: Peak learning rate of the topmost layers.
        weight_decay: Decoupled weight decay of the matrices.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        layer_decay: Factor of the learning rate per layer below the top; 1 trains all layers alike.
        parts: Factors of the learning rate of parts, by what their parameters' names begin with below the model, such
            as ``{image: 0.1}``.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    layer_decay: float = 1.0
    parts: dict[str, float] = field(default_factory=dict)

    def build(self, module: nn.Module, fused: bool = True) -> torch.optim.AdamW:
        """The optimizer for the trainable parameters of a module; ``fused`` is PyTorch's faster implementation.

        Weights in bfloat16 (``--trainer.precision bf16-true``) are stepped in float32: :class:`MasterAdamW`.
        """
        groups = param_groups(module, self.lr, self.weight_decay, self.layer_decay, self.parts)
        halves = any(p.dtype is torch.bfloat16 for group in groups for p in group["params"])
        kind = MasterAdamW if halves else torch.optim.AdamW
        return kind(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)


def param_groups(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    parts: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters: by layer (if ``layer_decay`` isn't 1), by part, by decay.

    Returns:
        Dictionaries with ``name``, ``params``, ``lr`` and ``weight_decay``; those of lower layers come first.
    """
    layers = layers_of(module)
    top = max(layers.values(), default=0)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = name.rpartition(".")[2] == "weight" and parameter.ndim >= 2
        label = "decay" if decays else "no_decay"
        rate = lr
        if layer_decay != 1.0:
            label = f"layer{layers[name]:02d}.{label}"
            rate = lr * layer_decay ** (top - layers[name])
        for part, factor in (parts or {}).items():
            if name.startswith((f"{part}.", f"model.{part}.")):
                label, rate = f"{part}.{label}", rate * factor
        group = {"name": label, "params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault(label, group)["params"].append(parameter)
    return [groups[label] for label in sorted(groups)]


def layers_of(module: nn.Module) -> dict[str, int]:
    """The layer of each trained parameter: 0 = before all blocks, i + 1 = block i, blocks + 1 = after all."""
    prefixes = [prefix for prefix, _ in blocks_of(module)]
    layers: dict[str, int] = {}
    passed = 0
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = next((number for number, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        if inside is not None:
            passed = inside + 1
            layers[name] = inside + 1
        else:
            layers[name] = passed + 1 if passed else 0
    return layers


def blocks_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(prefix of the parameters' names, block) for the blocks of all outermost stacks, in order of registration."""
    for name, child in module.named_children():
        inside = (
            [(f"{index}.", block) for index, block in enumerate(child)]
            if isinstance(child, Stack)
            else blocks_of(child)
        )
        for prefix, block in inside:
            yield f"{name}.{prefix}", block
