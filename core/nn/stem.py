"""Convolutions in the place of the cut into patches (Xiao et al. 2021, arXiv:2106.14881)."""

from itertools import pairwise

from torch import Tensor, nn

from .patch import patch_grid

__all__ = ["ConvStem"]


class ConvStem(nn.Module):
    """Embed patches by convolutions of 3 x 3 with a stride of 2, so that each also sees what lies around it.

    The width doubles from layer to layer up to ``dim``; a projection follows. Where the paper has batch norm there is
    group norm with one group: a sample is the same in whatever batch it is, and averaged weights need no other means.

    Args:
        channels: of the images.
        dim: width of the tokens, divisible by 2 for each layer but one.
        patch: side of a patch in pixels, a power of 2.

    Raises:
        ValueError: if the patch is no power of 2, or too large for ``dim``.
    """

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        layers = patch.bit_length() - 1
        if layers < 1 or patch != 2**layers or dim % 2 ** (layers - 1):
            raise ValueError(
                f"convolutions can't make tokens of {dim} from patches of {patch}: the patch has to be a power of 2, "
                f"and {dim} divisible by half of it"
            )
        self.patch = (patch, patch)
        widths = [channels, *(dim >> n for n in reversed(range(layers)))]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, wide), nn.GELU()
                )
                for narrow, wide in pairwise(widths)
            )
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed images (B, C, H, W) -> (B, patches, dim), or those patches (B, K) that are kept -> (B, K, dim).

        Raises:
            ValueError: if a patch does not divide the images.
        """
        self.grid(images)
        x = self.layers(images).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h * w, D)
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        return self.proj(x)

    def grid(self, images: Tensor) -> tuple[int, ...]:
        """Return how many patches lie along the height and the width of images (B, C, H, W)."""
        return patch_grid(tuple(images.shape[2:]), self.patch)
