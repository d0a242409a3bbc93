"""A sample depends on its seed and its condition, not on the batch; what is kept of a picture is kept."""

import pytest
import torch
from small import small_dit

from core.errors import InputError
from diffusion.condition import Labels
from diffusion.guidance import Guidance
from diffusion.latents import Pixels
from diffusion.noise import MAX_SEED, Noise
from diffusion.original import Original
from diffusion.process import Flow, Gaussian
from diffusion.sample import Sampler, as_bytes
from diffusion.solver_names import named_solver, solver_names

SEEDS = [3, 14, 15, 92, 65, 35, 8]
CLASSES = torch.tensor([0, 1, 2, 3, 0, 1, 2])
STEPS = 5
PROCESSES = {"flow": Flow(), "gaussian": Gaussian(100)}
SOLVERS = [(kind, name) for kind, process in PROCESSES.items() for name in solver_names(process)]


def drawn(kind: str, name: str, rows: slice, batch: int, original: Original | None = None, **changes) -> torch.Tensor:
    process = PROCESSES[kind]
    sampler = Sampler(small_dit(), named_solver(name, process, STEPS), Guidance(2.0), Pixels(), (1, 8, 8))
    return torch.stack(list(sampler(Labels(CLASSES[rows]), SEEDS[rows], batch, original, **changes)))


def test_noise_of_a_row_is_its_own() -> None:
    together = Noise(SEEDS, (2, 3, 5))
    rounds = [together() for _ in range(3)]
    for row, seed in enumerate(SEEDS):
        alone = Noise([seed], (2, 3, 5))
        for x in rounds:
            assert torch.equal(alone()[0], x[row])
    assert not torch.equal(rounds[0], rounds[1])
    # the float32 normals that PyTorch gives for a seed
    torch.testing.assert_close(rounds[0][0], torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(SEEDS[0])))


def test_noise_is_normal() -> None:
    x = Noise(range(400), (100,))()
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.std().item() == pytest.approx(1, abs=0.02)
    assert (x[:-1] * x[1:]).mean().item() == pytest.approx(0, abs=0.02)  # of neighbouring seeds


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed {seed}"):
        Noise([0, seed], (1,))


@pytest.mark.parametrize(("kind", "name"), SOLVERS)
def test_the_batch_changes_nothing(kind: str, name: str) -> None:
    whole = drawn(kind, name, slice(None), len(SEEDS))
    assert whole.shape == (len(SEEDS), 8, 8, 1)
    assert whole.dtype == torch.uint8
    assert whole.float().std() > 10
    for batch in (1, 3):
        gap = drawn(kind, name, slice(None), batch).int() - whole.int()
        assert gap.abs().max() <= 1
    part = drawn(kind, name, slice(2, 5), 2)
    assert (part.int() - whole[2:5].int()).abs().max() <= 1


def test_seeds_and_classes_matter() -> None:
    images = drawn("flow", "euler", slice(None), 8).float()
    assert (images[0] - images[4]).abs().mean() > 1  # the same class
    sampler = Sampler(small_dit(), named_solver("euler", Flow(), STEPS), Guidance(2.0), Pixels(), (1, 8, 8))
    first, other = sampler(Labels(torch.tensor([0, 1])), [5, 5])
    assert (first.float() - other.float()).abs().mean() > 1


def test_each_step_is_told() -> None:
    told = []
    drawn("flow", "euler", slice(None), 4, watch=lambda first, state: told.append((first, state.number, len(state.x))))
    assert told == [(0, n, 4) for n in range(STEPS)] + [(4, n, 3) for n in range(STEPS)]


@pytest.mark.parametrize(("kind", "name"), SOLVERS)
def test_what_is_masked_away_stays(kind: str, name: str) -> None:
    image = torch.rand(1, 8, 8) * 2 - 1
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    painted = drawn(kind, name, slice(0, 3), 3, Original(image, mask))
    expected = as_bytes(image[None])[0]
    for picture in painted:
        assert torch.equal(picture[:, :4], expected[:, :4])
        assert (picture[:, 4:].float() - expected[:, 4:].float()).abs().mean() > 5
    assert (painted[0, :, 4:].float() - painted[1, :, 4:].float()).abs().mean() > 1


def test_little_strength_leaves_much() -> None:
    image = torch.rand(1, 8, 8) * 2 - 1
    expected = as_bytes(image[None])[0].float()
    gaps = [
        (drawn("flow", "euler", slice(0, 4), 4, Original(image, strength=strength)).float() - expected).abs().mean()
        for strength in (0.2, 0.6, 1.0)
    ]
    assert gaps[0] < gaps[1] < gaps[2]


def test_the_whole_way_forgets_the_picture() -> None:
    """At strength 1 a flow begins with noise alone."""
    image = torch.rand(1, 8, 8)
    anew = drawn("flow", "euler", slice(0, 3), 3, Original(image))
    assert (anew.int() - drawn("flow", "euler", slice(0, 3), 3).int()).abs().max() <= 1


def test_a_coarse_mask_covers_a_fine_one() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0, 0] = mask[5, 7] = True
    coarse = Original(torch.zeros(1, 8, 8), mask).places((4, 4))
    assert coarse.nonzero().tolist() == [[0, 0], [2, 3]]


def test_bytes() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5)
    assert as_bytes(values).flatten().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": 0.0}, "strength 0.0"),
        ({"strength": 1.1}, "strength 1.1"),
        ({"mask": torch.ones(8, 9, dtype=torch.bool)}, "the image is 8 x 8 and its mask 9 x 8"),
        ({"mask": torch.zeros(8, 8, dtype=torch.bool)}, "black everywhere"),
    ],
)
def test_bad_originals(given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Original(torch.zeros(1, 8, 8), **given)


def test_solvers_by_name() -> None:
    with pytest.raises(InputError, match="no solver 'eular' for this model, a flow: did you mean 'euler'"):
        named_solver("eular", Flow(), 5)
    with pytest.raises(InputError, match="101 steps"):
        named_solver(None, Gaussian(100), 101)
