"""Pictures of what a model sees, drawn with PIL alone: arrays in, an image out."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["as_colours", "heat", "overlay", "sheet", "shown"]

# black, violet, red, orange, light yellow: dark to bright, so that it reads in grey too
_STOPS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)
GAP, LINE = 4, 16  # pixels between pictures, and of a line of text


def shown(image: Tensor, spread: bool = True) -> np.ndarray:
    """Return a prepared image (C, H, W) as a picture (H, W, 3) uint8.

    Args:
        image: one or three channels.
        spread: stretch its own range to 0..255, for tensors of whatever normalisation; else it is in 0..1.
    """
    x = image.detach().float().cpu()
    if spread:
        low, high = x.min(), x.max()
        x = (x - low) / (high - low).clamp_min(1e-12)
    x = x.expand(3, -1, -1) if len(x) == 1 else x[:3]
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)


def heat(values: Tensor) -> np.ndarray:
    """Return (h, w) values as colours (h, w, 3) uint8: the least is black, the most light yellow."""
    x = values.detach().double().cpu().numpy()
    x = (x - x.min()) / max(float(x.max() - x.min()), 1e-12)
    places = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(x, places, _STOPS[:, channel]) for channel in range(3)], -1).round().astype(np.uint8)


def as_colours(values: Tensor) -> np.ndarray:
    """Return (3, h, w) values in 0..1 as colours (h, w, 3) uint8."""
    return shown(values, spread=False)


def overlay(picture: np.ndarray, colours: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Lay colours (h, w, 3) over a picture (H, W, 3): they are enlarged smoothly to its size."""
    height, width = picture.shape[:2]
    large = np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return (picture * (1 - strength) + large * strength).round().astype(np.uint8)


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[Sequence[str]] = (), side: int = 160) -> Image.Image:
    """Return one picture of rows of pictures (H, W, 3), each enlarged or reduced to fit ``side`` pixels.

    Args:
        rows: as many pictures in each as there are columns; a row may be shorter.
        titles: above the pictures of each row; rows without any have no space for them.
        side: of the square in which each stands, in pixels.
    """
    above = [LINE if number < len(titles) and any(titles[number]) else 0 for number in range(len(rows))]
    step = side + GAP
    size = max(len(row) for row in rows) * step + GAP, len(rows) * step + GAP + sum(above)
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    top = GAP
    for number, row in enumerate(rows):
        for right, title in enumerate(titles[number] if above[number] else ()):
            pen.text((GAP + right * step, top), title, fill="black", font=font)
        for right, picture in enumerate(row):
            scale = side / max(picture.shape[:2])
            width, height = (max(1, round(length * scale)) for length in (picture.shape[1], picture.shape[0]))
            method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
            place = GAP + right * step, top + above[number]
            page.paste(Image.fromarray(picture).resize((width, height), method), place)
        top += above[number] + step
    return page
