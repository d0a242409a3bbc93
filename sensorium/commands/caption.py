"""``sensorium caption``: what pictures show, in words."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from multimodal.vlm.chat import VisionLanguage

__all__ = ["caption"]

Format = Literal["text", "csv", "jsonl"]


def caption(
    images: Annotated[
        list[str], typer.Argument(help="pictures: files, folders (searched at any depth), 'globs/*.jpg'")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="LLaVA-1.5, Idefics, SmolVLM: bundle, .ckpt of sensorium fit, folder, owner/name; by default the "
            "small one of a checkout, which knows clothes",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="what is asked about each picture; else 'Describe this image.'"),
    ] = None,
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="by default what the output's ending says, else text")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file that grows; captions that it has are not made again")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="begin the output anew")] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="of a caption")] = 64,
    beams: Annotated[int, typer.Option("--beams", min=1, help="beginnings that are kept")] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest word, above it words are drawn")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", "-s", help="of the draws")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="pictures in one pass")] = 8,
) -> None:
    """Say what each picture shows.

    Pictures that can't be read are named, and the others are captioned. With an --output each batch is written when it
    is done; the same command, run again after an interruption, makes what is missing.

    Examples:

    sensorium caption photo.png

    sensorium caption ~/photos -o captions.csv -m HuggingFaceTB/SmolVLM-256M-Instruct

    sensorium caption '*.jpg' --prompt 'What colour is it?' --format jsonl > colours.jsonl
    """
    from multimodal.vlm.chat import CAPTION
    from sensorium.pictures import find_pictures
    from sensorium.sights import EMBEDDED, embedded_sight, find_sight, open_sight

    form = _form(format, output)
    paths = find_pictures(images)
    done = set() if output is None or overwrite or not output.exists() else _written(output, form)
    todo = [path for path in paths if str(path) not in done]
    ask = prompt or ("what is it?" if model is None or Path(model) == EMBEDDED else CAPTION)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "beams": beams, "temperature": temperature}
    bad = 0
    if todo:
        opened = open_sight(find_sight(model or embedded_sight()))
        with _place(output, form, fresh=not done) as file:
            writer = csv.writer(file)
            for path, said in _captions(opened, todo, ask, {**settings, "seed": seed}, batch_size):
                bad += said is None
                if said is not None:
                    _write(file, writer, form, path, said)
    if output is not None:
        print(f"{output}: {len(paths) - bad} captions{f', {len(done)} of them from before' if done else ''}")
    if bad:
        raise typer.Exit(1 if bad < len(paths) else 2)


def _captions(
    opened: "VisionLanguage", paths: list[Path], prompt: str, settings: dict[str, Any], batch: int
) -> Iterator[tuple[Path, str | None]]:
    """Each picture with its caption; None for one that can't be read."""
    from core.data.images import read_image

    for begin in range(0, len(paths), batch):
        images = {}
        for path in paths[begin : begin + batch]:
            try:
                images[path] = read_image(path)
            except InputError as error:
                print(f"warning: {error}", file=sys.stderr)
                yield path, None
        if images:
            found = opened.caption(list(images.values()), prompt, **settings)
            yield from ((path, " ".join(each.text.split())) for path, each in zip(images, found, strict=True))


def _form(given: Format | None, output: Path | None) -> Format:
    if given is not None:
        return given
    endings: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    return "text" if output is None else endings.get(output.suffix.lower(), "text")


def _place(output: Path | None, form: Format, fresh: bool) -> Any:
    from contextlib import nullcontext

    if output is None:
        if form == "csv":
            csv.writer(sys.stdout).writerow(["image", "caption"])
        return nullcontext(sys.stdout)
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.open("w" if fresh else "a", encoding="utf-8", newline="")
    if fresh and form == "csv":
        csv.writer(file).writerow(["image", "caption"])
    return file


def _write(file: TextIO, writer: Any, form: Format, path: Path, said: str) -> None:
    if form == "csv":
        writer.writerow([str(path), said])
    elif form == "jsonl":
        file.write(json.dumps({"image": str(path), "caption": said}, ensure_ascii=False) + "\n")
    else:
        file.write(f"{path}: {said}\n")
    file.flush()


def _written(output: Path, form: Format) -> set[str]:
    """The pictures that an output has; what an interruption left half written is cut off, and made again."""
    raw = output.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        output.write_bytes(whole)
    try:
        lines = whole.decode("utf-8").splitlines()
        if form == "csv":
            rows = list(csv.reader(lines))
            if rows and rows[0] != ["image", "caption"]:
                raise ValueError
            return {row[0] for row in rows[1:] if row}
        if form == "jsonl":
            return {str(json.loads(line)["image"]) for line in lines if line.strip()}
        return {line.partition(": ")[0] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{output} is there and holds no captions in {form}: give another name, or --overwrite") from (
            error
        )
