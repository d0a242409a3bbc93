"""How the pictures of a two-tower model are prepared, by open_clip's words and by its defaults."""

from collections.abc import Mapping
from typing import Any

from core.errors import InputError
from core.weights.published import Origin
from vision.preprocess import Preparation, preparation

__all__ = ["CLIP_MEAN", "CLIP_STD", "preparation_for"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)


def preparation_for(model: Any, origin: Origin) -> Preparation:
    """Return how images are prepared for a model.

    Hugging Face's ``preprocessor_config.json`` and our bundles are followed as for any encoder. open_clip says what
    differs from its defaults: CLIP's mean and deviation, the shorter side resized and the centre cropped. SigLIP
    without a word is resized as it is, with 0.5 for mean and deviation.

    Raises:
        InputError: if what is said can't be followed.
    """
    said, config = origin.preprocessing, model.config.image
    if said and not origin.layout.startswith("open_clip"):
        return preparation(config.image, config.channels, said)
    return _open_clip(config.image, said, siglip=bool(model.sigmoid))


def _open_clip(image: tuple[int, int], said: Mapping[str, Any], siglip: bool) -> Preparation:
    mode = said.get("resize_mode") or ("squash" if siglip else "shortest")
    if mode not in ("shortest", "squash"):
        raise InputError(f"the model's preprocessing resizes by {mode!r}: shortest and squash are known")
    squash = mode == "squash" or image[0] != image[1]
    return Preparation(
        image,
        None if squash else image[0],
        str(said.get("interpolation") or "bicubic").upper(),
        tuple(map(float, said.get("mean") or (_HALF if siglip else CLIP_MEAN))),
        tuple(map(float, said.get("std") or (_HALF if siglip else CLIP_STD))),
    )
