"""``sensorium embed``: pictures to features, as a table."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from core.errors import InputError
from sensorium.text_files import read_lines

if TYPE_CHECKING:
    from vision.embed import Chunk, Embedder, Job

__all__ = ["embed"]


def embed(
    model: Annotated[
        str, typer.Option("--model", "-m", help="bundle, .ckpt of sensorium fit, folder, owner/name, or timm's name")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="table to write: .parquet, .csv or .npy")],
    images: Annotated[
        list[str] | None, typer.Argument(help="pictures: files, folders (searched at any depth), 'globs/*.jpg'")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="instead of pictures: a file with one text on a line (CLIP, SigLIP)")
    ] = None,
    feature: Annotated[
        Literal["pooled", "cls", "mean", "cls+mean"],
        typer.Option("--feature", help="what of the tokens: what the model's head gets, class token, mean of patches"),
    ] = "pooled",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="pictures in one pass")] = 32,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option("--precision", "-p", help="of the model; auto is bfloat16 where the device is faster at it"),
    ] = "auto",
) -> None:
    """Write one feature vector for each picture, or for each line of a text.

    What is done is kept beside the table until it is complete: the same command, run again after an interruption,
    goes on. Pictures that can't be read are named and left out.

    Examples:

    sensorium embed ~/photos --model facebook/dinov2-small --out features.parquet

    sensorium embed 'cats/*.jpg' dog.png -m runs/dino/version_0/last.ckpt -o features.npy --feature cls

    sensorium embed ~/photos -m vit_base_patch16_224.augreg_in21k -o features.csv --precision bfloat16

    sensorium embed --texts captions.txt -m ViT-B-32/laion2b_s34b_b79k -o captions.parquet
    """
    from vision.feature_files import FORMATS

    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out}: features are written as {', '.join(FORMATS)}; give --out a name that ends so")
    if (texts is None) == (not images):
        raise InputError("say what to embed: pictures, or --texts FILE")
    if texts is not None:
        _embed_texts(texts, model, out, precision)
    else:
        _embed_pictures(images or [], model, out, feature, batch_size, precision)


def _embed_pictures(images: list[str], model: str, out: Path, feature: Any, batch_size: int, precision: Any) -> None:
    from sensorium.pictures import find_pictures

    paths = find_pictures(images)
    embedder = _embedder(model, feature, batch_size, precision)
    from vision.embed import Job

    about = {
        "model": model,
        "feature": feature,
        "precision": str(embedder.dtype).removeprefix("torch."),
        "preparation": str(embedder.prepare),
    }
    job = Job(out.with_name(f"{out.name}.partial"), paths, about)
    try:
        good, bad = _run(job, embedder)
    except InputError:  # nothing can come of it, unlike of an interruption
        job.close()
        raise
    if good:
        from vision.feature_files import write_features

        write_features(out, job.rows(), good, job.chunk(0).features.shape[1], about)
    job.close()
    if good:
        print(f"{out}: {good} features" + (f"; {bad} pictures could not be read" if bad else ""))
    if bad:
        raise typer.Exit(1 if good else 2)


def _embed_texts(file: Path, model: str, out: Path, precision: Any) -> None:
    import torch

    from core.nn.precision import fast
    from multimodal.zero_shot import text_embeddings
    from sensorium.progress import progress_bar
    from sensorium.towers import is_towers, open_towers
    from vision.feature_files import write_features

    lines = read_lines(file)
    if not is_towers(model):
        raise InputError(f"{model} reads no texts: expected a CLIP or SigLIP")
    towers, tokenizer, *_ = open_towers(model)
    for index in tokenizer.too_long(lines):
        print(f"warning: {lines[index][:60]!r}... is longer than {tokenizer.context} tokens: cut", file=sys.stderr)
    quick: Any = fast(towers.to("cuda" if torch.cuda.is_available() else "cpu"), precision)
    with progress_bar() as progress:
        task = progress.add_task("embedding", total=len(lines))
        found = text_embeddings(
            quick, tokenizer, lines, lambda done, of: progress.update(task, completed=done, total=of)
        )
    about = {"model": model, "feature": "text", "precision": str(_dtype(quick)).removeprefix("torch.")}
    write_features(out, iter([(lines, found.cpu().numpy())]), len(lines), found.shape[1], about)
    print(f"{out}: {len(lines)} features")


def _embedder(model: str, feature: Any, batch_size: int, precision: Any) -> "Embedder":
    import torch

    from core.nn.precision import fast
    from sensorium.encoders import open_encoder
    from sensorium.towers import is_towers, open_towers
    from vision.embed import Embedder
    from vision.features import feature_width, image_features

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_towers(model):
        if feature != "pooled":
            raise InputError(f"{model} embeds pictures and texts into one space: leave out --feature {feature}")
        towers, _, prepare, *_ = open_towers(model)
        quick: Any = fast(towers.to(device), precision)
        return Embedder(quick.encode_image, towers.config.embed, prepare, batch_size, device, _dtype(quick))
    encoder, prepare, _ = open_encoder(model)
    quick = fast(encoder.to(device), precision)
    width = feature_width(encoder, feature)
    return Embedder(partial(image_features, quick, feature=feature), width, prepare, batch_size, device, _dtype(quick))


def _dtype(model: Any) -> Any:
    return next(model.parameters()).dtype


def _run(job: "Job", embedder: "Embedder") -> tuple[int, int]:
    """Embed under a progress bar, name what can't be read, and return how many could and couldn't."""
    from sensorium.progress import progress_bar

    counts = {True: 0, False: 0}
    with progress_bar() as progress:
        task = progress.add_task("embedding", total=len(job.paths))

        def advance(chunk: "Chunk") -> None:
            for error in chunk.errors:
                print(f"error: {error}", file=sys.stderr)
            counts[True] += int(chunk.good.sum())
            counts[False] += len(chunk.errors)
            progress.advance(task, len(chunk.good))

        job.run(embedder, advance)
    return counts[True], counts[False]
