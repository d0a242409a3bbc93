"""Which model may guide another one: see :class:`diffusion.guidance.AutoGuidance`."""

from typing import Any

from torch import Tensor

from core.errors import InputError
from diffusion.latents import Pixels

__all__ = ["check_guide"]

TRAINING = ("sampled", "weighting")  # parts of a process that no sample depends on


def check_guide(generator: Any, guide: Any) -> None:
    """See that a model can guide another one (both :class:`diffusion.generate.Generator`).

    Raises:
        InputError: if it denoises something else, or is told something else.
    """
    mine, theirs = _kind(generator), _kind(guide)
    unlike = [name for name in mine if mine[name] != theirs[name]]
    if unlike:
        name = unlike[0]
        raise InputError(f"that model can't guide this one: its {name} is {theirs[name]}, not {mine[name]}")
    if generator.prompts is not None and not generator.prompts.same(guide.prompts):
        raise InputError("that model can't guide this one: its encoder of texts has other weights")


def _kind(generator: Any) -> dict[str, Any]:
    """What two models have to have in common."""
    names = ("image", "channels", "outputs", "text_dim", "pooled_dim")
    config = {name: getattr(generator.config, name, None) for name in names}
    latents = generator.latents
    # of an autoencoder its weights count, and not where they lie
    encoded = _plain(latents) if isinstance(latents, Pixels) else latents.identity()
    return {"classes": generator.classes, **config, "latents": encoded, "process": _plain(generator.process)}


def _plain(value: Any) -> Any:
    """An object of ours by its class and what it was made of, without the tables that follow from that."""
    if not type(value).__module__.startswith("diffusion."):
        return value
    kept = {name: part for name, part in vars(value).items() if name not in TRAINING and not isinstance(part, Tensor)}
    return f"{type(value).__name__}({', '.join(f'{name}={_plain(part)}' for name, part in sorted(kept.items()))})"
