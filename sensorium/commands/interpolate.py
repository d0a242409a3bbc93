"""``sensorium interpolate``: between a model and what fine-tuning made of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["interpolate"]


def interpolate(
    before: Annotated[str, typer.Argument(help="the model that fine-tuning began with: a path or a name")],
    after: Annotated[str, typer.Argument(help="what it became: a path, such as the .ckpt of sensorium fit")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write, a bundle")],
    share: Annotated[
        float, typer.Option("--share", "-s", min=0, max=1, help="of the fine-tuned weights; 0 = before, 1 = after")
    ] = 0.5,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option("--precision", "-p", help="of the bundle")
    ] = None,
) -> None:
    """Average the weights of a model before and after fine-tuning (WiSE-FT, arXiv:2109.01903).

    Often better than both: on the data of the fine-tuning as good, and on other data as good as before. Image
    encoders, CLIP, SigLIP and CoCa; both models need the same shape.

    Examples:

    sensorium interpolate ViT-B-32/laion2b_s34b_b79k runs/finetune_clip/version_0/last.ckpt -o my_clip/

    sensorium interpolate vit.safetensors runs/finetune/version_0/best.ckpt --share 0.3 -o my_vit/
    """
    from core.weights.interpolate import interpolated
    from sensorium.bundles import write_encoder_bundle, write_towers_bundle
    from sensorium.encoders import find_encoder, load_any
    from sensorium.towers import is_towers, open_towers

    kinds = [is_towers(name) for name in (before, after)]
    if kinds[0] != kinds[1]:
        raise InputError("one of the models reads texts, and the other doesn't: they can't be averaged")
    if all(kinds):
        old, new = open_towers(before), open_towers(after)
        _fill(new.model, interpolated(old.model.state_dict(), new.model.state_dict(), share))
        write_towers_bundle(new._replace(origin=_trained(new.origin)), output, precision)
    else:
        encoder, _ = load_any(find_encoder(before))
        tuned, origin = load_any(find_encoder(after))
        _fill(tuned, interpolated(encoder.state_dict(), tuned.state_dict(), share))
        write_encoder_bundle(tuned, _trained(origin), output, precision)
    print(f"{output}: a bundle of {100 * (1 - share):.0f} % {before} and {100 * share:.0f} % {after}")


def _fill(model: "nn.Module", tensors: dict[str, Any]) -> None:
    model.load_state_dict(tensors)


def _trained(origin: Any) -> Any:
    """Where a model came from, without the way back: the weights are no longer those that were published."""
    from dataclasses import replace

    return replace(origin, source=None)
