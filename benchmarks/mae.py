"""The training step of MAE against transformers and lightly.

python -m benchmarks.mae [--repeats 9] [--threads 2]
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.harness import Case, Contender, main, options
from core.train.optim import Optim
from vision.losses.mae import mae_loss
from vision.mae import MaskedAutoencoder
from vision.mae_weights import export_mae, facebook, mae

IMAGES = 8
PATCHES = 196
LR = 1e-9  # so small that all steps do the same work on nearly the same weights


class Lightly(nn.Module):
    """MAE as lightly's example puts its modules together, with the sizes of the paper."""

    def __init__(self) -> None:
        super().__init__()
        vit = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the decoder is to be renamed in a later version
            self.decoder = MAEDecoderTIMM(num_patches=PATCHES, patch_size=16, embed_dim=768)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)

    def forward(self, images: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        """The loss of images (B, C, H, W) for the numbers of tokens, the class token's being 0."""
        encoded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        size = images.shape[0], self.backbone.sequence_length
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        predicted = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), masked))
        target = utils.get_at_index(utils.patchify(images, 16), masked - 1)
        return F.mse_loss(predicted, utils.normalize_mean_var(target))


def inputs() -> tuple[Tensor, Tensor]:
    """Images (B, 3, 224, 224) and the noise (B, 196) by which patches are hidden."""
    make = torch.Generator().manual_seed(1)
    return torch.randn(IMAGES, 3, 224, 224, generator=make), torch.rand(IMAGES, PATCHES, generator=make)


def base() -> MaskedAutoencoder:
    """Ours, the same whenever it is built."""
    torch.manual_seed(0)
    return mae("mae_vit_base_patch16").train()


def hugging_face() -> nn.Module:
    """That of transformers with our weights."""
    with tempfile.TemporaryDirectory() as folder:
        export_mae(base(), Path(folder) / "model.safetensors", layout="huggingface-mae")
        ViTMAEConfig(layer_norm_eps=1e-6, norm_pix_loss=True).save_pretrained(folder)
        return ViTMAEForPreTraining.from_pretrained(folder).train()


def lightly() -> Lightly:
    """That of lightly with our weights."""
    model, ours = Lightly().train(), base()
    tensors = facebook(ours.config).export(ours.state_dict())
    parts = {True: model.decoder, False: model.backbone.vit}
    for decodes, part in parts.items():
        names = [name for name in tensors if name.startswith(("decoder", "mask")) is decodes]
        part.load_state_dict({name: tensors[name] for name in names})
    return model


def repeat(
    loss_of: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, images: Tensor, autocast: bool
) -> Callable[[], Tensor]:
    """A step: forward, backward, optimizer. It returns the loss."""

    def step() -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach().float()

    return step


def of_ours(dtype: torch.dtype) -> Callable[[], Tensor]:
    """A step as `vision.tasks.mae.MAE` takes it; with bfloat16 weights the optimizer keeps them in float32 too."""
    model = base().to(dtype)
    images, noise = inputs()

    def loss_of(images: Tensor) -> Tensor:
        found = model(images, noise)
        return mae_loss(found.predicted, images, found.masked, 16)

    return repeat(loss_of, Optim(lr=LR).build(model), images.to(dtype), False)


def of_peer(model: nn.Module, dtype: torch.dtype, autocast: bool = False) -> Callable[[], Tensor]:
    """A step of transformers' or lightly's model with PyTorch's fused AdamW."""
    model = model.to(dtype)
    images, noise = inputs()
    order = noise.argsort(1) + 1
    visible = base().config.visible
    keep, masked = torch.cat([torch.zeros(IMAGES, 1, dtype=torch.int64), order[:, :visible]], 1), order[:, visible:]

    def loss_of(images: Tensor) -> Tensor:
        loss: Tensor = model(images, keep, masked) if isinstance(model, Lightly) else model(images, noise=noise).loss
        return loss

    trained = [p for p in model.parameters() if p.requires_grad]
    return repeat(loss_of, torch.optim.AdamW(trained, lr=LR, fused=True), images.to(dtype), autocast)


def mae_fp32() -> Case:
    """Exact arithmetic."""
    return Case(
        f"MAE step, ViT-B/16, {IMAGES} x 224, fp32",
        [
            Contender("sensorium fp32", of_ours(torch.float32)),
            Contender("transformers fp32", of_peer(hugging_face(), torch.float32)),
            Contender("lightly fp32", of_peer(lightly(), torch.float32)),
        ],
        unit="images/s",
        items=IMAGES,
        tolerance=1e-4,
    )


def mae_bf16() -> Case:
    """Ours with bfloat16 weights and copies of them in float32; the peers under autocast, and with bfloat16 weights."""
    half = torch.bfloat16
    return Case(
        f"MAE step, ViT-B/16, {IMAGES} x 224, bf16",
        [
            Contender("sensorium bf16, fp32 copies", of_ours(half)),
            Contender("transformers bf16 autocast", of_peer(hugging_face(), torch.float32, True)),
            Contender("transformers bf16 weights", of_peer(hugging_face(), half)),
            Contender("lightly bf16 autocast", of_peer(lightly(), torch.float32, True)),
            Contender("lightly bf16 weights", of_peer(lightly(), half)),
        ],
        unit="images/s",
        items=IMAGES,
        tolerance=0.02,
    )


if __name__ == "__main__":
    main("mae", [mae_fp32, mae_bf16], options(__doc__))
