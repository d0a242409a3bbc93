"""Any image encoder from any file: bundles, timm, Hugging Face, the authors' own."""

from pathlib import Path

from core.weights import is_bundle, read, read_bundle
from core.weights.published import Origin

from .swin import Swin
from .vit import ViT

__all__ = ["Encoder", "load_encoder"]

Encoder = ViT | Swin


def load_encoder(path: Path | str) -> tuple[Encoder, Origin]:
    """Load the image encoder in a file or folder, in float32; a masked autoencoder gives its encoder.

    Args:
        path: a bundle, or weights with the names of timm, Hugging Face, torchvision or the original repositories.
            Checkpoints of our own training: :func:`vision.tasks.trained.load_trained`.

    Returns:
        The model in evaluation mode, and where it came from.

    Raises:
        InputError: if there is none.
    """
    model, origin = _published(Path(path))
    return model.eval(), origin


def _published(path: Path) -> tuple[Encoder, Origin]:
    from .mae_weights import MAKERS as MASKED
    from .mae_weights import load_mae
    from .swin_weights import SWIN_MAKERS, load_swin
    from .weights import load_vit

    if is_bundle(path):
        kind = read_bundle(path).model
        if kind in MASKED:
            masked, info = load_mae(path)
            return masked.encoder, Origin("bundle", None, preprocessing=info.preprocessing)
        return load_swin(path) if kind in SWIN_MAKERS else load_vit(path)
    names = read(path).tensors
    if any(".relative_position_bias_table" in name or ".logit_scale" in name for name in names):
        return load_swin(path)
    if any(name.endswith("decoder_pred.weight") for name in names):
        masked, info = load_mae(path)
        return masked.encoder, Origin(info.layout, None, preprocessing=info.preprocessing)
    return load_vit(path)
