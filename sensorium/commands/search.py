"""``sensorium search``: pictures by words, or by a picture."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from core.errors import InputError

__all__ = ["search"]


def search(
    query: Annotated[str, typer.Argument(help="words, or a picture's file")],
    index: Annotated[
        Path, typer.Option("--index", "-i", help="a .parquet made by sensorium embed, or a folder with one in it")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="CLIP or SigLIP; by default what the index was made with")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="how many to find")] = 12,
    html: Annotated[
        Path | None, typer.Option("--html", help="also write a page with the pictures that were found")
    ] = None,
    format: Annotated[Literal["table", "json"], typer.Option("--format", "-f", help="of the result")] = "table",
) -> None:
    """Find what fits some words or a picture best, in embeddings of pictures or of texts.

    Examples:

    sensorium embed ~/photos -m ViT-B-32/laion2b_s34b_b79k -o photos.parquet

    sensorium search 'a dog on the beach' --index photos.parquet --html found.html

    sensorium search cat.jpg --index photos.parquet --top 5 --format json
    """
    from multimodal.search import Index
    from vision.feature_files import read_features

    names, embeddings, about = read_features(_table(index))
    held = Index(names, embeddings)
    source = model or about.get("model")
    if not source:
        raise InputError(f"{index} doesn't say which model made it: give --model")
    found = held.search(_embedded(query, source), top)[0]
    if html is not None:
        from multimodal.contact_sheet import contact_sheet

        contact_sheet(html, query, [(Path(name), f"{value:.3f}") for name, value in found])
    if format == "json":
        print(json.dumps([{"path": name, "similarity": value} for name, value in found], indent=1, ensure_ascii=False))
    else:
        print("\n".join(f"{value:.3f}  {name}" for name, value in found))


def _table(index: Path) -> Path:
    if not index.is_dir():
        return index
    tables = sorted(index.glob("*.parquet"))
    if len(tables) != 1:
        raise InputError(f"{index} has {len(tables)} .parquet files: give the one to search in")
    return tables[0]


def _embedded(query: str, model: str) -> Any:
    """The query as (1, embed)."""
    import torch

    from core.data.images import read_image
    from multimodal.zero_shot import text_embeddings
    from sensorium.towers import is_towers, open_towers

    if not query.strip():
        raise InputError("the query is empty: expected words, or a picture's file")
    path = Path(query).expanduser()
    if is_towers(model):
        towers, tokenizer, prepare, *_ = open_towers(model)
        if not path.is_file():
            return text_embeddings(towers, tokenizer, [query]).numpy()
        with torch.inference_mode():
            return towers.encode_image(prepare(read_image(path))[None]).numpy()
    if not path.is_file():
        raise InputError(f"{query!r} is no file, and {model} reads no words: expected a picture, or a CLIP or SigLIP")
    from sensorium.encoders import open_encoder
    from vision.features import image_features

    encoder, prepare, _ = open_encoder(model)
    with torch.inference_mode():
        return image_features(encoder, prepare(read_image(path))[None]).numpy()
