"""Alignment of a denoiser's tokens with those of an image encoder: REPA (Yu et al. 2024, arXiv:2410.06940)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import InputError
from core.train.teacher import Frozen

__all__ = ["Repa"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Repa(nn.Module):
    """One minus the cosine of what a block made of the noisy picture and what an encoder makes of the clean one.

    The two have as many patches as each other; a small network in between translates. The paper maximises the cosine,
    which differs by a constant.

    Args:
        teacher: a frozen encoder whose ``features`` maps pictures (B, C, H, W) to patches (B, N, width), such as
            ``vision.tasks.distill.Teacher``.
        dim: width of the denoiser's tokens.
        width: of the encoder's.
        depth: how many blocks the picture has passed (8 in the paper).
        weight: of this loss beside the process's.
        hidden: width of the network in between, which has three layers.
        side: pixels of the pictures that the encoder is shown; None for those of the data.
        mean, std: of the channels, for values in [0, 1], as the encoder expects them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        teacher: nn.Module,  # a generic type would be made of a configuration as if it were its base
        dim: int,
        width: int,
        depth: int = 8,
        weight: float = 0.5,
        hidden: int = 2048,
        side: int | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if depth < 1 or weight <= 0:
            raise InputError(f"repa: depth {depth} must be at least 1 and weight {weight} above 0")
        if not isinstance(teacher, Frozen):
            raise InputError(f"repa: the teacher is a {type(teacher).__name__}; expected vision.tasks.distill.Teacher")
        self.teacher: Frozen[Any] = teacher
        self.depth = depth
        self.weight = weight
        self.side = side
        self.projection = nn.Sequential(
            nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)
        )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def want(self) -> dict[int, dict[str, bool]]:
        """What the model is asked to hand out."""
        return {self.depth - 1: {"hidden": True}}

    def forward(self, notes: dict[int, dict[str, Tensor]], batch: dict[str, Tensor]) -> Tensor:
        """Return the loss (B,).

        Args:
            notes: of the model, as wanted.
            batch: with ``image`` (B, C, H, W) in [-1, 1].

        Raises:
            InputError: if the batch has no pictures, or the two have other numbers of patches.
        """
        if "image" not in batch:
            raise InputError("repa needs pictures, but the data has latents that were computed in advance")
        mine = self.projection(notes[self.depth - 1]["hidden"]).float()
        theirs = self.teacher.features(self._shown(batch["image"]))  # type: ignore[operator]
        if mine.shape != theirs.shape:
            raise InputError(
                f"repa: the model has patches {tuple(mine.shape[1:])}, the encoder {tuple(theirs.shape[1:])}: "
                "set side and width"
            )
        return 1 - F.cosine_similarity(mine, theirs, dim=-1).mean(1)

    def _shown(self, images: Tensor) -> Tensor:
        if self.side is not None and images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bicubic", antialias=True)
        return (images / 2 + 0.5 - self.mean) / self.std
