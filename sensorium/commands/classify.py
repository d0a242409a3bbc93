"""``sensorium classify``: what pictures show, out of labels in words."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from core.errors import InputError
from sensorium.text_files import read_lines

if TYPE_CHECKING:
    import numpy as np

    from multimodal.zero_shot import ZeroShotClassifier

__all__ = ["classify"]


def classify(
    images: Annotated[
        list[str], typer.Argument(help="pictures: files, folders (searched at any depth), 'globs/*.jpg'")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="CLIP or SigLIP: bundle, folder, file, owner/name, or ViT-B-32/laion2b_s34b_b79k; by default the "
            "small one of a checkout, which knows clothes",
        ),
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", "-l", help="to choose from, with commas between")] = None,
    labels_file: Annotated[Path | None, typer.Option("--labels-file", help="the same, one on a line")] = None,
    dataset: Annotated[
        Literal["imagenet"] | None, typer.Option("--dataset", help="whose classes to choose from")
    ] = None,
    templates: Annotated[
        list[str] | None,
        typer.Option("--templates", "-t", help="plain, photo, simple, openai, or a sentence with {}; may be repeated"),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="labels to show for each picture")] = 5,
    format: Annotated[Literal["table", "json", "csv"], typer.Option("--format", "-f", help="of the result")] = "table",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="pictures in one pass")] = 32,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option("--precision", "-p", help="of the model; auto is bfloat16 where the device is faster at it"),
    ] = "auto",
) -> None:
    """Say which label fits each picture best, without any training: the labels are read as text.

    Probabilities of a CLIP add up to 100 % over the labels; those of a SigLIP are each label's own.
    Pictures that can't be read are named, and the others are classified.

    Examples:

    sensorium classify cat.jpg --labels 'a cat,a dog,a bird' -m openai/clip-vit-base-patch32

    sensorium classify ~/photos --labels-file animals.txt -m ViT-B-16-SigLIP/webli --format csv > found.csv

    sensorium classify demo_out/pictures --labels 'dress,coat,sandal,bag'

    sensorium classify '*.jpg' --dataset imagenet --templates openai -m ViT-B-32/laion2b_s34b_b79k --top 3
    """
    from multimodal.zero_shot import checked
    from sensorium.pictures import find_pictures
    from sensorium.towers import embedded

    names = checked(_labels(labels, labels_file, dataset))
    paths = find_pictures(images)
    sentences = _sentences(templates, dataset)
    classifier, prepare = _classifier(model or embedded(), names, sentences, precision)
    bad = _show(_judged(classifier, prepare, paths, batch_size), names, min(top, len(names)), format)
    if bad:
        raise typer.Exit(1 if bad < len(paths) else 2)


def _labels(labels: str | None, file: Path | None, dataset: str | None) -> list[str]:
    given = [option for option in (labels, file, dataset) if option is not None]
    if len(given) != 1:
        raise InputError(
            "say what to choose from by one of --labels 'cat,dog', --labels-file FILE and --dataset imagenet"
        )
    if labels is not None:
        return labels.split(",")
    if file is not None:
        return read_lines(file)
    from multimodal.templates import imagenet_labels

    return list(imagenet_labels())


def _sentences(given: list[str] | None, dataset: str | None) -> tuple[str, ...]:
    from multimodal.templates import SETS, templates

    if not given:
        return templates("openai" if dataset == "imagenet" else "photo")
    return templates(given[0]) if len(given) == 1 and given[0] in SETS else templates(given)


def _classifier(model: str, labels: tuple[str, ...], sentences: tuple[str, ...], precision: Any) -> tuple[Any, Any]:
    import torch

    from multimodal.zero_shot import ZeroShotClassifier
    from sensorium.progress import progress_bar
    from sensorium.towers import open_towers

    towers, tokenizer, prepare, *_ = open_towers(model)
    texts = {sentence.replace("{}", label): label for label in labels for sentence in sentences}
    cut = {list(texts.values())[index]: None for index in tokenizer.too_long(list(texts))}
    for label in cut:
        print(f"warning: {label!r} is longer than the {tokenizer.context} tokens the model reads: cut", file=sys.stderr)
    towers = towers.to("cuda" if torch.cuda.is_available() else "cpu")
    with progress_bar() as progress:
        task = progress.add_task("reading labels", total=len(texts))
        classifier = ZeroShotClassifier(
            towers, tokenizer, labels, sentences, precision, lambda done, of: progress.update(task, completed=done)
        )
    return classifier, prepare


def _judged(
    classifier: "ZeroShotClassifier", prepare: Any, paths: list[Path], batch_size: int
) -> "Iterator[tuple[Path, np.ndarray | None]]":
    """Each picture and its probabilities (labels,), None if it can't be read, which is said."""
    from sensorium.progress import progress_bar
    from vision.embed import Embedder

    width = len(classifier.labels)
    embedder = Embedder(classifier, width, prepare, batch_size, classifier.device, classifier.dtype)
    rest = iter(paths)
    with progress_bar() as progress:
        task = progress.add_task("classifying", total=len(paths))
        for chunk in embedder(paths):
            for error in chunk.errors:
                print(f"error: {error}", file=sys.stderr)
            for row, good in zip(chunk.features, chunk.good, strict=True):
                yield next(rest), row if good else None
            progress.advance(task, len(chunk.good))


def _show(found: "Iterator[tuple[Path, np.ndarray | None]]", labels: tuple[str, ...], top: int, format: str) -> int:
    """Print the best labels of each picture; return how many pictures couldn't be read."""
    bad = 0
    rows: list[tuple[str, list[tuple[str, float]]]] = []
    for path, row in found:
        if row is None:
            bad += 1
        else:
            rows.append(
                (str(path), [(labels[index], float(row[index])) for index in (-row).argsort(kind="stable")[:top]])
            )
    if format == "json":
        print(json.dumps([{"path": name, "labels": dict(best)} for name, best in rows], indent=1, ensure_ascii=False))
    elif format == "csv":
        table = csv.writer(sys.stdout)
        table.writerow(["path", "rank", "label", "probability"])
        for name, best in rows:
            table.writerows([name, rank, label, f"{value:.6f}"] for rank, (label, value) in enumerate(best, 1))
    elif rows:
        _print_table(rows)
    return bad


def _print_table(rows: list[tuple[str, list[tuple[str, float]]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("picture", "label", "probability", box=None)
    table.columns[2].justify = "right"
    for name, best in rows:
        for number, (label, value) in enumerate(best):
            table.add_row("" if number else name, label, f"{100 * value:.1f} %")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
