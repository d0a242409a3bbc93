"""What modulates the blocks, for many steps at once.

Shifts, scales and gates depend on the time and the class, not on the picture. A third of a DiT's weights makes them,
for a few rows in every step; made for all steps of a run together, these weights are read once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import AdaptiveNorm, Ctx, Modulated, Modulation
from diffusion.condition import Condition, Labels
from diffusion.dit import DiT

__all__ = ["Gated", "Given", "GivenNorm", "Modulations"]

ROOM = 2**28  # bytes of modulations that are kept at once


class Given(nn.Module):
    """A norm whose shift, scale and gate are in the conditioning already: what :class:`core.nn.Modulation` computes.

    Args:
        norm: without parameters.
        first: number of its shift among all vectors that modulate; 1 + scale and the gate follow.
    """

    def __init__(self, norm: nn.Module, first: int) -> None:
        super().__init__()
        self.norm = norm
        self.first = first

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Return the modulated x (B, L, dim) and the gate (B, 1, dim) for cond (vectors, B, 1, dim)."""
        shift, scale, gate = cond[self.first : self.first + 3]
        return torch.addcmul(shift, self.norm(x), scale), gate


class GivenNorm(nn.Module):
    """As :class:`Given` without a gate: what :class:`core.nn.AdaptiveNorm` computes."""

    def __init__(self, norm: nn.Module, first: int) -> None:
        super().__init__()
        self.norm = norm
        self.first = first

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return the modulated x (B, L, dim) for cond (vectors, B, 1, dim)."""
        shift, scale = cond[self.first : self.first + 2]
        return torch.addcmul(shift, self.norm(x), scale)


class Gated(nn.Module):
    """:class:`core.nn.Modulated` in one pass over the result; x is overwritten."""

    def __init__(self, branch: Modulated) -> None:
        super().__init__()
        self.modulation = branch.modulation
        self.fn = branch.fn

    def forward(self, x: Tensor, ctx: Ctx) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        y, gate = self.modulation(x, ctx.cond)
        return x.addcmul_(gate, self.fn(y, ctx))


class Modulations(nn.Module):
    """All vectors that modulate a DiT.

    It takes their layers out of the model, which is changed: there norms are given what they need.

    Args:
        model: float32.
    """

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.timestep, self.label = model.timestep, model.label
        self.conditioning = model.conditioning
        layers: list[nn.Linear] = []
        ones: list[float] = []
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Modulation):
                    setattr(parent, name, Given(child.norm, len(ones)))
                    ones += [0.0, 1.0, 0.0]
                elif isinstance(child, AdaptiveNorm):
                    setattr(parent, name, GivenNorm(child.norm, len(ones)))
                    ones += [0.0, 1.0]
                else:
                    continue
                layers.append(child.proj)
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", torch.cat([layer.weight.detach() for layer in layers]))
        biases = torch.cat([layer.bias.detach() for layer in layers]).unflatten(0, (len(ones), -1))
        self.register_buffer("bias", (biases + torch.tensor(ones, device=biases.device)[:, None]).flatten())
        self.count = len(ones)
        self._times: list[float] = []
        self._classes = torch.empty(0, dtype=torch.long)
        self._made: dict[float, Tensor] = {}

    def prepare(self, times: Tensor, condition: Condition) -> None:
        """Announce a run: its times (S,) in their order, and a condition with all classes that will be asked for."""
        self._times = times.float().tolist()
        self._made = {}
        self._classes = _classes(condition, 1, self.bias.device).unique()

    def forward(self, t: Tensor, condition: Condition) -> Tensor:
        """Return the vectors (vectors, B, 1, dim), with scales as 1 + scale, for times t (B,) and a condition."""
        time = float(t[0])
        if bool((t == time).all()) and (time in self._made or self._make(time)):
            asked = _classes(condition, len(t), t.device)
            places = torch.searchsorted(self._classes, asked).clamp(max=len(self._classes) - 1)
            if bool((self._classes[places] == asked).all()):
                return self._made[time].index_select(1, places)
        return self._vectors(t, condition)

    def _make(self, time: float) -> bool:
        """Make the vectors of a time, and of as many that follow as there is room for, if it was announced."""
        if time not in self._times:
            return False
        count = len(self._classes)
        first = self._times.index(time)
        some = self._times[first : first + max(1, ROOM // (self.bias.numel() * 4 * count))]
        times = torch.tensor(some, device=self.bias.device).repeat_interleave(count)
        found = self._vectors(times, None if self.label is None else Labels(self._classes.repeat(len(some))))
        self._made = dict(zip(some, found.unflatten(1, (len(some), count)).unbind(1), strict=True))
        return True

    def _vectors(self, t: Tensor, condition: Condition) -> Tensor:
        cond = self.conditioning(t, condition)
        vectors = F.linear(F.silu(cond), self.weight, self.bias)
        return vectors.unflatten(1, (self.count, 1, -1)).transpose(0, 1)  # (B, vectors, 1, D) -> (vectors, B, 1, D)


def _classes(condition: Condition, rows: int, device: torch.device) -> Tensor:
    """The class of each row; where nothing is told, all are of one."""
    return condition.index if isinstance(condition, Labels) else torch.zeros(rows, dtype=torch.long, device=device)
