"""diffusers' schedulers behind the adapter: the sums of their own tests, and the loop of their own pipelines."""

import pytest
import torch

from core.errors import InputError
from diffusion.process import GVP, Flow, Gaussian
from diffusion.solvers import FOR_FLOWS, FOR_GAUSSIANS, Diffusers

LINEAR = torch.linspace(1e-4, 0.02, 1000).tolist()
LINEAR_1100 = torch.linspace(1e-4, 0.02, 1100).tolist()
RANDOM = ("DDPM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete")

TO_LAST = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
# what tests/schedulers of diffusers expects after its full loops: settings, sum of absolute values or None, their mean
# fmt: off
SUMS = [
    ("DDPM", "epsilon", 1000, {"clip_sample": True}, 258.9606, 0.3372),
    ("DDPM", "v", 1000, {"clip_sample": True}, 202.0296, 0.2631),
    ("DDIM", "epsilon", 10, {"clip_sample": True}, 172.0067, 0.223967),
    ("DDIM", "v", 10, {"clip_sample": True}, 52.5302, 0.0684),
    ("DPMSolverMultistep", "epsilon", 10, TO_LAST, None, 0.3301),
    ("DPMSolverMultistep", "v", 10, TO_LAST, None, 0.2251),
    ("DPMSolverMultistep", "epsilon", 10, {**TO_LAST, "thresholding": True, "dynamic_thresholding_ratio": 0.87,
        "sample_max_value": 0.5}, None, 1.1364),
    ("DPMSolverSinglestep", "epsilon", 10, TO_LAST, None, 0.2791),
    ("DPMSolverSinglestep", "v", 10, TO_LAST, None, 0.1453),
    ("UniPCMultistep", "epsilon", 10, {"final_sigmas_type": "sigma_min"}, None, 0.2464),
    ("UniPCMultistep", "epsilon", 10, {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}, None, 0.2925),
    ("UniPCMultistep", "v", 10, {"final_sigmas_type": "sigma_min"}, None, 0.1014),
    ("UniPCMultistep", "v", 10, {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}, None, 0.1966),
    ("DEISMultistep", "epsilon", 10, {}, None, 0.23916),
    ("DEISMultistep", "v", 10, {}, None, 0.091),
]
# from the third last of ten steps on, noise added to the sample
LATE_SUMS = [
    ("DDIM", 10, 8, {"clip_sample": True}, 354.5418, 0.4616),
    ("DDPM", 1000, 998, {"clip_sample": True}, 387.9466, 0.5051),
    ("UniPCMultistep", 10, 8, {"final_sigmas_type": "sigma_min"}, 315.5757, 0.4109),
    ("DEISMultistep", 10, 8, {}, 315.3016, 0.41054),
]
# their loops of these hand the scaled sample to the step, where pipelines hand it over unscaled
SCALED_SUMS = [
    ("EulerDiscrete", "epsilon", {}, 10.0807, 0.0131),
    ("EulerDiscrete", "v", {}, 0.0002, 2.2676e-06),
    ("EulerDiscrete", "epsilon", {"use_karras_sigmas": True}, 124.52299499511719, 0.16213932633399963),
    ("EulerAncestralDiscrete", "epsilon", {}, 152.3192, 0.1983),
    ("EulerAncestralDiscrete", "v", {}, 108.4439, 0.1412),
    ("HeunDiscrete", "epsilon", {}, 0.1233, 0.0002),
    ("HeunDiscrete", "v", {}, 4.6934e-07, 6.1112e-10),
    ("KDPM2Discrete", "epsilon", {}, 20.4125, 0.0266),
    ("KDPM2AncestralDiscrete", "epsilon", {}, 13979.9433, 18.2030),
    ("KDPM2AncestralDiscrete", "v", {}, 331.8133, 0.4320),
    ("LMSDiscrete", "epsilon", {}, 1006.388, 1.31),
    ("LMSDiscrete", "v", {}, 0.0017, 2.2676e-06),
    ("LMSDiscrete", "epsilon", {"use_karras_sigmas": True}, 3812.9927, 4.9648),
]
# fmt: on


