"""Diffusion models by name, for the commands: where one is, and all that it needs to draw."""

import difflib
import hashlib
from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError

__all__ = ["OpenGenerator", "embedded_generator", "find_generator", "is_generator", "open_generator"]

FILES = (
    *("config.json", "model_index.json", "*.safetensors", "*.safetensors.index.json", "scheduler/*.json"),
    *(f"{part}/{name}" for part in ("transformer", "vae") for name in ("*.json", "*.safetensors", "*.bin")),
)
"""Of a model on the Hub: a bundle, or the parts of diffusers' pipeline that draw."""
TEXTS = "multimodal.TextToImage"  # the bundle of a model that is told texts
PIXELS = {"class_path": "diffusion.latents.Pixels", "init_args": {}}
EMBEDDED = Path(__file__).parents[1] / "assets" / "dit_fashion_mnist"


class OpenGenerator(NamedTuple):
    """A diffusion model in float32 and what it needs.

    Attributes:
        model: in evaluation mode, on the processor.
        process, latents: see `diffusion.generate.Generator`.
        labels: names of its classes.
        settings: that it should be sampled with, as far as it says so.
        recipes: of process and latents, as `diffusion.described` makes them.
        prompts: a `multimodal.prompts.Prompts`, of a model that is told texts.
    """

    model: Any
    process: Any
    latents: Any
    labels: tuple[str, ...]
    settings: dict[str, Any]
    recipes: dict[str, Any]
    prompts: Any = None

    def generator(self, precision: Any = "auto", reuse: float = 0.0) -> Any:
        """The `diffusion.generate.Generator` on the fastest device.

        Args:
            precision: of `diffusion.speed.quick`.
            reuse: bound of `diffusion.speed.caching`; 0 computes everything.

        Raises:
            InputError: if the device has no such precision, or the bound is out of range.
        """
        import torch

        from core.weights import from_plain
        from diffusion.generate import Generator, Settings
        from diffusion.speed.caching import Reuse
        from diffusion.speed.quick import quick

        if not 0 <= reuse < 1:
            raise InputError(f"reuse {reuse}: expected 0, which computes everything, to less than 1")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = quick(self.model.to(device), precision, Reuse(reuse) if reuse else None)
        settings = from_plain(Settings, self.settings, "settings")
        if self.prompts is not None:
            self.prompts.encoder.to(device)
        return Generator(model, self.process, self.latents, self.labels, settings, self.prompts)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that weights of any other value don't have."""
        digest = hashlib.sha256()
        for part in (self.model, *(() if self.prompts is None else (self.prompts.encoder,))):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]


def embedded_generator() -> str:
    """The small model of a checkout of this repository, which draws clothes.

    Raises:
        InputError: if this is no checkout.
    """
    if not EMBEDDED.is_dir():
        raise InputError("say which model by --model: the small one that is the default belongs to a checkout")
    return str(EMBEDDED)


def find_generator(source: str) -> Path:
    """The local file or folder of a diffusion model, downloaded if need be.

    Raises:
        InputError: if there is none.
    """
    from core.weights import fetch
    from diffusion.presets import PRESETS

    if Path(source).expanduser().exists() or ("/" in source and source not in PRESETS):
        return fetch(source, patterns=FILES)
    near = difflib.get_close_matches(source, PRESETS, 1, cutoff=0.4)
    named = f": {near[0]} is a size without weights" if near else ""
    raise InputError(
        f"unknown model {source!r}{named}: give a path, or owner/name of the Hub such as facebook/DiT-XL-2-256"
    )


def is_generator(path: Path) -> bool:
    """Whether a local file or folder holds a diffusion model.

    Raises:
        InputError: if it is none of the formats that are read.
    """
    from core.weights import is_bundle, read, read_bundle

    if path.suffix == ".ckpt":
        from core.train.checkpoint import read_recipe

        return str((read_recipe(path).get("model") or {}).get("class_path")).startswith("diffusion.")
    if is_bundle(path):
        return read_bundle(path).model.startswith(("diffusion.", TEXTS))
    if (path / "model_index.json").is_file():
        return True
    return any(name.startswith(("x_embedder.", "pos_embed.proj.")) for name in read(path).tensors)


def open_generator(source: str | Path, vae: str | None = None) -> OpenGenerator:
    """The diffusion model in a bundle, a ``.ckpt`` of `sensorium fit`, or files of others.

    Args:
        source: see `find_generator`.
        vae: folder of the autoencoder, instead of where the model says.

    Raises:
        InputError: if there is none, or it doesn't say what it was trained on.
    """
    from core.weights import is_bundle

    path = find_generator(str(source))
    if path.suffix == ".ckpt":
        return _trained(path, vae)
    return _bundled(path, vae) if is_bundle(path) else _released(path, vae)


