"""``sensorium chat``: questions about pictures."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from multimodal.language import LanguageModel

__all__ = ["chat"]


def chat(
    question: Annotated[
        str | None, typer.Argument(help="what to ask; without it, each line of standard input is a question")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="picture to ask about; may be repeated, in order")
    ] = None,
    video: Annotated[list[Path] | None, typer.Option("--video", help="film to ask about, shown as frames")] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="of each film, spread evenly over it")] = 8,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="LLaVA-1.5, Idefics, SmolVLM, or a language model for texts alone: bundle, .ckpt of sensorium fit, "
            "folder, owner/name; by default the "
            "small one of a checkout, which knows clothes",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="what the model is told before everything")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "-n", min=1, help="of an answer; by default 256 at most")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest word, above it words are drawn")
    ] = 0.0,
    top_p: Annotated[float | None, typer.Option("--top-p", help="draw among the likeliest with this share")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="draw among so many of the likeliest")] = None,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="above 1: what was said becomes less likely")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", "-s", help="of the draws")] = 0,
) -> None:
    """Ask about pictures; the answer appears as it is written.

    Pictures come before the question, in the order given. Without a question each line of standard input is one, and
    the chat goes on: the model is told what was said before.

    Examples:

    sensorium chat --image photo.png 'what is it?'

    sensorium chat -i a.png -i b.png 'how many items?'

    sensorium chat -m HuggingFaceTB/SmolVLM-256M-Instruct -i cat.jpg 'What is the cat doing?' --max-new-tokens 60

    sensorium chat -m my_model/ --video clip.mp4 --frames 16 'What happens?' --temperature 0.7

    printf 'what is it?\\nis it footwear?\\n' | sensorium chat --image boot.png
    """
    from sensorium.languages import is_language, open_language
    from sensorium.sights import embedded_sight, find_sight, open_sight

    if question is not None and not question.strip():
        raise InputError("the question is empty: write something, such as 'what is it?'")
    shown: list[dict[str, Any]] = [{"type": "image", "image": _file(path)} for path in image or []]
    shown += [{"type": "video", "video": _file(path), "frames": frames} for path in video or []]
    path = find_sight(model or embedded_sight())
    opened = open_language(path) if is_language(path) else open_sight(path)
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    asked = False
    for text in _questions(question):
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": text}]})
        said, asked = _answer(opened, messages, settings), True
        if said.strip():
            messages.append({"role": "assistant", "content": said})
            shown = []  # they stay in the chat
        else:  # a chat can't go on behind an answer without words
            messages.pop()
    if not asked:
        raise InputError("no question: give one, or a line of standard input for each")


def _answer(opened: "LanguageModel", messages: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    said = ""
    for piece in opened.stream(messages, **settings):
        print(piece, end="", flush=True)
        said += piece
    print()
    return said


def _questions(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    talking = sys.stdin.isatty()
    while True:
        if talking:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _file(path: Path) -> Path:
    """A file that is there: said before a model is loaded."""
    if "://" in str(path) or ":/" in str(path):
        raise InputError(f"{path} is a URL, and nothing is downloaded unasked: fetch it, then give the file")
    if not path.expanduser().is_file():
        raise InputError(f"{path}: no such file")
    return path
