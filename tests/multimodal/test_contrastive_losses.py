"""The contrastive losses equal open_clip's and closed forms, in value, gradients, and on several processes."""

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.errors import InputError
from multimodal.losses import cached, distill, info_nce, measured_loss, siglip, tiles

NAMES = ("image", "text", "scale", "bias")


def inputs(count: int, dtype: torch.dtype = torch.float32, width: int = 24, seed: int = 0) -> list[Tensor]:
    """Features that pair up a little, a scale and a bias."""
    make = torch.Generator().manual_seed(seed)
    image = torch.randn(count, width, generator=make, dtype=torch.float64)
    text = image + 1.5 * torch.randn(count, width, generator=make, dtype=torch.float64)
    features = [F.normalize(image, dim=-1), F.normalize(text, dim=-1)]
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (17.3, -6.1)]
    return [x.to(dtype).requires_grad_() for x in features + numbers]


def teacher(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Another model's features, of another width, and its scale."""
    return [x.detach() for x in inputs(count, dtype, 10, seed=1)[:3]]


def values(loss: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """The loss and its gradients, taken from three times the loss."""
    value = loss(*given)
    return [value.detach(), *(g / 3 for g in torch.autograd.grad(3 * value, given))]


def softmax_form(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = scale * image @ text.T
    return -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean() / 2


def sigmoid_form(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    signs = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -F.logsigmoid(signs * (scale * image @ text.T + bias)).sum() / len(image)


def distill_form(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    u, v, t = teacher(len(image), image.dtype)
    logits, targets = scale * image @ text.T, t * u @ v.T
    return -sum((targets.softmax(d) * logits.log_softmax(d)).sum(d).mean() for d in (0, 1)) / 2  # type: ignore[return-value]


def distilled(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return _distilled_from(*teacher(len(image), image.dtype), image, text, scale)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], int]] = {
    "info_nce": (info_nce, softmax_form, 3),
    "siglip": (siglip, sigmoid_form, 4),
    "distill": (distilled, distill_form, 3),
}


def peer(name: str) -> Callable[..., Tensor]:
    """open_clip's."""
    losses = pytest.importorskip("open_clip.loss")
    if name == "siglip":
        return losses.SigLipLoss()
    if name == "info_nce":
        return losses.ClipLoss()
    return lambda image, text, scale: losses.DistillClipLoss()(image, text, scale, *teacher(len(image)))[1]


@pytest.mark.parametrize("count", [1, 16, 37, 48])
@pytest.mark.parametrize("name", CASES)
def test_equals_open_clip(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CACHED", 16)
    ours, _, arguments = CASES[name]
    given = inputs(count)[:arguments]
    value, *gradients = values(ours, given)
    expected, *theirs = values(peer(name), given)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_closed_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CACHED", 16)
    ours, form, arguments = CASES[name]
    exact = values(form, inputs(41, torch.float64)[:arguments])
    for one, other in zip(values(ours, inputs(41, torch.float64)[:arguments]), exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    value, *gradients = values(ours, inputs(41)[:arguments])
    assert abs(value / exact[0] - 1) < 1e-6
    for one, other in zip(gradients, exact[1:], strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    ours, form, arguments = CASES[name]
    given = [x.detach().to(dtype).requires_grad_() for x in inputs(32)[:2]] + inputs(32)[2:arguments]
    value, *gradients = values(ours, given)
    same = [x.detach().double().requires_grad_() for x in given]
    if name == "distill":
        form = partial(_distilled_from, *(x.double() for x in teacher(32, dtype)))
    expected, *exact = values(form, same)
    assert value.dtype == torch.float32
    assert abs(value / expected - 1) < 1e-5
    for one, other in zip(gradients, exact, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()
    assert gradients[0].dtype == dtype


@pytest.mark.parametrize("name", CASES)
def test_extreme_logits(name: str) -> None:
    """Scales of thousands, features of any length: finite, and equal to the closed form."""
    ours, form, arguments = CASES[name]
    given = inputs(20, torch.float64)[:arguments]
    given[2] = torch.tensor(5000.0, dtype=torch.float64, requires_grad=True)
    for one, other in zip(values(ours, given), values(form, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    single = [x.detach().float().requires_grad_() for x in given]
    assert all(x.isfinite().all() for x in values(ours, single))


def test_a_perfect_sigmoid_loss_keeps_its_digits() -> None:
    image = torch.eye(4)
    loss = siglip(image, image, torch.tensor(60.0), torch.tensor(-30.0))
    torch.testing.assert_close(loss.double(), torch.tensor(4 * 30.0).neg().div(4).exp().double() * 4, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("locked", range(4))
def test_what_needs_no_gradient_gets_none(name: str, locked: int) -> None:
    ours, form, arguments = CASES[name]
    given = [x.detach().requires_grad_(at != locked) for at, x in enumerate(inputs(9)[:arguments])]
    ours(*given).backward()
    wanted = [x for x in given if x.requires_grad]
    for x, expected in zip(wanted, torch.autograd.grad(form(*given), wanted), strict=True):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-6)
    assert all(x.grad is None for x in given if not x.requires_grad)
    with torch.no_grad():
        value = ours(*given)
    assert not value.requires_grad
    torch.testing.assert_close(value, form(*given).detach())


def test_backward_twice_and_never_of_the_backward() -> None:
    given = inputs(9)
    loss = siglip(*given)
    first = torch.autograd.grad(loss, given, retain_graph=True)
    second = torch.autograd.grad(loss, given)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(InputError, match="differentiated once only"):
        torch.autograd.grad(siglip(*given), given, create_graph=True)


class Largest(TorchDispatchMode):
    """Watches how many elements the largest tensor made has."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            self.elements = max(self.elements, x.numel() if isinstance(x, Tensor) else 0)
        return made


@pytest.mark.parametrize("name", CASES)
def test_the_logits_never_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CACHED", 32)
    ours, form, arguments = CASES[name]
    given = inputs(320)[:arguments]
    with Largest() as largest:
        ours(*given).backward()
    assert largest.elements <= 320 * 24  # the features themselves
    with Largest() as largest:
        form(*given).backward()
    assert largest.elements == 320 * 320


def test_autocast_changes_nothing() -> None:
    given = inputs(9)[:3]
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(*given)
    assert torch.equal(loss, info_nce(*given))


def test_features_that_do_not_pair_up() -> None:
    image, text, scale, bias = inputs(4)
    for loss in (lambda: info_nce(image, text[:3], scale), lambda: siglip(image[:0], text[:0], scale, bias)):
        with pytest.raises(InputError, match="pair up"):
            loss()
    with pytest.raises(InputError, match="4 images and the teacher 3"):
        distill(image, text, scale, image[:3], text[:3], scale)


def _distilled_from(u: Tensor, v: Tensor, t: Tensor, *given: Tensor) -> Tensor:
    image, text, scale = given
    return distill(image, text, scale, u, v, t)


class Towers(nn.Module):
    """Two small towers with dropout, a scale, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 8))
        self.text = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 8))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, part: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return F.normalize(self.image(part[0]), dim=-1), F.normalize(self.text(part[1]), dim=-1)


class Step(nn.Module):
    """A training step of two towers over micro-batches, as a LightningModule takes it within DDP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.towers = Towers().double().eval()

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        parts = list(zip(images.split(2), texts.split(2), strict=True))
        image, text = cached(self.towers, parts, self.towers.parameters())
        return siglip(image, text, self.towers.scale.exp(), torch.tensor(-1.0, dtype=torch.float64))


def _step_gradients(rank: int, world: int) -> list[Tensor]:
    """What DDP leaves in the parameters after `Step` saw one process's share of twelve pairs."""
    step = Step()
    step.towers.unused.requires_grad_(False)
    make = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(12, d, generator=make, dtype=torch.float64) for d in (6, 5))
    rows = slice(rank * 12 // world, (rank + 1) * 12 // world)
    wrapped = nn.parallel.DistributedDataParallel(step) if world > 1 else step
    wrapped(images[rows], texts[rows]).backward()
    return [p.grad for p in step.parameters() if p.grad is not None]


def _shares(rank: int, world: int) -> dict[str, list[Tensor]]:
    """Values and gradients of all losses for one process's share of twelve pairs."""
    rows = slice(rank * 12 // world, (rank + 1) * 12 // world)
    found = {}
    for name, (ours, _, arguments) in CASES.items():
        given = inputs(12, torch.float64)[:arguments]
        given[:2] = [x.detach()[rows].requires_grad_() for x in given[:2]]
        if name == "distill":
            u, v, t = teacher(12, torch.float64)
            found[name] = values(partial(_distilled_from, u[rows], v[rows], t), given)
        else:
            found[name] = values(ours, given)
        if name != "distill":
            with torch.no_grad():
                found[f"{name} without gradients"] = [ours(*given)]
    return found


def _process(rank: int, ports: dict[int, int], folder: str) -> None:
    torch.set_num_threads(1)
    for world, port in ports.items():
        if rank < world:
            dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=world)
            found = {**_shares(rank, world), "step": _step_gradients(rank, world)}
            torch.save(found, f"{folder}/{world}-{rank}.pt")
            dist.destroy_process_group()


def _free_ports(count: int) -> list[int]:
    found = [socket.socket() for _ in range(count)]
    for one in found:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in found]
    for one in found:
        one.close()
    return ports


@pytest.mark.parametrize("worlds", [(2, 3), pytest.param((4,), marks=pytest.mark.thorough)])
def test_processes_equal_one(worlds: tuple[int, ...], tmp_path: Path) -> None:
    ports = dict(zip(worlds, _free_ports(len(worlds)), strict=True))
    torch.multiprocessing.spawn(_process, (ports, str(tmp_path)), nprocs=max(worlds))
    whole, step = _shares(0, 1), _step_gradients(0, 1)
    for world in worlds:
        parts = [torch.load(tmp_path / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]
        for name, expected in whole.items():
            for at, wanted in enumerate(expected):
                found = [part[name][at] for part in parts]
                # DDP averages what the processes pass on; a feature's gradient passes through its own process only
                average = torch.cat(found) / world if at in (1, 2) else torch.stack(found).mean(0)
                torch.testing.assert_close(average, wanted, rtol=1e-10, atol=1e-12, msg=f"{world} {name} {at}")
        for part in parts:
            assert len(step) == 9
            for one, other in zip(part["step"], step, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("locked", [False, True])
def test_cached_equals_the_whole_batch(locked: bool) -> None:
    model = Towers().double()
    model.image.requires_grad_(not locked)
    make = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(10, d, generator=make, dtype=torch.float64) for d in (6, 5))
    parts = list(zip(images.split(4), texts.split(4), strict=True))

    torch.manual_seed(5)  # the same micro-batches, so the same dropout, with all graphs kept
    image, text = (torch.cat(column) for column in zip(*map(model, parts), strict=True))
    after = torch.rand(1)
    softmax_form(image, text, model.scale.exp()).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()

    torch.manual_seed(5)
    found = cached(model, parts, model.parameters())
    assert torch.equal(found[0], image)
    assert found[0].requires_grad
    loss = info_nce(found[0], found[1], model.scale.exp())
    loss.backward()
    assert torch.equal(torch.rand(1), after)  # as if nothing had been embedded again
    for name, p in model.named_parameters():
        if expected[name] is None:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-12)


def test_cached_holds_one_micro_batch_at_a_time() -> None:
    model = Towers()
    graphs: list[int] = []

    def embed(part: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        graphs.append(int(torch.is_grad_enabled()))
        return model(part)

    parts = [(torch.randn(2, 6), torch.randn(2, 5)) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        image, text = cached(embed, parts, model.parameters())
        loss = siglip(image, text, model.scale.exp(), torch.tensor(-1.0))
    assert graphs == [0, 0, 0]
    kept: list[tuple[int, ...]] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.shape)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss.backward()
    assert graphs == [0, 0, 0, 1, 1, 1]
    assert all(shape[0] != 6 for shape in kept if len(shape) == 2 and shape[-1] in (5, 6))
    assert model.image[0].weight.grad is not None


@pytest.mark.parametrize("count", [1, 37, 1500])
@pytest.mark.parametrize("bias", [None, -6.1])
def test_the_loss_that_is_measured_is_open_clips(count: int, bias: float | None) -> None:
    image, text, scale = (x.detach() for x in inputs(count)[:3])
    expected = peer("info_nce")(image, text, scale) if bias is None else peer("siglip")(image, text, scale, bias)
    assert measured_loss(image, text, float(scale), bias) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
