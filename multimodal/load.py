"""Any two-tower model by its name or from any file: OpenAI, open_clip, Hugging Face, our bundles."""

import difflib
import json
from pathlib import Path

from core.errors import InputError
from core.weights import fetch, is_bundle, read, read_bundle
from core.weights.published import Origin
from multimodal.coca import CoCa
from multimodal.coca_weights import MAKERS as COCA
from multimodal.coca_weights import load_coca
from multimodal.two_towers import TwoTowers
from multimodal.weights import load_two_towers

__all__ = ["find_towers", "load_towers"]

HUB = Path(__file__).parent / "assets" / "open_clip_hub.json"


def find_towers(source: str) -> Path:
    """Find the local file or folder of a two-tower model, downloaded if need be.

    Args:
        source: a path, a model of the Hub (``owner/name`` or open_clip's ``hf-hub:owner/name``), or open_clip's
            ``ViT-B-32/laion2b_s34b_b79k``.

    Raises:
        InputError: if there is none, with the nearest names.
    """
    if Path(source).expanduser().exists():
        return Path(source).expanduser()
    if source.startswith("hf-hub:"):
        return fetch(source.removeprefix("hf-hub:"))
    hub = _hub()
    if source in hub:
        return fetch(hub[source])
    if "/" in source and source.partition("/")[0] not in {name.partition("/")[0] for name in hub}:
        return fetch(source)
    near = difflib.get_close_matches(source, hub, n=3, cutoff=0.3) or ["ViT-B-32/laion2b_s34b_b79k"]
    raise InputError(
        f"unknown model {source!r}: give a path, owner/name of the Hub, or a name such as {', '.join(near)}"
    )


def load_towers(path: Path | str) -> tuple[TwoTowers | CoCa, Origin]:
    """Load the two-tower model in a local file or folder, in float32 and evaluation mode.

    Checkpoints of our own training: :func:`multimodal.tasks.trained.load_trained_towers`.

    Raises:
        InputError: if there is none.
    """
    path = Path(path)
    if is_bundle(path):
        return load_coca(path) if read_bundle(path).model in COCA else load_two_towers(path)
    captions = any(name.startswith("text_decoder.") for name in read(path).tensors)
    return load_coca(path) if captions else load_two_towers(path)


def _hub() -> dict[str, str]:
    """open_clip's names and what they are called on the Hub."""
    names: dict[str, str] = json.loads(HUB.read_text(encoding="utf-8"))
    return names