def _bundled(path: Path, vae: str | None) -> OpenGenerator:
    from core.weights import open_bundle, read_bundle
    from diffusion.described import made
    from diffusion.weights import MAKERS

    model: Any
    prompts = None
    if read_bundle(path).model == TEXTS:
        from multimodal.text_to_image import open_text_to_image

        model, prompts, bundle = open_text_to_image(path)
    else:
        model, bundle = open_bundle(path, MAKERS)
    _check_told(model.config, path, prompts)
    process, latents = bundle.notes.get("process"), bundle.preprocessing.get("latents")
    if not isinstance(process, Mapping) or not isinstance(latents, Mapping):
        raise InputError(f"{path} doesn't say what its model was trained on: expected its process and its latents")
    recipes = {"process": dict(process), "latents": dict(latents) if vae is None else _autoencoder(vae)}
    settings = dict(bundle.notes.get("generate") or {})
    parts = {name: made(said) for name, said in recipes.items()}
    return OpenGenerator(
        model.eval(), **parts, labels=bundle.labels, settings=settings, recipes=recipes, prompts=prompts
    )


def _trained(path: Path, vae: str | None) -> OpenGenerator:
    # whoever reads published weights must not load a trainer
    from core.train.checkpoint import read_checkpoint, read_recipe
    from core.train.rebuild import rebuild
    from diffusion.described import made

    task: Any = rebuild(path)
    if not all(hasattr(task, name) for name in ("model", "process", "latents")):
        raise InputError(f"{path} trained a {type(task).__name__}, which draws nothing")
    prompts = task.text.prompts() if hasattr(task.text, "prompts") else None
    _check_told(task.model.config, path, prompts)
    recipe = read_recipe(path)
    said = recipe["model"].get("init_args") or {}
    recipes = {"process": dict(said["process"]), "latents": dict(said.get("latents") or PIXELS)}
    latents = task.latents
    if vae is not None:
        recipes["latents"] = _autoencoder(vae)
        latents = made(recipes["latents"])
    labels = tuple(read_checkpoint(path).get("class_names") or ())
    return OpenGenerator(task.model.eval(), task.process, latents, labels, _sampled(recipe), recipes, prompts)


def _sampled(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with which a training drew its samples, if it did."""
    for callback in (recipe.get("trainer") or {}).get("callbacks") or ():
        if callback["class_path"] == "diffusion.tasks.samples.Samples":
            settings = callback["init_args"].get("settings") or {}
            return {name: value for name, value in settings.items() if value is not None and name != "batch"}
    return {}


def _released(path: Path, vae: str | None) -> OpenGenerator:
    """A DiT with the names of facebookresearch/DiT or of diffusers, which was trained on what its pipeline says."""
    from diffusion.described import made
    from diffusion.weights import load_denoiser

    model, origin = load_denoiser(path)
    config: Any = model.config
    _check_told(config, path, None)
    folder = vae or (str(path / "vae") if (path / "vae").is_dir() else None)
    if folder is None:
        raise InputError(f"{path} draws latents: give the folder of its autoencoder by --vae")
    process = {"class_path": "diffusion.process.Gaussian", "init_args": _scheduled(path, config)}
    recipes = {"process": process, "latents": _autoencoder(folder)}
    parts = {name: made(said) for name, said in recipes.items()}
    labels = origin.labels or _imagenet(config.classes)
    # the release guides three of four channels, diffusers all of them
    settings = {"channels": 3} if origin.layout == "facebook-dit" else {}
    return OpenGenerator(model.eval(), **parts, labels=labels, settings=settings, recipes=recipes)


def _check_told(config: Any, path: Path, prompts: Any) -> None:
    """Raise InputError for a model that is told texts, where nothing is known that encodes them."""
    if not hasattr(config, "classes") and prompts is None:
        raise InputError(f"{path} draws what texts say, and no encoder of texts is known for it: expected a DiT")


def _autoencoder(folder: str) -> dict[str, Any]:
    return {"class_path": "diffusion.latents.AutoEncoder", "init_args": {"path": folder}}


def _scheduled(path: Path, config: Any) -> dict[str, Any]:
    """Arguments of the Gaussian process that a pipeline's scheduler stands for; without one, those of the release."""
    from core.weights.files import read_json

    file = path / "scheduler" / "scheduler_config.json"
    said = read_json(file) if file.is_file() else {}
    schedules = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    targets = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
    schedule, target = said.get("beta_schedule", "linear"), said.get("prediction_type", "epsilon")
    if schedule not in schedules or target not in targets:
        raise InputError(f"{file}: schedules {schedule} of models that predict {target} are not known here")
    steps = int(said.get("num_train_timesteps", 1000))
    first, last = (float(said.get(f"beta_{end}", usual)) for end, usual in (("start", 1e-4), ("end", 0.02)))
    ends = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}.get(schedule)
    if (
        said
        and ends is not None
        and not (isclose(first, ends[0] * 1000 / steps) and isclose(last, ends[1] * 1000 / steps))
    ):
        raise InputError(f"{file}: a {schedule} schedule from {first} to {last} in {steps} steps is not known here")
    return {
        "steps": steps,
        "schedule": schedules[schedule],
        "predicts": targets[target],
        "variance": "learned" if config.outputs == 2 * config.channels else "small",
    }


def _imagenet(classes: int) -> tuple[str, ...]:
    """The names of ImageNet's classes for a model of a thousand, nothing for any other."""
    from multimodal.templates import imagenet_labels

    return imagenet_labels() if classes == 1000 else ()
