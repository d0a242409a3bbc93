"""A mixture of experts: each token goes through the few feed-forward branches that a router picks for it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import Ctx, Tokens
from .feedforward import SwiGLU

__all__ = ["MixtureOfExperts"]


class MixtureOfExperts(nn.Module):
    """The ``active`` best of several SwiGLU experts, weighted by the router's probability (Mixtral, arXiv:2401.04088).

    While gradients are kept it writes two losses into ``ctx.notes``, means over the tokens that are no padding:
    ``"balance"``, experts * sum_e share_e * probability_e (Switch, arXiv:2101.03961, eq. 4, where the shares sum to
    ``active`` here), and ``"z"``, the squared logsumexp of the router's logits (ST-MoE, arXiv:2202.08906, eq. 5).

    Tokens are sorted by expert, so that each expert multiplies its own only; ``torch.compile`` sees the dense sum over
    all experts instead, whose shapes don't depend on the data.

    Args:
        dim: width of the activations.
        hidden: width inside each expert.
        experts: how many there are.
        active: how many a token goes through.
        normalise: whether the weights of the chosen experts sum to 1 (Mixtral; Qwen3's models say which).

    Raises:
        ValueError: if more experts should be active than there are.
    """

    def __init__(self, dim: int, hidden: int, experts: int, active: int, *, normalise: bool = True) -> None:
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"{active} of {experts} experts can't be active: expected 1 to {experts}")
        self.router = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(dim, hidden) for _ in range(experts))
        self.active = active
        self.normalise = normalise

    def forward(self, x: Tensor, ctx: Ctx = Ctx()) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        logits = self.router(x).to(torch.promote_types(x.dtype, torch.float32))  # (..., experts)
        probability = logits.softmax(-1)
        weight, chosen = probability.topk(self.active, -1)
        if self.normalise:
            weight = weight / weight.sum(-1, keepdim=True)
        if ctx.notes is not None and torch.is_grad_enabled():
            ctx.notes["balance"], ctx.notes["z"] = _losses(logits, probability, chosen, ctx.tokens)
        weight = weight.to(x.dtype)
        if torch.compiler.is_compiling():
            return self._dense(x, weight, chosen)
        flat = self._sorted(x.flatten(0, -2), weight.flatten(0, -2), chosen.flatten(0, -2))
        return flat.view_as(x)

    def _sorted(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        """Of tokens (n, dim), with weights and numbers of their experts (n, active)."""
        order = chosen.flatten().argsort(stable=True)  # (n * active,): by expert
        token = order // self.active
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        parts = [
            # an expert without tokens still gets its gradient, zeros: data-parallel training waits for all of them
            expert(part) if count or torch.is_grad_enabled() else part
            for expert, part, count in zip(self.experts, x[token].split(counts), counts, strict=True)
        ]
        y = torch.cat(parts) * weight.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, token, y)

    def _dense(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        gate = weight.new_zeros(*x.shape[:-1], len(self.experts)).scatter(-1, chosen, weight)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            y = y + gate[..., number, None] * expert(x)
        return y


def _losses(logits: Tensor, probability: Tensor, chosen: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Return the loss of balance and the z-loss."""
    count = logits.shape[-1]
    taken = F.one_hot(chosen, count).sum(-2).to(logits.dtype)  # (..., experts)
    z = logits.logsumexp(-1) ** 2
    if tokens.index is None or logits.ndim != 3:
        axes = tuple(range(logits.ndim - 1))
        return count * (taken.mean(axes) * probability.mean(axes)).sum(), z.mean()
    real = (tokens.index >= 0).expand(z.shape).to(logits.dtype)
    total = real.sum().clamp(min=1)
    share = (taken * real[..., None]).sum((0, 1)) / total
    mean = (probability * real[..., None]).sum((0, 1)) / total
    return count * (share * mean).sum(), (z * real).sum() / total
