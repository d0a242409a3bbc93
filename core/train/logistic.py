"""Multinomial logistic regression on cached features: the linear probe that runs during a training."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError

__all__ = ["Logistic", "fit_logistic"]


class Logistic(NamedTuple):
    """A linear classifier of standardised features.

    Attributes:
        weight: (classes, D), of the standardised features.
        bias: (classes,).
        mean, std: (D,) of the training features.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, classes)."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)


def fit_logistic(
    features: Tensor, labels: Tensor, classes: int, penalty: float = 1e-3, iterations: int = 200
) -> Logistic:
    """Minimise mean cross-entropy + penalty / 2 * |weight|^2 by L-BFGS, from zero: nothing is drawn at random.

    Features are standardised by channel; those that don't vary are left at zero. The bias is not penalised. In terms
    of scikit-learn's ``LogisticRegression``, penalty = 1 / (C * N).

    Args:
        features: (N, D).
        labels: (N,) int64.
        classes: number of classes.
        penalty: strength of the L2 penalty.
        iterations: at most so many steps of L-BFGS.

    Raises:
        InputError: if there is nothing to fit, or the penalty is negative.
    """
    if not len(features) or penalty < 0 or iterations < 1:
        raise InputError(f"a probe needs labelled features, penalty {penalty} >= 0 and iterations {iterations} >= 1")
    # within a validation everything is an inference tensor, of which no gradients may be taken
    with torch.inference_mode(False), torch.enable_grad():
        features, labels = features.detach().clone(), labels.clone()
        std, mean = torch.std_mean(features, dim=0, correction=0)
        std = torch.where(std > 1e-6 * (mean.abs() + std), std, torch.ones_like(std))
        x = (features - mean) / std
        weight = x.new_zeros(classes, x.shape[1]).requires_grad_()
        bias = x.new_zeros(classes).requires_grad_()
        search = torch.optim.LBFGS(
            [weight, bias], max_iter=iterations, tolerance_grad=1e-6, history_size=20, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            search.zero_grad()
            value = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty / 2 * weight.square().sum()
            value.backward()
            return value

        search.step(loss)
    return Logistic(weight.detach(), bias.detach(), mean, std)
