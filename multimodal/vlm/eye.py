"""What a language model is shown of a picture: tokens of a ViT, of one block or of several."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.nn import Ctx, Out, Tokens
from vision.vit import ViT

__all__ = ["Eye"]


class Eye(nn.Module):
    """A ViT without its head, that may stop before its last block.

    Any module that maps (B, ...) to features (B, N, D) may stand in its place: a Swin, a Whisper's encoder.

    Args:
        tower: the ViT.
        layers: where features are taken, as states that are not normalised: 0 is what enters the first block, -1 what
            leaves the last, -2 what leaves the one before (LLaVA); several are put side by side. None: the normalised
            tokens (Idefics3).
        prefix: whether the class token and registers are among the features.

    Raises:
        ValueError: if the tower has no such block.
    """

    def __init__(self, tower: ViT, layers: Sequence[int] | None = None, prefix: bool = False) -> None:
        super().__init__()
        self.tower = tower
        depth = len(tower.blocks)
        states = range(depth + 1)
        if layers is not None and (not layers or any(not -depth - 1 <= layer <= depth for layer in layers)):
            raise ValueError(f"features of layers {list(layers)}: the tower has states {-depth - 1} to {depth}")
        self.layers = None if layers is None else tuple(states[layer] for layer in layers)
        self.prefix = prefix

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.tower.config.dim * (1 if self.layers is None else len(self.layers))

    def count(self, height: int, width: int) -> int:
        """How many features a picture of so many pixels has."""
        config = self.tower.config
        return (height // config.patch) * (width // config.patch) + (config.prefix if self.prefix else 0)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features (B, N, dim)."""
        x = self.tower.features(images).x if self.layers is None else self._states(images, self.layers)
        return x if self.prefix else x[:, self.tower.config.prefix :]

    def _states(self, images: Tensor, layers: tuple[int, ...]) -> Tensor:
        x, coords = self.tower.embed(images)
        found = {0: x}
        stack = self.tower.blocks
        # blocks behind the last layer would be work for nothing
        for number, block in enumerate(stack[: max(layers)], 1):
            out: Out = stack.run(block, x, Ctx(Tokens(coords=coords)))
            x = found[number] = out.x
        return torch.cat([found[layer] for layer in layers], -1)
