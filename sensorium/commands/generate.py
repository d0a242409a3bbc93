"""``sensorium generate``: pictures from a diffusion model."""

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["generate"]

SHEET, PREVIEW = "sheet.png", "preview.webp"
GUIDED = 2.0  # what --guidance is beside a --guide


def generate(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="DiT, SiT or MMDiT: bundle, .ckpt of sensorium fit, folder, file, owner/name; by default the small "
            "one of a checkout, which draws clothes",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", "-c", metavar="NAME_OR_ID", help="what to draw; may be repeated; else each in turn"),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="what to draw, of a model that is told texts; may be repeated"),
    ] = None,
    num: Annotated[
        int, typer.Option("--num", "-n", help="pictures of each --class or --prompt; without any, of all classes")
    ] = 8,
    seed: Annotated[int, typer.Option("--seed", "-s", help="of the first picture; the others have the next ones")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the pictures")] = Path("generated"),
    steps: Annotated[int | None, typer.Option("--steps", help="of the solver; else as the model says, or 50")] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", "-g", help="its scale: 1 is none; else as the model says, or 4"),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(
            "--guide", metavar="MODEL", help="a worse model: guidance leads away from it; --guidance is then 2"
        ),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option("--guidance-interval", metavar="FROM,TO", help="where to guide: 0 is the picture, 1 is noise"),
    ] = None,
    rescale: Annotated[
        float | None, typer.Option("--rescale", help="0 to 1: give guided predictions their deviation back")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option("--solver", help="ddim, ddpm, of a flow euler, heun, sde; of both dpm++, unipc"),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="in pixels; by default as trained")
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="picture to begin from")] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="picture of its size: what is white is painted anew")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="up to 1, which forgets --init: by default 0.75, with a --mask 1"),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help=f"also {PREVIEW}: how the first batch comes out of the noise")
    ] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", help="pictures at once: 8")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"],
        typer.Option("--precision", "-p", help="of the model; auto is bfloat16 where the device is faster at it"),
    ] = "auto",
    reuse: Annotated[
        float,
        typer.Option(
            "--reuse", metavar="BOUND", help="pass over blocks that would change less than that: 0.1 is little"
        ),
    ] = 0.0,
    vae: Annotated[
        str | None, typer.Option("--vae", help="folder of the autoencoder, if it isn't where the model says")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="also pictures that were made otherwise")] = False,
) -> None:
    """Draw pictures of classes or texts, anew or from a picture.

    A seed and a class or text give the same picture, whatever else is drawn beside it. Each file is written when it
    is done and says how it was made; the same command, run again after an interruption, draws what is missing. Several
    pictures also come side by side as sheet.png.

    Examples:

    sensorium generate --class sneaker

    sensorium generate -c coat -c bag --num 4 --seed 7 --guidance 2 --steps 20 --out clothes

    sensorium generate -c dress --init shirt.png --strength 0.6 --preview

    sensorium generate -c sneaker --init boot.png --mask sole.png --out painted

    sensorium generate -m runs/dit/version_0/last.ckpt -c 3 --precision float32

    sensorium generate -m runs/dit/version_0/last.ckpt -c 3 --guide runs/dit/version_1/last.ckpt

    sensorium generate -m runs/mmdit/version_0/last.ckpt --prompt "a photo of a sneaker" --num 4
    """
    from diffusion.guides import check_guide
    from sensorium.generating import check_folder, jobs, run, write_sheet
    from sensorium.generators import embedded_generator, open_generator

    if init is None and (mask is not None or strength is not None):
        raise InputError("--mask and --strength are about a picture to begin from: give --init too")
    if classes and prompts:
        raise InputError("--class and --prompt: a model is told one of both, give that one")
    if guide is not None and guidance is None:
        guidance = GUIDED
    asked = {
        "steps": steps,
        "guidance": guidance,
        "interval": None if guidance_interval is None else _pair(guidance_interval),
        "rescale": rescale,
        "solver": solver,
        "batch": batch_size,
    }
    pixels = None if size is None else _size(size)
    images = [None if path is None else _read(path) for path in (init, mask)]
    check_folder(out)
    opened = open_generator(model or embedded_generator(), vae)
    generator = opened.generator(precision, reuse)
    settings = generator.with_settings(**{name: value for name, value in asked.items() if value is not None})
    wanted = generator.asked(classes, num, seed, prompts)
    weak = None if guide is None else open_generator(guide, vae)
    weaker = None if weak is None else weak.generator(precision)
    if weaker is not None:
        check_guide(generator, weaker)
    original = None if images[0] is None else generator.original(images[0], images[1], strength, pixels)
    about: dict[str, Any] = {
        "model": Path(model or embedded_generator()).name,
        "weights": opened.fingerprint(),
        "precision": generator.model.precision,
        "reuse": reuse,
        **generator.described(settings, pixels),
    }
    if weak is not None:
        about |= {"guide": Path(str(guide)).name, "guide_weights": weak.fingerprint()}
    if original is not None:
        about |= {"init": _hash(init), "mask": _hash(mask), "strength": original.strength}
    every = jobs(generator, wanted, out, about)
    todo = [job for job in every if not job.complete(overwrite)]
    try:
        if todo:
            run(generator, todo, settings, weaker, original, pixels, out / PREVIEW if preview else None)
    except KeyboardInterrupt:
        done = sum(job.place.exists() for job in every)
        print(f"{done} of {len(every)} pictures are in {out}: the same command draws the others", file=sys.stderr)
        raise
    if len(every) > 1:
        write_sheet(out / SHEET, every)
    for job in every if len(every) == 1 else ():
        print(job.place)
    if len(every) > 1:
        kept = len(every) - len(todo)
        print(f"{out}: {len(every)} pictures{f', {kept} of them from before' if kept else ''}, and {SHEET}")


def _pair(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"--guidance-interval {text}: expected two numbers, such as 0.1,0.8") from error
    return low, high


def _size(text: str) -> tuple[int, int]:
    """(height, width)."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if found is None:
        raise InputError(f"--size {text}: expected WIDTHxHEIGHT in pixels, such as 256x256")
    width, height = int(found[1]), int(found[2] or found[1])
    return height, width


def _read(path: Path) -> "Image":
    from core.data.images import read_image

    return read_image(path)


def _hash(path: Path | None) -> str | None:
    """Sixteen hexadecimal digits of what is in a file."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]
