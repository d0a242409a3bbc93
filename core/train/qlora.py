"""Low-rank adapters beside weights of four bits (QLoRA, arXiv:2305.14314)."""

from torch import nn

from core.errors import InputError
from core.nn.nf4 import NF4Linear
from core.train.adapt import LoRA

__all__ = ["QLoRA"]


class QLoRA(LoRA):
    """:class:`core.train.adapt.LoRA` whose adapted layers are frozen in four bits
    (:class:`core.nn.nf4.NF4Linear`).

    The adapters are trained against the rounded weights, and merging adds them to these.

    Args:
        rank, alpha, dropout, targets, also, parts: See :class:`core.train.adapt.LoRA`.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16,
        dropout: float = 0.0,
        targets: tuple[str, ...] = ("q.proj", "k.proj", "v.proj", "fn.out", "fn.gate", "fn.up", "fn.down"),
        also: tuple[str, ...] = (),
        parts: tuple[str, ...] = (),
    ) -> None:
        super().__init__(rank, alpha, dropout, False, targets, also, parts)

    def __call__(self, model: nn.Module) -> None:
        """Put adapters into the linear layers, freeze the rest, and round what was adapted."""
        from peft.tuners.lora import LoraLayer

        super().__call__(model)
        for name, layer in model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            base = layer.get_base_layer()
            assert isinstance(base, nn.Linear)
            if base.weight.numel() % 2:
                raise InputError(f"{name} has an odd number of weights: four bits need pairs")
            layer.base_layer = NF4Linear(base)

    def merge(self, model: nn.Module) -> None:
        """Add the adapters to the rounded weights: ordinary layers again."""
        from peft.tuners.lora import LoraLayer

        for layer in model.modules():
            if isinstance(layer, LoraLayer) and isinstance(layer.base_layer, NF4Linear):
                layer.base_layer = layer.base_layer.plain()
        super().merge(model)
