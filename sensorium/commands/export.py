"""``sensorium export``: a model in the format that other software reads."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from core.errors import InputError

__all__ = ["export"]

Format = Literal["bundle", "timm", "huggingface", "huggingface-bare", "meta", "onnx"]


def export(
    model: Annotated[Path, typer.Argument(help="image encoder: bundle, .ckpt of sensorium fit, weights of others")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write; for a bundle, the folder")],
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="names to write; by default what the output's ending says, else bundle"),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option("--precision", "-p", help="of safetensors; by default as the weights came"),
    ] = None,
) -> None:
    """Write an image encoder as a bundle, as safetensors with the names of timm, Hugging Face or Meta, or as ONNX.

    What was written is read again (ONNX: run) and compared with the model before the command ends.

    Examples:

    sensorium export runs/mae/best.ckpt -o my_encoder/

    sensorium export my_encoder -f timm -o model.safetensors

    sensorium export my_encoder -o encoder.onnx
    """
    from core.weights.files import replacing
    from sensorium.encoders import load_any

    kind: Format = format or ("onnx" if output.suffix == ".onnx" else "bundle")
    if format is None and output.suffix == ".safetensors":
        raise InputError("safetensors may have the names of several: choose with --format timm, huggingface or meta")
    if output.is_dir() and kind != "bundle":
        raise InputError(f"{output} is a folder: name the file to write")
    encoder, origin = load_any(model)
    if kind == "onnx":
        from core.weights.onnx import write_onnx

        gap = write_onnx(encoder, _example(encoder), output, names=("images", "output"))
        print(f"{output}: ONNX Runtime's results differ by {gap:.1e} at most")
    elif kind == "bundle":
        _write_bundle(encoder, origin, output)
        print(f"{output}: a bundle; sensorium.load({str(output)!r}) opens it")
    else:
        with replacing(output) as draft:
            _write(encoder, origin, draft, kind, precision)
            _compare(encoder, draft, precision)
        print(f"{output}: safetensors with the names of {kind}, read again and compared")


def _example(encoder: Any) -> Any:
    import torch

    config = encoder.config
    return torch.randn(2, config.channels, *config.image, generator=torch.Generator().manual_seed(0))


def _write_bundle(encoder: Any, origin: Any, folder: Path) -> None:
    from dataclasses import asdict

    from core.weights import Bundle, save_bundle

    source = origin.source
    name = f"vision.{type(encoder).__name__}"
    said = Bundle(name, asdict(encoder.config), preprocessing=origin.preprocessing, labels=origin.labels, source=source)
    save_bundle(folder, encoder, said)


def _write(encoder: Any, origin: Any, path: Path, layout: str, precision: str | None) -> None:
    """Write safetensors; where the names are those that the weights came with, byte for byte as they came."""
    import torch

    from vision.swin import Swin
    from vision.swin_weights import export_swin
    from vision.weights import export_vit

    source = origin.source if origin.source is not None and origin.source.table == layout and not precision else None
    if precision is not None:
        encoder = encoder.to(getattr(torch, precision))
    write: Any = export_swin if isinstance(encoder, Swin) else export_vit
    try:
        write(encoder, path, source, layout)
    finally:
        encoder.float()


def _compare(encoder: Any, path: Path, precision: str | None) -> None:
    """Read the file as anyone would and see that it says the same.

    Raises InputError if it doesn't.
    """
    import torch

    from vision.swin import Swin
    from vision.swin_weights import load_swin
    from vision.weights import load_vit

    load: Any = load_swin if isinstance(encoder, Swin) else load_vit
    again = load(path, encoder.config)[0].eval()
    images = _example(encoder)
    with torch.no_grad():
        expected, found = encoder(images), again(images)
    gap = float((expected - found).abs().max())
    if gap > (0.0 if precision in (None, "float32") else 1e-6) * max(1.0, float(expected.abs().max())):
        raise InputError(f"{path.name}: read again, the model differs by {gap:.2g}; nothing was written")
