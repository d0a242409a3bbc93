"""How well images and texts find each other: recall among the first k."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["recall_at"]


def recall_at(
    image: Tensor, text: Tensor, owner: Tensor | None = None, ks: Sequence[int] = (1, 5, 10), chunk: int = 1024
) -> dict[str, float]:
    """Return the share of queries that have a right answer among the first k (CLIP, section 3.1; COCO's protocol).

    Args:
        image: embeddings (N, D) of unit length.
        text: embeddings (M, D) of unit length.
        owner: (M,) int64, the image that each text describes; by default text i describes image i.
        ks: the numbers of answers that are looked at.
        chunk: queries compared at once, which bounds the memory.

    Returns:
        ``image_to_text_R@k`` and ``text_to_image_R@k``, in [0, 1]. An image with several texts is right if one of them
        is among the first k. Among equal similarities, a wrong answer stands before a right one.

    Raises:
        ValueError: if there are no images or texts, or an owner is no image.
    """
    owner = torch.arange(len(text), device=text.device) if owner is None else owner.to(text.device)
    if (
        not len(image)
        or not len(text)
        or len(owner) != len(text)
        or not 0 <= int(owner.min()) <= int(owner.max()) < len(image)
    ):
        raise ValueError(f"{len(image)} images, {len(text)} texts and {len(owner)} owners don't fit together")
    ranks_of_texts = torch.cat([_ranks_of_owner(part, image, own) for part, own in _parts(text, owner, chunk)])
    numbers = torch.arange(len(image), device=image.device)
    ranks_of_images = torch.cat([_best_ranks(part, text, owner, own) for part, own in _parts(image, numbers, chunk)])
    ranks_of_images = ranks_of_images[torch.isin(numbers, owner)]  # an image without a text asks nothing
    found = {f"image_to_text_R@{k}": float((ranks_of_images < k).float().mean()) for k in ks}
    return found | {f"text_to_image_R@{k}": float((ranks_of_texts < k).float().mean()) for k in ks}


def _parts(queries: Tensor, numbers: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(queries.split(chunk), numbers.split(chunk), strict=True))


def _ranks_of_owner(queries: Tensor, image: Tensor, owner: Tensor) -> Tensor:
    """How many images stand before the right one, for each text (B, D): (B,)."""
    similar = queries @ image.T  # (B, N)
    right = similar.gather(1, owner[:, None])
    return (similar >= right).sum(1) - 1


def _best_ranks(queries: Tensor, text: Tensor, owner: Tensor, numbers: Tensor) -> Tensor:
    """How many wrong texts stand before the best of the right ones, for each image (B, D): (B,)."""
    similar = queries @ text.T  # (B, M)
    right = owner[None] == numbers[:, None]
    best = similar.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((similar >= best) & ~right).sum(1)