def dummy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The model of their tests."""
    return x * t / (t + 1)


def ramp(down: bool = False) -> torch.Tensor:
    """The sample of their tests, or its noise: (4, 3, 8, 8)."""
    values = torch.arange(768)
    return ((values.flip(0) if down else values) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)


def normal_source(shape: torch.Size = torch.Size([4, 3, 8, 8])):
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(shape, generator=generator)


def close(x: torch.Tensor, total: float | None, mean: float) -> None:
    """As near as their tests want it."""
    assert abs(x.abs().mean().item() - mean) < 1e-3
    assert total is None or abs(x.abs().sum().item() - total) < 1e-2


@pytest.mark.parametrize(("name", "predicts", "steps", "settings", "total", "mean"), SUMS)
def test_sums_of_their_tests(name, predicts, steps, settings, total, mean) -> None:
    solver = Diffusers(Gaussian(1000, LINEAR, predicts), f"{name}Scheduler", steps, **settings)
    *_, state = solver(dummy, ramp(), normal_source())
    close(state.x, total, mean)


@pytest.mark.parametrize(("name", "steps", "start", "settings", "total", "mean"), LATE_SUMS)
def test_sums_of_their_tests_from_late_on(name, steps, start, settings, total, mean) -> None:
    solver = Diffusers(Gaussian(1000, LINEAR), f"{name}Scheduler", steps, **settings)
    x = solver.noised(ramp(), ramp(down=True), start)
    *_, state = solver(dummy, x, normal_source(), start=start)
    close(state.x, total, mean)


@pytest.mark.parametrize(("name", "predicts", "settings", "total", "mean"), SCALED_SUMS)
def test_sums_of_their_tests_that_scale(name, predicts, settings, total, mean) -> None:
    scheduler = Diffusers(Gaussian(1100, LINEAR_1100, predicts), f"{name}Scheduler", 10, **settings).scheduler
    x = ramp() * scheduler.init_noise_sigma
    generator = {"generator": torch.Generator().manual_seed(0)} if "Euler" in name or name in RANDOM else {}
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(x, t)
        x = scheduler.step(dummy(x, t), t, x, **generator).prev_sample
    close(x, total, mean)


def bent(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Something nonlinear that differs at each time."""
    return (x + 0.3 * t / 1000).sin()


