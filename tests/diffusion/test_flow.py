"""Flows: positions, velocities and times against the papers' formulas; both families' clocks are one flow."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from core.errors import InputError
from diffusion.process import GVP, Flow, Linear, LogitNormal, Uniform

FLOWS = [
    Flow(),
    Flow(GVP()),
    Flow(towards="noise", scale=1000.0),
    Flow(GVP(), towards="noise", shift=3.0),
    Flow(Linear(), LogitNormal(0.5, 1.2), shift=2.0),
]
NAMES = ["sit", "sit-gvp", "sd3", "gvp-noise", "shifted"]


def pair(rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(rows, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return x0, noise


@pytest.mark.parametrize("flow", FLOWS, ids=NAMES)
def test_the_velocity_is_the_derivative_of_the_position(flow: Flow) -> None:
    x0, noise = pair()
    t = flow.times(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])).double()
    step = 1e-5 * flow.scale  # the velocity is that of a way of length 1
    change = (flow.noised(x0, noise, t + step) - flow.noised(x0, noise, t - step)) / 2e-5
    velocity, x_t = flow.velocity(x0, noise, t), flow.noised(x0, noise, t)
    torch.testing.assert_close(velocity, change, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(flow.clean(velocity, x_t, t), x0)
    torch.testing.assert_close(flow.noise(velocity, x_t, t), noise)
    output = velocity + torch.arange(5).reshape(5, 1, 1, 1)
    loss, parts = flow.loss(output, x0, x_t, noise, t)
    torch.testing.assert_close(loss, torch.arange(5).double().square())
    assert torch.equal(loss, parts["mse"])


def test_positions_are_the_papers() -> None:
    x0, noise = pair()
    t = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    at = t.reshape(5, 1, 1, 1)
    # SiT, table 1: t = 0 is noise
    torch.testing.assert_close(Flow().noised(x0, noise, t), at * x0 + (1 - at) * noise)
    torch.testing.assert_close(Flow().velocity(x0, noise, t), x0 - noise)
    angle = at * math.pi / 2
    torch.testing.assert_close(Flow(GVP()).noised(x0, noise, t), angle.sin() * x0 + angle.cos() * noise)
    expected = (math.pi / 2) * (angle.cos() * x0 - angle.sin() * noise)
    torch.testing.assert_close(Flow(GVP()).velocity(x0, noise, t), expected)
    # SD3, equation 13: t = 1000 is noise
    sd3 = Flow(towards="noise", scale=1000.0)
    torch.testing.assert_close(sd3.noised(x0, noise, 1000 * t), (1 - at) * x0 + at * noise)
    torch.testing.assert_close(sd3.velocity(x0, noise, 1000 * t), noise - x0)


@pytest.mark.parametrize("flow", FLOWS, ids=NAMES)
def test_both_ends(flow: Flow) -> None:
    x0, noise = pair()
    torch.testing.assert_close(flow.noised(x0, noise, flow.end), x0)
    beginning = float(flow.at(torch.tensor(1.0)))
    torch.testing.assert_close(flow.noised(x0, noise, beginning), noise)
    assert float(flow.level(torch.tensor(flow.end))) == 0
    assert float(flow.level(torch.tensor(beginning))) == 1


def test_times_are_drawn_as_the_paper_says() -> None:
    draws = torch.arange(0.0005, 1, 0.001, dtype=torch.float64)
    assert torch.equal(Flow(sampled=Uniform()).times(draws), 1 - draws)
    flow = Flow(sampled=LogitNormal(0.5, 1.2), towards="noise")
    levels = flow.times(draws)
    # SD3, equation 19: the density of the logit-normal, here its distribution function
    np.testing.assert_allclose(norm.cdf((torch.logit(levels) - 0.5) / 1.2), draws, rtol=1e-9)
    assert Flow(sampled=LogitNormal()).times(torch.tensor([0.0])).tolist() == [1.0]


def test_the_shift_is_the_papers() -> None:
    s = torch.linspace(0, 1, 11, dtype=torch.float64)
    flow = Flow(shift=3.0, towards="noise")
    torch.testing.assert_close(flow.times(s), 3 * s / (1 + 2 * s))  # SD3, equation 23
    # which keeps, for a picture of a constant, how much is known of it when it has 3 ** 2 times as many pixels
    known = (flow.times(s[1:-1]) / (1 - flow.times(s[1:-1]))) / 3
    torch.testing.assert_close(known, s[1:-1] / (1 - s[1:-1]))


def test_float32_times_stay_inside() -> None:
    for flow in FLOWS:
        t = flow.times(torch.tensor([0.0, 1e-7, 0.5, 1 - 1e-7]))
        level = flow.level(t)
        assert ((level >= 0) & (level <= 1)).all()
        assert torch.isfinite(t).all()


@pytest.mark.parametrize(("settings", "said"), [({"shift": 0}, "shift"), ({"towards": "east"}, "east")])
def test_bad_settings_are_named(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Flow(**settings)
