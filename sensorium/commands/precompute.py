"""``sensorium precompute``: the latents of a data set, computed once for all epochs and trainings."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from core.errors import InputError

__all__ = ["precompute"]

# of the data's arguments: they make no latent another one
IDLE = ("batch_size", "workers", "skip_limit", "seed", "augment")


def precompute(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", "-c", help="of a training of a diffusion model")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the latents; an interrupted one is gone on with")],
    mirrored: Annotated[bool, typer.Option("--mirrored", help="mirrored pictures too, for --data.flip")] = False,
    test: Annotated[bool, typer.Option("--test", help="the test pictures too")] = False,
    precision: Annotated[
        Literal["float32", "float16"], typer.Option("--precision", help="of the files: float16 has half their size")
    ] = "float32",
    batch: Annotated[int, typer.Option("--batch", min=1, help="pictures at once")] = 32,
) -> None:
    """Compute the latents of a configuration's data; then train on them:

    sensorium fit -c CONFIG.yaml --data diffusion.tasks.data.LatentData --data.root FOLDER

    Options of the configuration, such as --data.root FOLDER or --latents.path FOLDER, may follow.
    """
    import torch

    from diffusion.tasks.cache import precompute as compute
    from sensorium.progress import progress_bar

    data, latents, section = _made(config, context.args)
    if not hasattr(data, "preprocess"):
        raise InputError(f"{config}: its data has no pictures to encode; expected vision.tasks.data.ImageData")
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bar.add_task(f"{split} latents", total=total)
            bar.update(tasks[split], completed=done)

        compute(
            data,
            latents,
            out.expanduser(),
            section,
            ("train", "val", "test") if test else ("train", "val"),
            mirrored,
            getattr(torch, precision),
            batch,
            device="cuda" if torch.cuda.is_available() else "cpu",
            progress=progress,
        )
    print(f"latents in {out}; train on them: --data diffusion.tasks.data.LatentData --data.root {out}")


def _made(config: Path, options: list[str]) -> tuple[Any, Any, dict[str, Any]]:
    """The data and the latents of a configuration, and what it says of the data."""
    from argparse import ArgumentError

    import yaml
    from jsonargparse import ArgumentParser
    from lightning import LightningDataModule

    from core.train.arguments import one_line, restrict_imports
    from diffusion.latents import Latents

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        said = {"data": content["data"], "latents": content["model"]["init_args"]["latents"]}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: not a YAML file: {one_line(str(error))}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{config}: expected a configuration with data and model.init_args.latents") from error
    restrict_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_subclass_arguments(Latents, "latents", required=True)
    try:
        parsed = parser.parse_args(["--config", yaml.safe_dump(said), *options])
        section = yaml.safe_load(parser.dump(parsed))["data"]
        made = parser.instantiate_classes(parsed)
    except ArgumentError as error:
        raise InputError(one_line(str(error))) from error
    arguments = {name: value for name, value in section["init_args"].items() if name not in IDLE}
    arguments["root"] = str(Path(arguments["root"]).expanduser().resolve())
    return made.data, made.latents, {"class": section["class_path"], **arguments}
