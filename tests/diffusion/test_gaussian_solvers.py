"""DDPM and DDIM against diffusers' schedulers, step for step, and against the papers' formulas in float64."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from core.errors import InputError
from diffusion.process import Gaussian
from diffusion.solvers import DDIM, DDPM

SHAPE = (2, 3, 4, 4)
PREDICTS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "scaled_linear": "scaled_linear"}
ENDS = {"linear": (1e-4, 0.02), "cosine": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}


def model(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """Something that bends x, and differs at each time."""
    return (x + 0.3 * float(t) / 1000).sin()


def draws(count: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(count)]


def settings(process: Gaussian, spacing: str, clip: float | None) -> dict:
    start, end = ENDS[process.schedule]
    return {
        "beta_schedule": SCHEDULES[process.schedule],
        "beta_start": start,
        "beta_end": end,
        "prediction_type": PREDICTS[process.predicts],
        "timestep_spacing": spacing,
        "clip_sample": clip is not None,
        "clip_sample_range": clip or 1.0,
    }


def widened(theirs) -> None:
    """Give a scheduler its tables in float64: products of up to 1000 factors in float32 are off by 1e-5 themselves."""
    theirs.betas = theirs.betas.double()
    theirs.alphas = 1 - theirs.betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    theirs.one = torch.tensor(1.0, dtype=torch.float64)


def ddpm_step(monkeypatch, theirs):
    """Their step with noise that is given; none for the last."""

    def step(output, t, x, fresh):
        noise = torch.zeros_like(x) if fresh is None else fresh
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
        return theirs.step(output, t, x, return_dict=False)

    return step


def ddim_step(theirs, eta: float):
    """Where their scheduler clips, with the noise that goes with the clipped data: not its default."""

    def step(output, t, x, fresh):
        noise = torch.zeros_like(x) if fresh is None else fresh
        return theirs.step(
            output,
            t,
            x,
            eta=eta,
            use_clipped_model_output=theirs.config.clip_sample,
            variance_noise=noise,
            return_dict=False,
        )

    return step


def compared(solver, theirs, step, ask, tolerance: float, dtype: torch.dtype, random: bool = True) -> None:
    """From each state of our trajectory, and along theirs from the same noise, what is next is the same."""
    noises = draws(solver.count, dtype)
    mine = iter(noises[1:] if random else [])
    x = along = noises[0]
    assert [int(t) for t in solver.times] == theirs.timesteps.tolist()
    for state in solver(ask, x, lambda: next(mine)):
        t = theirs.timesteps[state.number]
        fresh = noises[state.number + 1] if random and state.number + 1 < solver.count else None
        there, clean = step(ask(x, t), t, x, fresh)
        torch.testing.assert_close(state.x, there, rtol=tolerance, atol=tolerance)
        # at the first times clean data are a difference of numbers that are 157 times larger
        torch.testing.assert_close(state.clean, clean, rtol=100 * tolerance, atol=100 * tolerance)
        along, _ = step(ask(along, t), t, along, fresh)
        torch.testing.assert_close(state.x, along, rtol=3 * tolerance, atol=3 * tolerance)
        x = state.x
    assert next(mine, None) is None  # as many draws as there are steps, but for the last
    assert state.number == solver.count - 1
    assert state.t == solver.process.end


PROCESSES = [("linear", "epsilon"), ("scaled_linear", "v"), ("cosine", "x0")]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(("schedule", "predicts"), PROCESSES)
def test_ddpm_is_diffusers_in_float64(monkeypatch, schedule, predicts, variance, spacing, clip) -> None:
    betas = DDPMScheduler(**settings(Gaussian(1000, schedule), spacing, clip)).betas
    process = Gaussian(1000, betas.tolist(), predicts, variance)
    theirs = DDPMScheduler(
        **settings(Gaussian(1000, schedule, predicts), spacing, clip), variance_type=f"fixed_{variance}"
    )
    theirs.set_timesteps(40)
    widened(theirs)
    solver = DDPM(process, 40, spacing, clip)
    compared(solver, theirs, ddpm_step(monkeypatch, theirs), model, 1e-8, torch.float64)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("schedule", "predicts"), PROCESSES)
def test_ddim_is_diffusers_in_float64(schedule, predicts, eta, spacing, clip) -> None:
    theirs = DDIMScheduler(**settings(Gaussian(1000, schedule, predicts), spacing, clip))
    theirs.set_timesteps(40)
    process = Gaussian(1000, theirs.betas.tolist(), predicts)
    widened(theirs)
    solver = DDIM(process, 40, eta, spacing, clip)
    compared(solver, theirs, ddim_step(theirs, eta), model, 1e-7, torch.float64, random=eta > 0)


def test_all_the_steps_of_training_are_diffusers_in_float64(monkeypatch) -> None:
    theirs = DDPMScheduler(**settings(Gaussian(1000), "leading", 1.0))
    theirs.set_timesteps(1000)
    process = Gaussian(1000, theirs.betas.tolist())
    widened(theirs)
    solver = DDPM(process, 1000, "leading", 1.0)
    compared(solver, theirs, ddpm_step(monkeypatch, theirs), model, 1e-8, torch.float64)


def test_ddpm_is_diffusers_as_it_comes(monkeypatch) -> None:
    process = Gaussian(1000)
    theirs = DDPMScheduler(**settings(process, "leading", 1.0))
    theirs.set_timesteps(50)  # of 1000 steps the last ones' beta is a difference that float32 rounds to 3 digits
    solver = DDPM(process, 50, "leading", 1.0)
    compared(solver, theirs, ddpm_step(monkeypatch, theirs), model, 1e-5, torch.float32)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_is_diffusers_as_it_comes(eta: float) -> None:
    process = Gaussian(1000)
    theirs = DDIMScheduler(**settings(process, "leading", 1.0))
    theirs.set_timesteps(50)
    solver = DDIM(process, 50, eta, "leading", 1.0)
    compared(solver, theirs, ddim_step(theirs, eta), model, 1e-5, torch.float32, random=eta > 0)


def test_learned_variance_is_diffusers(monkeypatch) -> None:
    theirs = DDPMScheduler(**settings(Gaussian(1000), "linspace", None), variance_type="learned_range")
    theirs.set_timesteps(50)
    process = Gaussian(1000, theirs.betas.tolist(), variance="learned")
    widened(theirs)
    compared(DDPM(process, 50), theirs, ddpm_step(monkeypatch, theirs), talkative, 1e-8, torch.float64)


def talkative(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """The same with something to say of the variance."""
    return torch.cat([model(x, t), (x + float(t)).cos()], 1)


@pytest.mark.parametrize("steps", [1, 7, 250, 1000])
def test_learned_variance_is_the_papers(steps: int) -> None:
    """Nichol and Dhariwal 2021, equations 15 and 19, over the steps of section 4, in float64."""
    process = Gaussian(1000, variance="learned")
    solver = DDPM(process, steps)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    taken = sorted({round(number * 999 / max(steps - 1, 1)) for number in range(steps)}) if steps > 1 else [999]
    assert [int(t) for t in solver.times] == taken[::-1]

    noises = draws(steps, torch.float64)
    mine = iter(noises[1:])
    x = noises[0].numpy()
    for state in solver(talkative, noises[0], lambda: next(mine)):
        t = taken[steps - 1 - state.number]
        before = bar[taken[steps - 2 - state.number]] if state.number + 1 < steps else 1.0
        beta = 1 - bar[t] / before
        small = (1 - before) / (1 - bar[t]) * beta
        epsilon, said = (part.double().numpy() for part in talkative(torch.from_numpy(x), float(t)).chunk(2, 1))
        mean = (x - beta / np.sqrt(1 - bar[t]) * epsilon) / np.sqrt(1 - beta)
        if state.number + 1 < steps:
            share = (said + 1) / 2
            log_variance = share * np.log(beta) + (1 - share) * np.log(small)
            x = mean + np.exp(0.5 * log_variance) * noises[state.number + 1].numpy()
        else:
            x = mean
        np.testing.assert_allclose(state.x, x, rtol=1e-9, atol=1e-9)


def test_a_fully_random_ddim_is_ddpm() -> None:
    process, noises = Gaussian(1000), draws(100)
    first, second = iter(noises[1:]), iter(noises[1:])
    ddpm = list(DDPM(process, 100)(model, noises[0], lambda: next(first)))
    ddim = list(DDIM(process, 100, eta=1)(model, noises[0], lambda: next(second)))
    for ours, other in zip(ddpm, ddim, strict=True):
        torch.testing.assert_close(ours.x, other.x, rtol=1e-4, atol=1e-4)


def test_beginning_in_the_middle_is_the_same_way() -> None:
    process, noises = Gaussian(100), draws(20)
    solver = DDPM(process, 20)
    source = iter(noises[1:])
    states = list(solver(model, noises[0], lambda: next(source)))
    rest = iter(noises[13:])
    again = list(solver(model, states[11].x, lambda: next(rest), start=12))
    assert [state.number for state in again] == list(range(12, 20))
    assert torch.equal(again[-1].x, states[-1].x)
    x0 = torch.zeros(SHAPE)
    assert torch.equal(solver.noised(x0, noises[0], 12), process.noised(x0, noises[0], solver.times[12]))


def test_what_is_constrained_stays() -> None:
    kept = torch.full(SHAPE, 0.25)
    times: list[float] = []

    def constrain(x, t):
        times.append(t)
        return torch.cat([kept[:, :1], x[:, 1:]], 1)

    solver = DDIM(Gaussian(100), 5)
    states = list(solver(model, draws(1)[0], torch.Tensor, constrain=constrain))
    assert times == [*solver.times[1:].tolist(), -1.0]
    assert all(torch.equal(state.x[:, :1], kept[:, :1]) for state in states)


def test_strength_says_where_to_begin() -> None:
    solver = DDIM(Gaussian(100), 20)
    assert [solver.start(strength) for strength in (1.0, 0.5, 0.3, 0.05)] == [0, 10, 14, 19]
    for strength in (0.0, -1.0, 1.1, 0.04, float("nan")):
        with pytest.raises(InputError, match="strength"):
            solver.start(strength)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DDPM(Gaussian(10), 11), "1 to 10"),
        (lambda: DDPM(Gaussian(10), 0), "0 steps"),
        (lambda: DDIM(Gaussian(10), 5, eta=1.5), "eta 1.5"),
        (lambda: DDIM(Gaussian(10), 5, spacing="even"), "even"),
    ],
)
def test_bad_settings_are_named(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
