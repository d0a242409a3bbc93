"""Guidance against the plain formulas, and what the model is asked for it."""

import pytest
import torch

from core.errors import InputError
from diffusion.condition import Labels
from diffusion.guidance import AutoGuidance, Guidance
from diffusion.process import Flow, Gaussian
from diffusion.solvers import Euler

CLASSES = 5


class Toy(torch.nn.Module):
    """Answers that depend on x, t and the class, with as many channels for a variance where wanted."""

    def __init__(self, variance: bool = False, strength: float = 1.0) -> None:
        super().__init__()
        self.variance, self.strength = variance, strength
        self.asked: list[tuple[int, list[float]]] = []

    def forward(self, x, t, condition):
        self.asked.append((len(x), t.tolist()))
        index = condition.index if condition is not None else torch.zeros(len(x))
        out = (x * self.strength + (t + index).reshape(-1, 1, 1, 1)).sin()
        return torch.cat([out, out.cos()], 1) if self.variance else out

    def unconditional(self, condition):
        return Labels(torch.full_like(condition.index, CLASSES))


def setting():
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor(0.3), Labels(torch.tensor([0, 2, 4]))


def answers(model, x, t, condition):
    times = t.expand(len(x))
    return model(x, times, condition), model(x, times, model.unconditional(condition))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 7.0])
def test_classifier_free_guidance_is_the_papers_in_one_call(scale: float) -> None:
    x, t, condition = setting()
    yes, no = answers(Toy(), x, t, condition)
    model = Toy()
    found = Guidance(scale).denoiser(model, condition, Flow())(x, t)
    torch.testing.assert_close(found, no + scale * (yes - no))
    assert model.asked == [(6, pytest.approx([0.3] * 6))]


def test_without_guidance_half_is_asked() -> None:
    x, t, condition = setting()
    model = Toy()
    found = Guidance(1.0).denoiser(model, condition, Flow())(x, t)
    assert torch.equal(found, answers(Toy(), x, t, condition)[0])
    unconditional = Guidance(4.0).denoiser(model, None, Flow())(x, t)
    assert torch.equal(unconditional, Toy()(x, t.expand(3), None))
    assert [rows for rows, _ in model.asked] == [3, 3]


@pytest.mark.parametrize(
    ("process", "times", "guided"),
    [
        (Flow(), [0.0, 0.39, 0.41, 0.5, 0.8, 0.9, 1.0], [0, 0, 1, 1, 1, 0, 0]),
        (Flow(towards="noise", scale=1000.0), [1000.0, 610.0, 590.0, 200.0, 100.0], [0, 0, 1, 1, 0]),
        (Gaussian(1000), [999.0, 600.0, 599.0, 199.0, 100.0], [0, 0, 1, 1, 0]),
    ],
)
def test_the_interval_is_in_levels_of_noise(process, times, guided) -> None:
    x, _, condition = setting()
    model = Toy()
    denoise = Guidance(3.0, interval=(0.2, 0.6)).denoiser(model, condition, process)
    for t in times:
        denoise(x, torch.tensor(t))
    assert [rows for rows, _ in model.asked] == [6 if inside else 3 for inside in guided]
    first = denoise(x, torch.tensor(times[0]))
    assert torch.equal(first, answers(Toy(), x, torch.tensor(times[0]), condition)[0])


def test_rescaling_is_the_papers() -> None:
    x, t, condition = setting()
    yes, no = answers(Toy(), x, t, condition)
    plain = no + 5.0 * (yes - no)
    for share in (0.7, 1.0):
        found = Guidance(5.0, rescale=share).denoiser(Toy(), condition, Flow())(x, t)
        for row in range(3):  # Lin et al. 2023, equations 15 and 16
            full = plain[row] * yes[row].std() / plain[row].std()
            torch.testing.assert_close(found[row], share * full + (1 - share) * plain[row])
    assert found[1].std().item() == pytest.approx(yes[1].std().item(), rel=1e-5)


def test_three_channels_as_in_the_release_of_dit() -> None:
    x, t, condition = setting()
    yes, no = answers(Toy(variance=True), x, t, condition)
    found = Guidance(4.0, channels=3).denoiser(Toy(variance=True), condition, Gaussian(variance="learned"))(x, t)
    torch.testing.assert_close(found[:, :3], no[:, :3] + 4 * (yes[:, :3] - no[:, :3]))
    assert torch.equal(found[:, 3:], yes[:, 3:])


def test_the_variance_is_not_guided() -> None:
    x, t, condition = setting()
    yes, no = answers(Toy(variance=True), x, t, condition)
    for channels in (None, 9):
        found = Guidance(4.0, channels=channels).denoiser(Toy(variance=True), condition, Gaussian())(x, t)
        torch.testing.assert_close(found[:, :4], no[:, :4] + 4 * (yes[:, :4] - no[:, :4]))
        assert torch.equal(found[:, 4:], yes[:, 4:])


def test_autoguidance_is_the_papers() -> None:
    x, t, condition = setting()
    strong, weak = Toy(), Toy(strength=0.4)
    for told in (condition, None):
        good, bad = (Toy(strength=s)(x, t.expand(3), told) for s in (1.0, 0.4))
        found = AutoGuidance(weak, 2.5).denoiser(strong, told, Flow())(x, t)
        torch.testing.assert_close(found, bad + 2.5 * (good - bad))  # Karras et al. 2024, equation 1
    outside = AutoGuidance(weak, 2.5, interval=(0.0, 0.2)).denoiser(strong, condition, Flow())(x, t)
    assert torch.equal(outside, Toy()(x, t.expand(3), condition))
    assert [len(model.asked) for model in (strong, weak)] == [3, 2]


def test_a_solver_takes_it() -> None:
    x, _, condition = setting()
    model = Toy()
    *_, state = Euler(Flow(), 4)(Guidance(2.0).denoiser(model, condition, Flow()), x, torch.Tensor)
    assert state.x.shape == x.shape
    assert [times[0] for _, times in model.asked] == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale": -1.0}, "guidance -1.0"),
        ({"scale": float("nan")}, "guidance nan"),
        ({"scale": float("inf")}, "guidance inf"),
        ({"interval": (0.6, 0.2)}, "interval"),
        ({"interval": (0.0, 1.2)}, "interval"),
        ({"rescale": 1.5}, "rescaled"),
        ({"channels": 0}, "0 channels"),
    ],
)
def test_bad_settings_are_named(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Guidance(**settings)
