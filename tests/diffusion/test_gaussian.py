"""Gaussian processes against the formulas of the papers, written out in float64."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.stats import norm

from core.errors import InputError
from diffusion.process import Gaussian, MinSNR, betas

STEPS = 50
SHAPE = (6, 3, 4, 4)
TIMES = torch.tensor([0.0, 1.0, 2.0, 17.0, 30.0, 49.0])


def data(seed: int) -> torch.Tensor:
    """Pixels in [-1, 1], the ends among them."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 256, SHAPE, generator=generator) / 127.5 - 1).double()


def normal(seed: int, channels: int = 3) -> torch.Tensor:
    shape = (SHAPE[0], channels, *SHAPE[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Paper:
    """Ho et al. 2020, equations 4 to 8, and Nichol and Dhariwal 2021, equations 9 to 16, for one row at one time."""

    def __init__(self, process: Gaussian) -> None:
        self.beta = process.betas.numpy()
        self.bar = np.cumprod(1 - self.beta)
        self.before = np.append(1.0, self.bar[:-1])
        self.posterior = (1 - self.before) / (1 - self.bar) * self.beta
        self.process = process

    def x_t(self, x0, noise, t):
        return np.sqrt(self.bar[t]) * x0 + np.sqrt(1 - self.bar[t]) * noise

    def mean(self, x0, x, t):
        of_data = np.sqrt(self.before[t]) * self.beta[t] / (1 - self.bar[t])
        of_x = np.sqrt(1 - self.beta[t]) * (1 - self.before[t]) / (1 - self.bar[t])
        return of_data * x0 + of_x * x

    def clean(self, found, x, t):
        a, s = np.sqrt(self.bar[t]), np.sqrt(1 - self.bar[t])
        return {"x0": found, "epsilon": (x - s * found) / a, "v": a * x - s * found}[self.process.predicts]

    def target(self, x0, noise, t):
        a, s = np.sqrt(self.bar[t]), np.sqrt(1 - self.bar[t])
        return {"x0": x0, "epsilon": noise, "v": a * noise - s * x0}[self.process.predicts]

    def log_variance(self, said, t):
        small = np.log(self.posterior[t] if t else self.posterior[1])
        large = np.log(self.beta[t]) if t else small
        if self.process.variance != "learned":
            return {"small": small, "large": large}[self.process.variance]
        share = (said + 1) / 2
        return share * np.log(self.beta[t]) + (1 - share) * small

    def bits(self, output, x0, x, t):
        found, said = output[:3], output[3:]
        mean, log_variance = self.mean(self.clean(found, x, t), x, t), self.log_variance(said, t)
        if t:
            true, variance = self.mean(x0, x, t), self.posterior[t]
            nats = 0.5 * (log_variance - np.log(variance) - 1 + (variance + (true - mean) ** 2) / np.exp(log_variance))
            return nats.mean() / math.log(2)
        std = np.exp(0.5 * log_variance)
        upper, lower = norm.cdf((x0 + 1 / 255 - mean) / std), norm.cdf((x0 - 1 / 255 - mean) / std)
        upper, lower = np.where(x0 > 0.999, 1, upper), np.where(x0 < -0.999, 0, lower)
        return -np.log2(np.maximum(upper - lower, 1e-12)).mean()


PROCESSES = [
    Gaussian(STEPS, schedule, predicts, variance)
    for schedule in ("linear", "cosine")
    for predicts in ("epsilon", "x0", "v")
    for variance in ("small", "large", "learned")
]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.schedule}-{p.predicts}-{p.variance}")
def test_losses_and_bound_are_the_papers(process: Gaussian) -> None:
    x0, noise = data(0), normal(1)
    output = normal(2, 6 if process.variance == "learned" else 3)
    output[:, 3:] = output[:, 3:].tanh()
    paper = Paper(process)
    x_t = process.noised(x0, noise, TIMES)
    loss, parts = process.loss(output, x0, x_t, noise, TIMES)
    bits, clean, epsilon = process.bits(output, x0, x_t, TIMES), process.clean(output, x_t, TIMES), noise
    for row, t in enumerate(TIMES.int().tolist()):
        one = [tensor[row].numpy() for tensor in (output, x0, x_t, noise)]
        np.testing.assert_allclose(one[2], paper.x_t(one[1], one[3], t), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(clean[row], paper.clean(one[0][:3], one[2], t), rtol=1e-9, atol=1e-12)
        mse = ((one[0][:3] - paper.target(one[1], one[3], t)) ** 2).mean()
        vlb = paper.bits(one[0], one[1], one[2], t)
        np.testing.assert_allclose(bits[row], vlb, rtol=1e-8)
        np.testing.assert_allclose(parts["mse"][row], mse, rtol=1e-10)
        hybrid = mse + (STEPS / 1000 * vlb if process.variance == "learned" else 0)
        np.testing.assert_allclose(loss[row], hybrid, rtol=1e-8)
    # and the answer that is right about the data is right about the noise
    right = process.target(x0, epsilon, TIMES)
    right = torch.cat([right, torch.zeros_like(right)], 1) if process.variance == "learned" else right
    torch.testing.assert_close(process.noise(right, x_t, TIMES), noise, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(process.clean(right, x_t, TIMES), x0, rtol=1e-6, atol=1e-8)


def test_the_whole_bound_is_the_papers() -> None:
    process = Gaussian(STEPS, variance="learned")
    paper, x0, noise, output = Paper(process), data(3), normal(4), normal(5, 6)
    total = process.prior_bits(x0)
    signal, sigma = paper.bar[-1] ** 0.5, (1 - paper.bar[-1]) ** 0.5
    prior = 0.5 * (sigma**2 + (signal * x0.numpy()) ** 2 - 1 - np.log(sigma**2))
    expected = prior.mean((1, 2, 3)) / math.log(2)
    for t in range(STEPS):
        times = torch.full((len(x0),), float(t))
        x_t = process.noised(x0, noise, times)
        total = total + process.bits(output, x0, x_t, times)
        expected += [paper.bits(*(z[row].numpy() for z in (output, x0, x_t)), t) for row in range(len(x0))]
    np.testing.assert_allclose(total, expected, rtol=1e-9)


def test_float32_is_near_float64() -> None:
    process = Gaussian(1000, variance="learned")
    x0, noise, output = data(0), normal(1), normal(2, 6)
    t = torch.tensor([0.0, 1.0, 10.0, 500.0, 900.0, 999.0])
    x_t = process.noised(x0, noise, t)
    exact, _ = process.loss(output, x0, x_t, noise, t)
    single, _ = process.loss(*(z.float() for z in (output, x0, x_t, noise)), t)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=2e-4, atol=1e-5)


def test_the_bound_trains_the_variance_alone() -> None:
    process = Gaussian(STEPS, variance="learned")
    x0, noise = data(0), normal(1)
    output = normal(2, 6).requires_grad_()
    x_t = process.noised(x0, noise, TIMES)
    loss, parts = process.loss(output, x0, x_t, noise, TIMES)
    (whole,) = torch.autograd.grad(loss.sum(), output, retain_graph=True)
    (squared,) = torch.autograd.grad(parts["mse"].sum(), output)
    torch.testing.assert_close(whole[:, :3], squared[:, :3])
    assert (squared[:, 3:] == 0).all()
    assert (whole[1:, 3:] != 0).all()


@pytest.mark.parametrize("predicts", ["epsilon", "x0", "v"])
def test_min_snr_weighs_the_error_of_clean_data(predicts: str) -> None:
    plain, weighed = Gaussian(STEPS, predicts=predicts), Gaussian(STEPS, predicts=predicts, weighting=MinSNR(2.0))
    x0, noise, output = data(0), normal(1), normal(2)
    x_t = plain.noised(x0, noise, TIMES)
    bar = torch.from_numpy(Paper(plain).bar)[TIMES.long()]
    of_data = (plain.clean(output, x_t, TIMES) - x0).square().mean((1, 2, 3))
    # whatever a model predicts, min(SNR, gamma) is the weight of the error of x0
    expected = (bar / (1 - bar)).clamp(max=2.0) * of_data
    torch.testing.assert_close(weighed.loss(output, x0, x_t, noise, TIMES)[0], expected, rtol=1e-8, atol=1e-10)


def test_schedules_are_diffusers() -> None:
    for ours, theirs, ends in (
        ("linear", "linear", (1e-4, 0.02)),
        ("cosine", "squaredcos_cap_v2", (1e-4, 0.02)),
        ("scaled_linear", "scaled_linear", (0.00085, 0.012)),
    ):
        scheduler = DDPMScheduler(beta_schedule=theirs, beta_start=ends[0], beta_end=ends[1])
        torch.testing.assert_close(betas(ours, 1000), scheduler.betas.double(), rtol=2e-5, atol=1e-7)


def test_times_are_even_and_whole() -> None:
    process = Gaussian(10)
    draws = torch.arange(1000) / 1000
    assert torch.equal(process.times(draws).long().bincount(), torch.full((10,), 100))
    assert process.times(torch.tensor([0.0, 0.9999999])).tolist() == [0, 9]
    assert process.level(torch.tensor([-1.0, 4.0, 9.0])).tolist() == [0, 0.5, 1]


def test_clean_data_are_the_end() -> None:
    process = Gaussian(10)
    x0 = data(0)
    assert torch.equal(process.noised(x0, normal(1), process.end), x0)


def test_between_two_times_noise_lies_between() -> None:
    process = Gaussian(1000)
    ratio = process.ratio(torch.tensor([500.0, 500.25, 501.0]))
    torch.testing.assert_close(ratio[1], 0.75 * ratio[0] + 0.25 * ratio[2])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 1}, "1 steps"),
        ({"schedule": "exponential"}, "exponential"),
        ({"schedule": [0.1, 0.2], "steps": 3}, "2 variances"),
        ({"schedule": [0.1, 1.2], "steps": 2}, "between 0 and 1"),
        ({"predicts": "score"}, "score"),
        ({"variance": "medium"}, "medium"),
    ],
)
def test_bad_settings_are_named(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Gaussian(**settings)


def test_channels_that_do_not_fit_are_named() -> None:
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(InputError, match="3 channels of output: expected 6"):
        Gaussian(10, variance="learned").split(x, x)
    with pytest.raises(InputError, match="4 channels of output: expected 3 or 6"):
        Gaussian(10).split(torch.zeros(1, 4, 2, 2), x)
    with pytest.raises(InputError, match="gamma"):
        MinSNR(0)
