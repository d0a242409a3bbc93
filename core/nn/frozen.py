"""What layers for inference have in common when their weight is in an order of its own."""

from typing import Any

from torch import Tensor, nn

__all__ = ["Frozen", "Unsaved"]


class Unsaved(nn.Module):
    """A layer that computes, and is neither trained nor saved: keep the exact model for that."""

    def __deepcopy__(self, memo: Any) -> "Unsaved":
        raise TypeError(f"{type(self).__name__} can't be copied: copy the exact model and make the copy fast")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{type(self).__name__} can't be pickled: save the exact model")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise TypeError(f"{prefix}: {type(self).__name__} has no weights to save or export: use the exact model")


class Frozen(Unsaved):
    """A linear layer of this kind.

    Args:
        linear: the layer that it stands for.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias: Tensor | None
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def extra_repr(self) -> str:
        """The layer's sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
