"""Whether features still tell their inputs apart: spectra, spreads and entropies, cheap enough for now and then."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["assignment_entropies", "effective_rank", "rank_me", "spread", "trouble"]

LEAST_SPREAD = 0.01
LEAST_RANK = 1.5


@torch.no_grad()
def rank_me(features: Tensor, eps: float = 1e-7) -> float:
    """Return the exponential of the entropy of the singular values of features (N, D): 1 .. min(N, D).

    RankMe (arXiv:2210.02885, equation 1): the features are not centred.
    """
    return _entropic_rank(torch.linalg.svdvals(features.double()), eps)


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """Return how many directions the centred features (N, D) vary along: 1 .. min(N - 1, D), 0 if they don't.

    The exponential of the entropy of the covariance's eigenvalues (Roy and Vetterli, EUSIPCO 2007).
    """
    x = features.double()
    return _entropic_rank(torch.linalg.svdvals(x - x.mean(0)).square(), 0.0)


@torch.no_grad()
def spread(features: Tensor) -> float:
    """Return sqrt(D) times the mean over channels of the standard deviation of the normalised features (N, D).

    About 1 where they point everywhere, 0 where they are all the same (SimSiam, arXiv:2011.10566, section 4.1).
    """
    x = F.normalize(features.double(), dim=1)
    return float(x.std(0, correction=0).mean()) * math.sqrt(x.shape[1])


@torch.no_grad()
def assignment_entropies(probabilities: Tensor) -> tuple[float, float]:
    """Return the entropy of the mean of probabilities (N, K), and the mean of their entropies, as shares of log K.

    The first near 0: one prototype takes everything. The second near 1: nothing is assigned anywhere.
    """
    p = probabilities.double()
    scale = math.log(p.shape[1])
    return float(torch.special.entr(p.mean(0)).sum()) / scale, float(torch.special.entr(p).sum(1).mean()) / scale


def trouble(features: Tensor) -> str | None:
    """Say what is wrong with features (N, D), in one line; None if nothing is.

    Not finite; or collapsed: a ``spread`` below 0.01, or an ``effective_rank`` below 1.5.
    """
    bad = int((~torch.isfinite(features)).any(1).sum())
    if bad:
        return f"{bad} of {len(features)} features are not finite (NaN or infinite)"
    if len(features) < 2:
        return None
    wide, rank = spread(features), effective_rank(features)
    if wide < LEAST_SPREAD:
        return f"the features have collapsed: all but the same for every input (spread {wide:.1e}, healthy about 1)"
    if rank < LEAST_RANK:
        return f"the features have collapsed onto a line (effective rank {rank:.2f} of {features.shape[1]})"
    return None


def _entropic_rank(values: Tensor, eps: float) -> float:
    total = values.sum()
    if not total > 0:
        return 0.0
    p = values / total + eps
    return float(torch.special.entr(p).sum().exp())
