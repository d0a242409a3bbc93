"""Pictures with what made them inside: PNG files whose text says the settings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_settings", "write_animation", "write_picture"]

KEY = "sensorium"  # of the text in a PNG
LEAST = 128  # pixels of the shorter side of an animation: a smaller one is enlarged


def write_picture(path: Path, picture: "np.ndarray", settings: Mapping[str, Any]) -> None:
    """Write a picture (H, W, 1 or 3) uint8 as PNG with the settings, plain data, as JSON in its text.

    The file appears when it is complete.
    """
    from importlib.metadata import version

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from core.weights.files import replacing

    text = PngInfo()
    text.add_text("Software", f"sensorium {version('sensorium')}")
    text.add_text(KEY, json.dumps(settings, ensure_ascii=True, sort_keys=True))
    with replacing(path) as draft:
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(draft, "PNG", pnginfo=text)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings in a picture; None if it is no picture of ours, or not a whole one."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            settings = json.loads(image.info.get(KEY, "null"))
    except (OSError, ValueError, SyntaxError):  # what PIL raises for files that are cut or damaged
        return None
    return settings if isinstance(settings, dict) else None


def write_animation(path: Path, frames: "Sequence[np.ndarray]", seconds: float = 3.0) -> None:
    """Write frames (H, W, 3) uint8 as an animated WebP that lasts that long, and a second more on the last one.

    The file appears when it is complete.
    """
    from PIL import Image

    from core.weights.files import replacing

    height, width = frames[0].shape[:2]
    times = max(1, -(-LEAST // min(height, width)))
    images = [
        Image.fromarray(frame).resize((width * times, height * times), Image.Resampling.NEAREST) for frame in frames
    ]
    each = max(20, round(1000 * seconds / len(images)))
    with replacing(path) as draft:
        images[0].save(
            draft,
            "WEBP",
            save_all=True,
            append_images=images[1:],
            duration=[each] * (len(images) - 1) + [each + 1000],
            loop=0,
            quality=90,
        )
