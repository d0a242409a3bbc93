"""The masked autoencoder against transformers' on the same noise: loss, predictions, all gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.nn import patchify
from vision.losses.mae import mae_loss
from vision.mae import MAEConfig, MaskedAutoencoder, masking
from vision.mae_weights import PRESETS, hugging_face, mae
from vision.vit import ViT, ViTConfig

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}
ENCODER = ViTConfig(
    image=(32, 32), patch=8, dim=32, depth=2, heads=4, hidden=48, classes=0, positions="sincos", eps=1e-6
)
CONFIG = MAEConfig(ENCODER, dim=16, depth=2, heads=2, hidden=24)


def shaken(model: nn.Module) -> nn.Module:
    """The model with no parameter left at zero or one, where mistakes would not show (the peer's positions are 0)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def to_published(name: str) -> str:
    """A parameter of transformers 5 by the name that it has in published files."""
    for new, old in (
        ("vit.layers.", "vit.encoder.layer."),
        (".attention.q_proj.", ".attention.attention.query."),
        (".attention.k_proj.", ".attention.attention.key."),
        (".attention.v_proj.", ".attention.attention.value."),
        (".attention.o_proj.", ".attention.output.dense."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    ):
        name = name.replace(new, old)
    return name


def pair(config: MAEConfig, dtype: torch.dtype, **changes: Any) -> tuple[nn.Module, MaskedAutoencoder]:
    """The peer with random weights, and ours with the same."""
    transformers = pytest.importorskip("transformers")
    said = transformers.ViTMAEConfig(**(TINY | changes), mask_ratio=config.mask, norm_pix_loss=config.normalise)
    peer = shaken(transformers.ViTMAEForPreTraining(said)).to(dtype)
    ours = MaskedAutoencoder(config).to(dtype)
    theirs = {to_published(name): weight for name, weight in peer.state_dict().items()}
    ours.load_state_dict(hugging_face(config).load(theirs))
    return peer, ours


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def compare(config: MAEConfig, dtype: torch.dtype, tolerance: float, **changes: Any) -> None:
    peer, ours = pair(config, dtype, **changes)
    image = config.encoder.image
    images = torch.randn(3, 3, *image, dtype=dtype)
    noise = torch.rand(3, config.encoder.grid[0] * config.encoder.grid[1], dtype=dtype)

    expected = peer(images, noise=noise)
    expected.loss.backward()
    found = ours(images, noise)
    loss = mae_loss(found.predicted, images, found.masked, config.encoder.patch, config.normalise)
    loss.backward()

    assert gap(loss, expected.loss) < tolerance
    at = found.masked[..., None].expand(-1, -1, expected.logits.shape[2])
    assert gap(found.predicted, expected.logits.gather(1, at)) < tolerance
    theirs = {to_published(name): p.grad for name, p in peer.named_parameters() if p.grad is not None}
    gradients = hugging_face(config).load(theirs)
    trained = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained.keys()
    for name, parameter in trained.items():
        assert parameter.grad is not None
        assert gap(parameter.grad, gradients[name]) < tolerance * max(1.0, float(gradients[name].abs().max())), name


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_equals_transformers(dtype: torch.dtype, tolerance: float, normalise: bool) -> None:
    config = MAEConfig(ENCODER, dim=16, depth=2, heads=2, hidden=24, normalise=normalise)
    compare(config, dtype, tolerance)


def test_equals_transformers_at_the_width_of_base() -> None:
    """The public base with two blocks in the encoder and one in the decoder."""
    encoder = ViTConfig(image=(224, 224), dim=768, depth=2, heads=12, classes=0, positions="sincos", eps=1e-12)
    config = MAEConfig(encoder, dim=512, depth=1, heads=16)
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12}
    decoder = {"decoder_hidden_size": 512, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 16}
    shape = {"decoder_intermediate_size": 2048, "image_size": 224, "patch_size": 16}
    compare(config, torch.float32, 1e-4, **sizes, **decoder, **shape)


def test_the_fixed_positions_are_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")
    ours = MaskedAutoencoder(CONFIG)
    for module, dim in ((ours.encoder, 32), (ours, 16)):
        theirs = modeling.build_2d_sinusoidal_position_embedding(4, 4, dim, cls_token=True)
        columns_first = torch.cat(theirs.chunk(2, 1)[::-1], 1)  # as its ``initialize_weights`` does
        assert gap(module.positions.table, columns_first) < 1e-6
    assert not any("positions" in name for name, _ in ours.named_parameters())


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_in_closed_form(normalise: bool) -> None:
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masked = torch.tensor([[3, 0], [1, 2]])
    predicted = torch.randn(2, 2, 48, dtype=torch.float64)
    total = 0.0
    for row in range(2):
        for place in range(2):
            down, right = divmod(int(masked[row, place]), 2)
            patch = images[row, :, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4].permute(1, 2, 0).flatten()
            if normalise:
                variance = ((patch - patch.mean()) ** 2).sum() / 47
                patch = (patch - patch.mean()) / (variance + 1e-6).sqrt()
            total += float(((predicted[row, place] - patch) ** 2).mean()) / 4
    assert float(mae_loss(predicted, images, masked, 4, normalise)) == pytest.approx(total, abs=1e-12)


def test_masking_hides_the_share() -> None:
    noise = torch.rand(5, 196)
    keep, masked = masking(noise, 49)
    assert keep.shape == (5, 49)
    assert torch.equal(torch.cat([keep, masked], 1).sort(1).values, torch.arange(196).expand(5, -1))
    assert bool((noise.gather(1, keep).amax(1) <= noise.gather(1, masked).amin(1)).all())
    model = MaskedAutoencoder(CONFIG)
    torch.manual_seed(3)
    one = model(torch.randn(2, 3, 32, 32)).masked
    torch.manual_seed(3)
    assert torch.equal(model(torch.randn(2, 3, 32, 32)).masked, one)


def test_nothing_hidden_is_looked_at() -> None:
    model, noise = shaken(MaskedAutoencoder(CONFIG)), torch.rand(2, 16)
    images = torch.randn(2, 3, 32, 32)
    hidden = model.hide(images, noise, value=9.0)
    assert int((hidden == 9.0).sum()) == 2 * 12 * 8 * 8 * 3
    assert torch.equal(model(images, noise).predicted, model(hidden, noise).predicted)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_perfect_prediction_reconstructs_the_picture(normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MAEConfig(ENCODER, dim=16, depth=1, heads=2, normalise=normalise)
    model = MaskedAutoencoder(config).eval()
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    visible, masked = masking(noise, config.visible)
    patches = patchify(images, (8, 8), "channels last")
    truth = patches.gather(1, masked[..., None].expand(-1, -1, 192))
    if normalise:
        truth = (truth - truth.mean(-1, keepdim=True)) / (truth.var(-1, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(model.head, "forward", lambda x: truth)
    assert gap(model.reconstruct(images, noise), images) < 1e-5
    monkeypatch.setattr(model.head, "forward", lambda x: truth * 0 - 1)
    filled = patchify(model.reconstruct(images, noise), (8, 8), "channels last")
    assert torch.equal(filled.gather(1, visible[..., None].expand(-1, -1, 192)), patches.gather(
        1, visible[..., None].expand(-1, -1, 192)
    ))  # fmt: skip


def test_the_encoder_becomes_a_classifier() -> None:
    model = MaskedAutoencoder(CONFIG)
    classifier = ViT(
        ViTConfig(image=(32, 32), patch=8, dim=32, depth=2, heads=4, hidden=48, classes=5, positions="sincos")
    )
    missing, unexpected = classifier.load_state_dict(model.encoder.state_dict(), strict=False)
    assert set(missing) == {"head.weight", "head.bias"}
    assert unexpected == []


def test_recomputing_changes_nothing() -> None:
    plain, lean = MaskedAutoencoder(CONFIG), MaskedAutoencoder(CONFIG, recompute=True)
    lean.load_state_dict(plain.state_dict())
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    for model in (plain, lean):
        model(images, noise).predicted.square().sum().backward()
    for a, b in zip(plain.parameters(), lean.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


def test_public_sizes() -> None:
    """Parameters as ``models_mae.py`` has them: encoder 85.8, 303.3 and 630.8 million."""
    for name, millions in (("base_patch16", 85.65), ("large_patch16", 303.1), ("huge_patch14", 630.4)):
        with torch.device("meta"):
            model = mae(f"mae_vit_{name}")
        count = sum(p.numel() for p in model.encoder.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.3)
    assert len(PRESETS) == 3


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one of 16 patches"):
        MAEConfig(ENCODER, mask=0.99)
    with pytest.raises(ValueError, match="classes: 0"):
        MAEConfig(ViTConfig())
    with pytest.raises(ValueError, match=r"images of \(16, 16\)"):
        MaskedAutoencoder(CONFIG)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="a number for each patch"):
        MaskedAutoencoder(CONFIG)(torch.zeros(1, 3, 32, 32), torch.rand(1, 15))
