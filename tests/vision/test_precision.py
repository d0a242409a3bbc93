"""Fast models decide as the exact one does: a really trained classifier, and what fast layers refuse."""

import copy
import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.data.idx import read_idx
from core.errors import InputError
from core.nn.int8 import MIDDLE, CodedNorm
from core.nn.precision import Int8Linear, PackedLinear, fast
from core.nn.tiled import int8_linear
from vision.vit import ViT, ViTConfig


@pytest.fixture(scope="module")
def trained():
    """A small ViT after a few passes over Fashion-MNIST's subset, and test images (N, 1, 28, 28)."""
    folder = Path(__file__).parents[2] / "assets" / "fashion_mnist_subset"
    images, labels, tests, answers = (
        torch.tensor(read_idx(next(folder.glob(pattern))))
        for pattern in ("train-images*", "train-labels*", "t10k-images*", "t10k-labels*")
    )
    images, tests = ((x.float()[:, None] / 255 - 0.29) / 0.35 for x in (images, tests))
    torch.manual_seed(0)
    model = ViT(ViTConfig(image=(28, 28), patch=7, channels=1, dim=64, depth=3, heads=2, classes=10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=6 * -(-len(images) // 50))
    with torch.enable_grad():
        for _ in range(6):
            for rows in torch.randperm(len(images)).split(50):
                loss = F.cross_entropy(model(images[rows]), labels[rows].long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                course.step()
    return model.eval(), tests, answers.long()


@pytest.mark.parametrize(("precision", "examples"), [("bfloat16", 0), ("int8", 0), ("int8", 64)])
@torch.no_grad()
def test_a_trained_classifier_decides_as_in_float32(trained, precision, examples):
    model, images, labels = trained
    exact = model(images).argmax(-1)
    assert (exact == labels).float().mean() > 0.75
    quick = fast(model, precision, calibrate=images[:examples] if examples else None)
    images, exact = images[examples:], exact[examples:]
    ours = quick(images.bfloat16()).argmax(-1)
    assert (ours == exact).float().mean() >= 0.99


@torch.no_grad()
def test_packed_float32_equals_float64():
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 40), torch.randn(3, 5, 48)
    for approximate in (None, "none", "tanh"):
        packed = PackedLinear(linear)
        packed.gelu = approximate
        reference = copy.deepcopy(linear).double()(x.double())
        reference = reference if approximate is None else F.gelu(reference, approximate=approximate)
        torch.testing.assert_close(packed(x).double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "tolerance"), [(PackedLinear, 0.005), (Int8Linear, 0.015)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_layers_equal_the_exact_ones(kind, tolerance, bias):
    torch.manual_seed(0)
    linear = nn.Linear(48, 40, bias=bias).bfloat16()
    x = torch.randn(3, 5, 48).bfloat16()
    reference = copy.deepcopy(linear).double()(x.double())
    y = kind(linear)(x)
    assert y.dtype == torch.bfloat16
    assert y.shape == (3, 5, 40)
    assert (y.double() - reference).norm() <= tolerance * reference.norm()


@torch.no_grad()
def test_int8_rows_are_independent_of_their_company():
    torch.manual_seed(0)
    linear = Int8Linear(nn.Linear(48, 40).bfloat16())
    x = torch.randn(6, 48).bfloat16()
    company = torch.cat([x, 1000 * x])
    torch.testing.assert_close(linear(company)[:6], linear(x), rtol=0, atol=0)


@torch.no_grad()
def test_int8_survives_zeros_and_extremes():
    layer = Int8Linear(nn.Linear(48, 40).bfloat16())
    assert torch.equal(layer(torch.zeros(2, 48).bfloat16()), layer.bias.expand(2, -1))
    linear = nn.Linear(48, 48, bias=False).bfloat16()
    linear.weight.copy_(torch.eye(48))
    for size in torch.logspace(-3, 3, 97):
        x = torch.full((1, 48), float(size)).bfloat16()
        torch.testing.assert_close(Int8Linear(linear)(x), x, rtol=0.02, atol=0)


@pytest.mark.parametrize("mlp", ["gelu", "gelu tanh", "quick gelu", "swiglu"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.02), ("int8", 0.08)])
@torch.no_grad()
def test_all_branches_equal_the_exact_ones(mlp, precision, tolerance):
    torch.manual_seed(0)
    config = ViTConfig(
        image=(28, 28), patch=7, channels=1, dim=64, depth=2, heads=2, classes=0, mlp=mlp, layer_scale=0.5
    )
    model = ViT(config).eval()
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    images = torch.randn(8, 1, 28, 28)
    exact = model.features(images).x
    quick = fast(model, precision, calibrate=images if precision == "int8" else None)
    before = images.to(next(quick.parameters()).dtype)
    kept = before.clone()
    ours = quick.features(before).x.float()
    assert (ours - exact).norm() <= tolerance * exact.norm()
    assert torch.equal(before, kept)
    assert torch.equal(model.features(images).x, exact)  # the model itself is as it was


@torch.no_grad()
def test_large_channels_of_a_norm_do_not_cost_the_others_their_resolution():
    torch.manual_seed(0)
    config = ViTConfig(image=(28, 28), patch=7, channels=1, dim=64, depth=1, heads=2, classes=0)
    model = ViT(config).eval()
    model.blocks[0].mlp.norm.weight[3] = 100
    model.blocks[0].mlp.fn.fc1.weight[:, 3] /= 100
    images = torch.randn(8, 1, 28, 28)
    exact = model.features(images).x
    ours = fast(model, "int8", calibrate=images).features(images.bfloat16()).x.float()
    assert (ours - exact).norm() <= 0.03 * exact.norm()


@torch.no_grad()
def test_inputs_beyond_the_examples_saturate():
    torch.manual_seed(0)
    norm = nn.LayerNorm(16)
    codes = CodedNorm(norm, torch.full((16,), 0.001))(torch.randn(4, 16).bfloat16())
    assert codes.dtype == torch.uint8
    assert int(codes.max()) == MIDDLE + 127
    assert int(codes.min()) == MIDDLE - 127


def test_what_fast_models_refuse():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    for precision, kind in (
        ("float32", PackedLinear),
        ("bfloat16", PackedLinear),
        ("int8", type(int8_linear(model[0]))),
    ):
        quick = fast(model, precision)
        assert isinstance(quick[0], kind)
        assert type(model[0]) is nn.Linear
        with pytest.raises(TypeError, match="exact model"):
            quick.state_dict()
        with pytest.raises(TypeError, match="exact model"):
            torch.save(quick, io.BytesIO())
    assert type(fast(model, "int8", skip=("2",))[2]) is nn.Linear
    with pytest.raises(InputError, match="choose one of auto"):
        fast(model, "fp8")


@pytest.mark.parametrize(("engines", "examples"), [(["qnnpack"], False), (["qnnpack", "onednn"], False), ([], True)])
def test_integers_that_are_missing_are_told(
    engines: list[str], examples: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch is built for other processors: with neither FBGEMM nor oneDNN, or with one of them."""
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=engines))
    with pytest.raises(InputError, match="no 8-bit layers for this processor: choose auto, bfloat16 or float32"):
        fast(nn.Linear(8, 8), "int8", calibrate=torch.zeros(2, 8) if examples else None)
