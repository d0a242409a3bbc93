"""Solvers of flows on normal data, whose flow has a closed form: they converge as fast as they say."""

import math
from itertools import pairwise

import pytest
import torch

from core.errors import InputError
from diffusion.process import GVP, Flow
from diffusion.solvers import Euler, EulerMaruyama, Heun

MEAN, STD = 0.7, 0.4
FLOWS = [Flow(), Flow(GVP()), Flow(towards="noise", scale=1000.0), Flow(GVP(), shift=3.0)]
NAMES = ["sit", "sit-gvp", "sd3", "gvp-shifted"]


def perfect(flow: Flow):
    """The velocity that is expected at x for data from N(MEAN, STD ** 2)."""

    def ask(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, sigma = flow.levels(t)
        clean = MEAN + signal * STD**2 / (signal**2 * STD**2 + sigma**2) * (x - signal * MEAN)
        epsilon = sigma / (signal**2 * STD**2 + sigma**2) * (x - signal * MEAN)
        return flow.velocity(clean, epsilon, t)

    return ask


def normal(rows: int) -> torch.Tensor:
    return torch.randn(rows, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def order(errors: list[float]) -> list[float]:
    return [math.log2(first / second) for first, second in pairwise(errors)]


@pytest.mark.parametrize(("solver", "expected"), [(Euler, 1), (Heun, 2)])
@pytest.mark.parametrize("flow", FLOWS, ids=NAMES)
def test_ways_converge_at_their_order(flow: Flow, solver, expected: int) -> None:
    noise = normal(50)
    exact = MEAN + STD * noise  # the flow keeps quantiles
    errors = []
    for steps in (40, 80, 160):
        *_, state = solver(flow, steps)(perfect(flow), noise, lambda: pytest.fail("nothing is random"))
        errors.append(float((state.x - exact).abs().max()))
        assert state.t == flow.end
    for measured in order(errors):
        assert abs(measured - expected) < 0.15, (errors, order(errors))


def linear_response(solver) -> tuple[float, float]:
    """Mean and variance of what comes of standard noise, by a solver all of whose steps are linear in x and noise."""
    rows, calls = solver.count + 1, iter(range(1, solver.count + 1))
    x = torch.zeros(rows, 1, 1, 1, dtype=torch.float64)
    x[solver.count] = 1  # row 0: neither; last row: of x; others: of the noise of one step

    def noise() -> torch.Tensor:
        drawn = torch.zeros_like(x)
        drawn[next(calls)] = 1
        return drawn

    *_, state = solver(perfect(solver.process), x, noise)
    base, others = state.x[0], state.x[1:]
    return float(base), float((others - base).square().sum())


@pytest.mark.parametrize("flow", FLOWS, ids=NAMES)
def test_the_stochastic_way_converges_in_distribution(flow: Flow) -> None:
    means, variances = [], []
    for steps in (100, 200, 400):
        mean, variance = linear_response(EulerMaruyama(flow, steps, last=1 / steps))
        means.append(abs(mean - MEAN))
        variances.append(abs(variance - STD**2))
    assert means[-1] < 0.005
    assert variances[-1] < 0.005
    for measured in order(variances):
        assert measured > 0.8, (variances, order(variances))


def test_without_churn_it_is_eulers() -> None:
    flow, noise = Flow(), normal(4)
    euler = Euler(flow, 25)
    maruyama = EulerMaruyama(flow, 25, last=0.04, churn=0)
    torch.testing.assert_close(torch.tensor(maruyama.marks), torch.tensor(euler.marks))
    *_, first = euler(perfect(flow), noise, torch.Tensor)
    *_, second = maruyama(perfect(flow), noise, lambda: torch.zeros_like(noise))
    torch.testing.assert_close(first.x, second.x)


def test_the_last_step_begins_where_it_is_told() -> None:
    for flow in FLOWS:
        solver = EulerMaruyama(flow, 10, last=0.05)
        level = flow.level(torch.tensor(solver.marks[-2], dtype=torch.float64))
        assert float(level) == pytest.approx(0.05)


@pytest.mark.parametrize("flow", FLOWS, ids=NAMES)
@pytest.mark.parametrize("solver", [Euler, Heun])
def test_models_are_asked_at_the_times_that_are_told(flow: Flow, solver) -> None:
    asked: list[float] = []

    def ask(x, t):
        asked.append(float(t))
        return perfect(flow)(x, t)

    made = solver(flow, 7)
    list(made(ask, normal(2), torch.Tensor))
    assert list(dict.fromkeys(asked)) == made.times.tolist()
    assert len(asked) == (7 if solver is Euler else 13)
    levels = flow.level(made.times)
    assert float(levels[0]) == 1
    assert (levels.diff() < 0).all()


def test_the_way_from_the_middle() -> None:
    for flow in FLOWS:
        solver, noise = Heun(flow, 200), normal(6)
        number = solver.start(0.5)
        x0 = torch.full_like(noise, MEAN + STD)
        x = solver.noised(x0, noise, number)
        *_, state = solver(perfect(flow), x, torch.Tensor, start=number)
        signal, sigma = flow.levels(torch.tensor(solver.marks[number], dtype=torch.float64))
        quantile = (x - signal * MEAN) / (signal**2 * STD**2 + sigma**2).sqrt()
        torch.testing.assert_close(state.x, MEAN + STD * quantile, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Euler(Flow(), 0), "0 steps"),
        (lambda: EulerMaruyama(Flow(), 1), "1 step"),
        (lambda: EulerMaruyama(Flow(), 5, last=0), "last 0"),
        (lambda: EulerMaruyama(Flow(), 5, churn=-1), "churn -1"),
    ],
)
def test_bad_settings_are_named(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
