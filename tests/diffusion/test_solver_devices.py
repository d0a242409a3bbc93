"""Numbers of a step may lie on the processor, tensors only where x is: shown on PyTorch's device without data."""

import pytest
import torch

from diffusion.process import GVP, Flow, Gaussian, LogitNormal, MinSNR
from diffusion.solvers import DDIM, DDPM, Euler, EulerMaruyama, Heun

META = torch.device("meta")
PROCESSES = [
    Gaussian(100, variance="large", weighting=MinSNR()),
    Gaussian(100, "cosine", "v"),
    Gaussian(100, predicts="x0", variance="learned"),
    Flow(GVP(), LogitNormal(), shift=2.0),
]
SOLVERS = [
    DDPM(Gaussian(100, variance="learned"), 4, clip=1.0),
    DDPM(Gaussian(100, variance="large"), 4),
    DDIM(Gaussian(100, "cosine", "v"), 4, eta=0.5, clip=1.0),
    Euler(Flow(), 4),
    Heun(Flow(GVP()), 4),
    EulerMaruyama(Flow(towards="noise", scale=1000.0), 4),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_solvers_stay_on_the_device(solver) -> None:
    channels = 2 if getattr(solver.process, "variance", None) == "learned" else 1

    def ask(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert x.device == t.device == META
        return torch.cat([x * t] * channels, 1).bfloat16()

    x = torch.zeros(2, 3, 4, 4, device=META)
    for state in solver(ask, solver.noised(x, x, 1), lambda: torch.zeros_like(x), start=1):
        assert state.x.device == state.clean.device == META
        assert state.x.dtype == state.clean.dtype == torch.float32  # whatever the model computes in


@pytest.mark.parametrize("process", PROCESSES)
def test_losses_stay_on_the_device(process) -> None:
    x0 = torch.zeros(2, 3, 4, 4, device=META)
    t = process.times(torch.zeros(2, device=META))
    x_t = process.noised(x0, x0, t)
    learned = getattr(process, "variance", None) == "learned"
    loss, parts = process.loss(torch.cat([x_t, x_t], 1) if learned else x_t, x0, x_t, x0, t)
    for part in (loss, *parts.values()):
        assert part.device == META
        assert part.shape == (2,)
        assert part.dtype == torch.float32
    if isinstance(process, Gaussian):
        assert process.prior_bits(x0).shape == (2,)
