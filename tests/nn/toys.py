"""Small blocks that the tests of several files share."""

import torch
from torch import Tensor, nn

from core.nn import (
    Block,
    Causal,
    Ctx,
    LayerNorm,
    Memory,
    Mlp,
    Residual,
    RMSNorm,
    Rope,
    Stack,
    attention,
    cross_attention,
    direct,
    rope_frequencies,
)

DIM, HEADS, HEAD, MEMORY = 32, 4, 8, 20


class MoE(nn.Module):
    """The ``k`` best of several experts for each token, with Switch's loss of balance (arXiv:2101.03961, eq. 4)."""

    def __init__(self, dim: int, hidden: int, experts: int, k: int) -> None:
        super().__init__()
        self.router = nn.Linear(dim, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, dim, hidden) * dim**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, dim) * hidden**-0.5)
        self.k = k

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        probability = self.router(x).softmax(-1)  # (B, L, experts)
        best, chosen = probability.topk(self.k, -1)
        gate = torch.zeros_like(probability).scatter(-1, chosen, best / best.sum(-1, keepdim=True))
        share = (gate > 0).to(x.dtype).mean((0, 1))
        ctx.notes["aux"] = gate.shape[-1] * (share * probability.mean((0, 1))).sum()
        hidden = torch.einsum("bld,edh->bleh", x, self.up).relu()
        return torch.einsum("bleh,ehd,ble->bld", hidden, self.down, gate)


def decoder(depth: int = 2, *, kv_heads: int = 2, moe: bool = False, run=direct) -> Stack:
    """Causal grouped-query attention with rotary positions and q/k norm, cross-attention, feed-forward."""

    def block() -> Block:
        turn = Rope(rope_frequencies(HEAD))
        mine = attention(DIM, HEADS, kv_heads=kv_heads, norm=RMSNorm, turn=turn, mask=Causal())
        return Block(
            attn=Residual(LayerNorm(DIM), mine),
            cross=Residual(LayerNorm(DIM), cross_attention(DIM, HEADS, memory_dim=MEMORY)),
            mlp=Residual(LayerNorm(DIM), MoE(DIM, 24, 4, 2) if moe else Mlp(DIM)),
        )

    return Stack((block() for _ in range(depth)), run=run)


def memory(rows: int, length: int = 5) -> Memory:
    """Something to look at from cross-attention."""
    return Memory(torch.randn(rows, length, MEMORY))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter, by name; a parameter without one is an error."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient reached {name}"
        found[name] = parameter.grad
    return found


def balance(notes: dict) -> Tensor:
    """The sum of the experts' losses of balance over all blocks."""
    return torch.stack([found["mlp"]["aux"] for found in notes.values()]).sum()
