"""``sensorium export``: a model in the format that other software reads."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from core.errors import InputError

__all__ = ["export"]

Format = Literal[
    "bundle", "timm", "huggingface", "huggingface-bare", "meta", "onnx", "open_clip", "openai", "ctranslate2"
]
TOWERS = ("bundle", "huggingface", "open_clip", "openai")  # what a two-tower model can be written as
WHISPER = ("bundle", "huggingface", "openai", "ctranslate2")  # and a Whisper
NAMES = {"onnx": "model.onnx", "ctranslate2": "model.bin"}  # of a file in a folder, else model.safetensors


def export(
    model: Annotated[
        Path,
        typer.Argument(
            help="image encoder, CLIP, SigLIP, Whisper, DiT or vision-language model: bundle, .ckpt of sensorium fit, "
            "weights of others; or a Whisper's name"
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="PATH", help="file to write, or a folder for it (my/); for a bundle, its folder"
        ),
    ],
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="names to write; by default what the output's ending says, else bundle"),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option("--precision", "-p", help="of safetensors; by default as the weights came"),
    ] = None,
) -> None:
    """Write a model as a bundle, as safetensors with the names that others use, or as ONNX.

    Image encoders have names of timm, Hugging Face and Meta, CLIP and SigLIP those of open_clip, Hugging Face and
    OpenAI, a Whisper those of Hugging Face (with config.json beside the file), OpenAI and CTranslate2. A bundle of a
    CLIP or SigLIP holds its tokenizer too.

    What was written is read again (ONNX: run) and compared with the model before the command ends.

    Examples:

    sensorium export runs/mae/best.ckpt -o my_encoder/

    sensorium export my_encoder -f timm -o model.safetensors

    sensorium export my_encoder -o encoder.onnx

    sensorium export runs/clip/last.ckpt -o my_clip/ --precision float16

    sensorium export runs/whisper/best.ckpt -f huggingface -o my_whisper/model.safetensors
    """
    from audio.checkpoints import CHECKPOINTS, find_whisper
    from core.weights.files import replacing
    from sensorium.encoders import load_any
    from sensorium.generators import is_generator
    from sensorium.languages import is_language
    from sensorium.sights import is_sight
    from sensorium.towers import is_towers
    from sensorium.whispers import is_whisper

    kind: Format = format or ("onnx" if output.endswith(".onnx") else "bundle")
    if format is None and output.endswith(".safetensors"):
        raise InputError(
            "safetensors may have the names of several: choose with --format timm, huggingface, open_clip, ..."
        )
    place = _place(output, kind)
    if not model.exists() and str(model) in CHECKPOINTS:
        model = find_whisper(str(model))
    if model.exists() and is_generator(model):
        _export_generator(model, place, kind, precision)
        return
    if model.exists() and is_sight(model):
        _export_sight(model, place, kind, precision)
        return
    if model.exists() and is_language(model):
        _export_language(model, place, kind, precision)
        return
    if model.exists() and is_whisper(model):
        _export_whisper(model, place, kind, precision)
        return
    if is_towers(str(model)):
        _export_towers(model, place, kind, precision)
        return
    if kind in ("open_clip", "openai"):
        raise InputError(f"{model} reads no texts, and {kind} has names for CLIP and SigLIP only")
    encoder, origin = load_any(model)
    if kind == "onnx":
        from core.weights.onnx import write_onnx

        gap = write_onnx(encoder, _example(encoder), place, names=("images", "output"))
        print(f"{place}: ONNX Runtime's results differ by {gap:.1e} at most")
    elif kind == "bundle":
        from sensorium.bundles import write_encoder_bundle

        write_encoder_bundle(encoder, origin, place, precision)
        print(f"{place}: a bundle; sensorium.load({str(place)!r}) opens it")
    else:
        with replacing(place) as draft:
            _write(encoder, origin, draft, kind, precision)
            _compare(encoder, draft, precision)
        print(f"{place}: safetensors with the names of {kind}, read again and compared")


def _place(output: str, kind: str) -> Path:
    """The file to write, by its usual name where a folder is given: one that is there, or whose name ends in ``/``.

    Raises InputError if the folder has a file of that name: it may be the weights of another format.
    """
    place = Path(output)
    if kind == "bundle" or not (place.is_dir() or output.endswith(("/", os.sep))):
        return place
    place /= NAMES.get(kind, "model.safetensors")
    if place.exists():
        raise InputError(f"{place} is there already: name the file to write")
    return place


def _export_language(model: Path, output: Path, kind: str, precision: str | None) -> None:
    """Write a language model."""
    import torch

    from multimodal.decoder_weights import export_decoder
    from sensorium.bundles import write_language_bundle
    from sensorium.languages import language_parts

    if kind not in ("bundle", "huggingface"):
        raise InputError(f"a language model can't be written as {kind}: choose bundle or huggingface")
    parts = language_parts(model)
    if kind == "bundle":
        write_language_bundle(parts, output, precision)
        print(f"{output}: a bundle; sensorium.load({str(output)!r}) opens it")
        return
    # without a precision the weights leave as they came
    whole = parts.decoder if precision is None else parts.decoder.to(getattr(torch, precision))
    export_decoder(whole, output, parts.source if precision is None else None)
    print(f"{output}: safetensors with the names of {kind}")


def _export_whisper(model: Path, output: Path, kind: str, precision: str | None) -> None:
    """Write a Whisper, read it again, and see that it writes as before."""
    import torch

    from audio.export import write_whisper
    from sensorium.bundles import write_whisper_bundle
    from sensorium.whispers import open_whisper

    if kind not in WHISPER:
        raise InputError(f"a Whisper can't be written as {kind}: choose one of {', '.join(WHISPER)}")
    whisper, info = open_whisper(model)
    if kind == "bundle":
        write_whisper_bundle(whisper, info.source, output, precision)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        source = info.source if info.layout == kind and precision is None else None
        halved = whisper if precision is None else whisper.to(getattr(torch, precision))
        write_whisper(halved, output, kind, source)
        whisper.float()
    again = open_whisper(output)[0]
    config = whisper.config
    mel = torch.randn(1, config.mels, 2 * config.audio_context, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(min(8, config.text_context))[None]
    with torch.no_grad():
        gap = float((again.eval()(mel, tokens) - whisper(mel, tokens)).abs().max())
    print(f"{output}: {'a bundle' if kind == 'bundle' else f'names of {kind}'}, read again; logits differ by {gap:.1e}")


def _export_sight(model: Path, output: Path, kind: str, precision: str | None) -> None:
    """Write a vision-language model, read it again, and see that it answers as before."""
    import torch

    from multimodal.vlm.weights import export_vlm, load_vlm
    from sensorium.sights import open_sight, write_sight_bundle

    if kind not in ("bundle", "huggingface"):
        raise InputError(f"a vision-language model can't be written as {kind}: choose bundle or huggingface")
    opened = open_sight(model)
    mine: Any = opened.model.cpu()
    if kind == "bundle":
        write_sight_bundle(opened, output, precision)
        again: Any = load_vlm(output)[0]
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        halved = mine if precision is None else mine.to(getattr(torch, precision))
        export_vlm(halved, output, opened.source if precision is None else None)
        mine.float()
        again = load_vlm(output, mine.config)[0]
    eye = mine.config.eye
    pixels = torch.randn(1, eye.channels, *eye.image, generator=torch.Generator().manual_seed(0))
    images = getattr(mine, "tokens_of_a_picture", 1)
    others = [token for token in range(8) if token != mine.image_token]
    ids = torch.tensor([[others[0]] + [mine.image_token] * images + others[1:]])
    with torch.no_grad():
        gap = float((again(ids, images=pixels).x - mine(ids, images=pixels).x).abs().max())
    form = "a bundle" if kind == "bundle" else "names of huggingface"
    print(f"{output}: {form}, read again; logits differ by {gap:.1e}")


def _export_generator(model: Path, output: Path, kind: str, precision: str | None) -> None:
    """Write a diffusion model, read it again, and see that it predicts as before."""
    import torch

    from sensorium.bundles import write_generator_bundle
    from sensorium.generators import open_generator

    if kind != "bundle":
        raise InputError(f"a diffusion model can't be written as {kind}: leave out --format for a bundle")
    opened = open_generator(model)
    config = opened.model.config
    x = torch.randn(2, config.channels, *config.image, generator=torch.Generator().manual_seed(0))
    t, asked = torch.full((2,), 0.5), [0, 0] if opened.prompts is None else ["a dog", "a photo of two cats"]
    told = opened.generator("float32").condition(asked)
    with torch.no_grad():
        expected = opened.model(x, t, told)
        write_generator_bundle(opened, output, precision)
        again = open_generator(output)
        told = again.generator("float32").condition(asked)
        gap = float((again.model(x, t, told) - expected).abs().max())
    print(f"{output}: a bundle, read again; predictions differ by {gap:.1e}")


def _example(encoder: Any) -> Any:
    import torch

    config = encoder.config
    return torch.randn(2, config.channels, *config.image, generator=torch.Generator().manual_seed(0))


def _export_towers(model: Path, output: Path, kind: str, precision: str | None) -> None:
    """Write a two-tower model, read it again, and see that it embeds as before."""
    import torch

    from core.weights.files import replacing
    from sensorium.bundles import write_towers_bundle
    from sensorium.towers import open_towers

    if kind not in TOWERS:
        raise InputError(f"a model of images and texts can't be written as {kind}: choose one of {', '.join(TOWERS)}")
    towers = open_towers(str(model))
    if kind == "bundle":
        write_towers_bundle(towers, output, precision)
        again = open_towers(str(output))
        texts = ["a cat", "a photo of two dogs, and a bird"]
        with torch.no_grad():
            expected = towers.model.encode_text(towers.tokenizer(texts))
            gap = float((again.model.encode_text(again.tokenizer(texts)) - expected).abs().max())
        print(
            f"{output}: a bundle with {len(towers.tokenizer_files)} files of its tokenizer; texts differ by {gap:.1e}"
        )
        return
    with replacing(output) as draft:
        _write_towers(towers, draft, kind, precision)
    print(f"{output}: safetensors with the names of {kind}")


def _write_towers(towers: Any, path: Path, layout: str, precision: str | None) -> None:
    import torch

    from multimodal.coca import CoCa
    from multimodal.coca_weights import export_coca
    from multimodal.weights import export_two_towers

    model, source = towers.model, towers.origin.source
    kept = source if source is not None and source.table.startswith(layout) and not precision else None
    if precision is not None:
        model = model.to(getattr(torch, precision))
    if not isinstance(model, CoCa):
        export_two_towers(model, path, kept, layout)
    elif layout == "open_clip":
        export_coca(model, path, kept)
    else:
        raise InputError(f"a CoCa has no names of {layout}: open_clip has them")


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
