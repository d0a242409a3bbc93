"""``sensorium complete``: a language model goes on with a text."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from core.errors import InputError

__all__ = ["complete"]


def complete(
    prompt: Annotated[str | None, typer.Argument(help="text to go on with; without it, all of standard input")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Llama, Mistral, Qwen, SmolLM2, GPT-2: bundle, .ckpt of sensorium fit, folder, owner/name",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "-n", min=1, help="by default 256 at most")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest token, above it tokens are drawn")
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option("--top-k", help="draw among so many of the likeliest")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="draw among the likeliest with this share")] = None,
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", help="draw among those with this share of the likeliest one's"),
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="above 1: what was said becomes less likely")
    ] = 1.0,
    beams: Annotated[int, typer.Option("--beams", min=1, help="beginnings that are kept")] = 1,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="text that ends it; may be repeated")] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", help="of the draws")] = 0,
    schema: Annotated[Path | None, typer.Option("--schema", help="JSON schema that the text follows")] = None,
    draft: Annotated[
        str | None, typer.Option("--draft", help="smaller model of the same tokenizer: the same text, sooner")
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "int8"],
        typer.Option("--precision", "-p", help="of the weights; auto is what is fast on the machine"),
    ] = "auto",
    format: Annotated[
        Literal["text", "json"], typer.Option("--format", "-f", help="json: with the tokens and why it ended")
    ] = "text",
) -> None:
    """Go on with a text; it appears as it is written.

    Examples:

    sensorium complete 'Once upon a time' -m HuggingFaceTB/SmolLM2-135M

    sensorium complete 'The capital of France is' -m gpt2/ --max-new-tokens 20 --stop '.'

    sensorium complete 'A cat as JSON: ' -m qwen/ --schema cat.json --temperature 0.7 --seed 3
    """
    text = sys.stdin.read() if prompt is None else prompt
    if not text:
        raise InputError("the prompt is empty: write something, such as 'Once upon a time'")
    if model is None:
        raise InputError("say which model by --model: a folder, or owner/name such as HuggingFaceTB/SmolLM2-135M")
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "beams": beams,
        "stop": stop or (),
        "seed": seed,
        "schema": None if schema is None else schema.read_text(encoding="utf-8"),
    }
    opened = _opened(model, precision)
    if draft is not None:
        settings["draft"] = _opened(draft, precision)
    if format == "json":
        found = opened.generate([text], **settings)[0]
        print(json.dumps({"text": found.text, "tokens": found.tokens, "finish": found.finish}, ensure_ascii=False))
    elif beams > 1 or draft is not None:  # known at the end only
        print(opened.generate([text], **settings)[0].text)
    else:
        for piece in opened.stream(text, **settings):
            print(piece, end="", flush=True)
        print()


def _opened(source: str, precision: Any) -> Any:
    from core.weights import fetch
    from sensorium.languages import open_language

    return open_language(fetch(source), precision)
