"""How alike two sets of pictures are, by their features: FID, KID, precision and recall.

All functions take features (N, D) of real and (M, D) of generated pictures, and compute in float64 on the processor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import InputError

__all__ = ["Kernel", "frechet_distance", "kernel_distance", "precision_recall"]


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """The Fréchet distance of the two Gaussians with the features' means and covariances: FID (arXiv:1706.08500).

    |m - n|^2 + tr(C + D - 2 (C D)^(1/2)), where the trace of the root is the sum of the singular values of A B for
    C = A A^T and D = B^T B: no root of a matrix that isn't symmetric, nothing to add to one that has none.

    Raises:
        InputError: if a set has fewer than two rows, or the widths differ.
    """
    x, y = _checked(real, made)
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    left, right = _centred(x), _centred(y)  # covariances are left.T @ left and right.T @ right
    cross = torch.linalg.svdvals(_triangle(left) @ _triangle(right).mT).sum()
    return max(0.0, float(mean + (left**2).sum() + (right**2).sum() - 2 * cross))


@dataclass(frozen=True)
class Kernel:
    """A polynomial kernel, (gamma x.y + coef)^degree, with gamma = 1 / D: that of KID by default."""

    degree: int = 3
    coef: float = 1.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Map (N, D) and (M, D) to (N, M)."""
        return (x @ y.mT / x.shape[1] + self.coef) ** self.degree


def kernel_distance(real: Tensor, made: Tensor, kernel: Kernel = Kernel()) -> float:
    """The unbiased square of the maximum mean discrepancy: KID (arXiv:1801.01401).

    Of all rows at once, where the paper averages over small random subsets: the same expectation, and nothing drawn.
    Its expectation is zero for two sets of one distribution, so it may be a little negative.

    Raises:
        InputError: if a set has fewer than two rows, or the widths differ.
    """
    x, y = _checked(real, made)

    def within(z: Tensor) -> Tensor:
        of = kernel(z, z)
        return (of.sum() - of.diagonal().sum()) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def precision_recall(real: Tensor, made: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (arXiv:1904.06991).

    Precision is the share of generated pictures that lie within the real ones' manifold, recall the reverse. The
    manifold of a set is the union of balls around its points, each as large as the distance to its k-th neighbour.

    Raises:
        InputError: if a set has no ``neighbours`` others, or the widths differ.
    """
    x, y = _checked(real, made, neighbours + 1)
    between = torch.cdist(x, y)  # (N, M)

    def radius(z: Tensor) -> Tensor:
        # the nearest of all is the point itself
        return torch.cdist(z, z).kthvalue(neighbours + 1, 1).values

    precision = (between <= radius(x)[:, None]).any(0)
    recall = (between <= radius(y)[None, :]).any(1)
    return float(precision.double().mean()), float(recall.double().mean())


def _checked(real: Tensor, made: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise InputError(f"features {tuple(real.shape)} and {tuple(made.shape)}: expected (N, D) and (M, D)")
    if min(len(real), len(made)) < least:
        raise InputError(f"features of {len(real)} and {len(made)} pictures: expected at least {least} of each")
    return real.detach().double().cpu(), made.detach().double().cpu()


def _centred(x: Tensor) -> Tensor:
    """(N, D) whose product with itself is the unbiased covariance."""
    return (x - x.mean(0)) / (len(x) - 1) ** 0.5


def _triangle(x: Tensor) -> Tensor:
    """(min(N, D), D) with the same product with itself: the cross term needs no more of x."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x