def pipeline(scheduler, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The loop of diffusers' pipelines, which only a scheduler's public methods appear in."""
    import inspect

    generator = torch.Generator().manual_seed(seed)
    random = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(bent(scheduler.scale_model_input(x, t), t), t, x, **random).prev_sample
    return x


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
@pytest.mark.parametrize("name", FOR_GAUSSIANS)
def test_the_way_is_that_of_their_pipelines(name: str, predicts: str) -> None:
    import diffusers

    process = Gaussian(1000, "scaled_linear", predicts)
    words = {"epsilon": "epsilon", "v": "v_prediction"}
    settings = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": words[predicts],
    }
    kind = getattr(diffusers, name)
    if name in ("DDIMScheduler", "DDPMScheduler"):
        settings["clip_sample"] = False
    theirs = kind(**settings)
    theirs.set_timesteps(12)
    *_, state = Diffusers(process, name, 12)(bent, ramp(), normal_source())
    expected = pipeline(theirs, ramp())
    torch.testing.assert_close(state.x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("towards", ["data", "noise"])
def test_flow_matching_is_that_of_their_pipelines(towards: str) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(10)
    x = ramp()
    for t in theirs.timesteps:
        x = theirs.step(bent(x, t), t, x).prev_sample
    sd3 = towards == "noise"
    process = Flow(shift=3.0, towards=towards, scale=1000.0 if sd3 else 1.0)
    # the same model as the one family tells its time and points its velocity, and as the other does
    ask = bent if sd3 else lambda x, t: -bent(x, 1000 * (1 - t))
    *_, state = Diffusers(process, "FlowMatchEulerDiscreteScheduler", 10)(ask, ramp(), torch.Tensor)
    torch.testing.assert_close(state.x, x, rtol=1e-5, atol=1e-5)


def perfect(process, mean: float, std: float):
    """The best model of normal data."""

    def ask(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, sigma = (float(level) for level in process.levels(t))
        clean = mean + signal * std**2 / (signal**2 * std**2 + sigma**2) * (x - signal * mean)
        epsilon = (x - signal * clean) / sigma
        if isinstance(process, Flow):
            return process.velocity(clean, epsilon, t)
        return process.target(clean, epsilon, t)

    return ask


GAUSSIANS = [(Gaussian(predicts="x0"), name) for name in FOR_GAUSSIANS]
FLOWS = [(flow, name) for flow in (Flow(), Flow(shift=2.0, towards="noise", scale=1000)) for name in FOR_FLOWS]


@pytest.mark.parametrize("start", [0, 40])
@pytest.mark.parametrize(("process", "name"), GAUSSIANS + FLOWS)
def test_normal_data_come_out(process, name: str, start: int) -> None:
    """From noise, and from the middle, x arrives; on the way it has the process's scale."""
    mean, std = 0.3, 0.5
    solver = Diffusers(process, name, 80)
    generator = torch.Generator().manual_seed(3)
    noise, x0 = (torch.randn(4000, 1, 1, 1, generator=generator) for _ in range(2))
    x = noise if start == 0 else solver.noised(mean + std * x0, noise, start)
    asked: list[float] = []
    model = perfect(process, mean, std)

    def ask(x, t):
        asked.append(float(t))
        return model(x, t)

    source = normal_source(noise.shape)
    for state in solver(ask, x, source, start=start):
        signal, sigma = (float(level) for level in process.levels(torch.tensor(state.t)))
        assert abs(state.x.mean() - signal * mean) < 0.06
        assert abs(state.x.std() - (signal**2 * std**2 + sigma**2) ** 0.5) < 0.07
    assert state.t == process.end
    assert state.count == 80
    if start == 0:
        assert list(dict.fromkeys(asked)) == solver.times.tolist()


@pytest.mark.parametrize(
    ("process", "name", "settings"),
    [
        (Gaussian(), "DDPMScheduler", {}),
        (Gaussian(), "EulerAncestralDiscreteScheduler", {}),
        (Gaussian(), "KDPM2AncestralDiscreteScheduler", {}),
        (Gaussian(), "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        (Gaussian(), "DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        (Flow(), "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_a_sample_has_noise_of_its_own(process, name: str, settings: dict) -> None:
    solver = Diffusers(process, name, 6, **settings)

    def run(rows: slice) -> torch.Tensor:
        source = normal_source()
        *_, state = solver(bent, ramp()[rows], lambda: source()[rows])
        return state.x

    torch.testing.assert_close(run(slice(2, 3)), run(slice(4))[2:3], rtol=0, atol=1e-6)
    assert not torch.equal(run(slice(0, 1)), run(slice(1, 2)))


@pytest.mark.parametrize("name", FOR_GAUSSIANS)
def test_learned_variance_is_left_out_where_it_has_no_use(name: str) -> None:
    def talkative(x, t):
        return torch.cat([bent(x, t), x.cos()], 1)

    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    silent, learned = (
        list(Diffusers(process, name, 6)(ask, latents, normal_source(latents.shape)))[-1].x
        for process, ask in ((Gaussian(), bent), (Gaussian(variance="learned"), talkative))
    )
    assert torch.equal(silent, learned) == (name != "DDPMScheduler")


def test_what_is_constrained_has_the_processs_scale() -> None:
    process, times = Gaussian(), []
    solver = Diffusers(process, "EulerDiscreteScheduler", 10)
    noise = ramp(down=True)

    def constrain(x, t):
        times.append(t)
        return process.noised(ramp(), noise, t)

    states = list(solver(bent, noise, normal_source(), constrain=constrain))
    assert times == [*solver.times[1:].double().tolist(), -1.0]
    assert torch.equal(states[-1].x, ramp())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Diffusers(Gaussian(), "Euler", 10), "EulerDiscreteScheduler"),
        (lambda: Diffusers(Flow(), "DDIMScheduler", 10), "FlowMatchEulerDiscreteScheduler"),
        (lambda: Diffusers(Gaussian(), "DDIMScheduler", 10, use_karras_sigmas=True), "use_karras_sigmas"),
        (lambda: Diffusers(Gaussian(), "DDIMScheduler", 0), "0 steps"),
        (lambda: Diffusers(Gaussian(), "DDIMScheduler", 1001), "1 to 1000"),
        (lambda: Diffusers(Flow(GVP()), "FlowMatchEulerDiscreteScheduler", 10), "straight"),
    ],
)
def test_bad_settings_are_named(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
