"""``sensorium explain``: what an image encoder looks at, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["explain"]

METHODS = ("attention", "rollout", "pca")


def explain(
    image: Annotated[Path, typer.Argument(help="picture: jpg, png, webp, ...")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="ViT: bundle, .ckpt of sensorium fit, folder, owner/name, timm's name")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="picture to write")] = Path("explain.png"),
    method: Annotated[
        list[str] | None, typer.Option("--method", help="only this (attention, rollout, pca); may be given again")
    ] = None,
    block: Annotated[int, typer.Option("--block", help="whose heads to show; -1 is the last")] = -1,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="pixels along the shorter side, rounded to patches; else as trained"),
    ] = None,
) -> None:
    """Show what each head looks at, the attention rollout, and the components of the patches as colours.

    Of a classifier, the five most probable classes are printed.

    Examples:

    sensorium explain cat.jpg --model facebook/dinov2-small

    sensorium explain cat.jpg -m runs/dino/version_0/last.ckpt --size 448 --method pca -o cat.png
    """
    from core.data.images import read_image
    from core.weights.files import replacing
    from sensorium.encoders import open_encoder
    from vision.vit import ViT

    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is written as PNG; give --out a name that ends in .png")
    chosen = method or list(METHODS)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise InputError(f"no method {unknown[0]!r}: choose from {', '.join(METHODS)}")
    picture = read_image(image)
    vit, prepare, labels = open_encoder(model)
    if not isinstance(vit, ViT):
        raise InputError(f"{model} is a {type(vit).__name__}, whose windows have no maps to show: expected a ViT")
    pixels = _pixels(picture, prepare, vit.config.patch, size)
    page = _page(vit, pixels, chosen, block)
    with replacing(out) as draft:
        page.save(draft, "PNG")
    if vit.config.classes:
        for name, probability in _best(vit, pixels, labels):
            print(f"{probability:6.1%}  {name}")
    print(out)


def _pixels(picture: Any, prepare: Any, patch: int, size: int | None) -> "Tensor":
    """The prepared picture (1, C, H, W); with a size, whole, its sides rounded to patches."""
    from dataclasses import replace

    if size is None:
        return prepare(picture)[None]
    scale = size / min(picture.size)
    height, width = (max(patch, round(side * scale / patch) * patch) for side in (picture.height, picture.width))
    if height * width > 4096 * 4096:
        raise InputError(f"--size {size} makes {width} x {height} pixels of this picture, more than 4096 x 4096")
    return replace(prepare, size=(height, width), shorter=None)(picture)[None]


def _page(vit: Any, pixels: "Tensor", methods: list[str], block: int) -> Any:
    from vision.explain import attention_maps, patch_colours, rollout_map
    from vision.pictures import as_colours, heat, overlay, sheet, shown

    picture = shown(pixels[0])
    cells, titles = [picture], ["image"]
    if "rollout" in methods:
        cells.append(overlay(picture, heat(rollout_map(vit, pixels)[0])))
        titles.append("rollout")
    if "pca" in methods:
        cells.append(as_colours(patch_colours(vit, pixels)[0]))
        titles.append("components")
    if "attention" in methods:
        maps = attention_maps(vit, pixels, block)[0]
        cells += [overlay(picture, heat(weights)) for weights in maps]
        titles += [f"head {head}" for head in range(len(maps))]
    columns = min(len(cells), 5)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    names = [titles[start : start + columns] for start in range(0, len(titles), columns)]
    return sheet(rows, names, side=224)


def _best(vit: Any, pixels: "Tensor", labels: tuple[str, ...]) -> list[tuple[str, float]]:
    import torch

    with torch.inference_mode():
        probabilities = vit(pixels).float().softmax(-1)[0]
    values, classes = probabilities.topk(min(5, len(probabilities)))
    names = [labels[index] if index < len(labels) else f"class {index}" for index in classes.tolist()]
    return list(zip(names, values.tolist(), strict=True))
