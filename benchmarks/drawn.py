"""What samples of a trained diffusion model are worth, beside the same network untrained."""

from pathlib import Path
from typing import Any

import torch

from core.data.idx import Idx
from core.train.judge import Judge
from diffusion.generate import Generator
from diffusion.tasks.fidelity import figures
from sensorium.generators import open_generator
from vision.tasks.judge import EncoderJudge

__all__ = ["compare", "recognised"]


def compare(checkpoint: Path, classifier: Path, root: Path, samples: int = 1000) -> dict[str, dict[str, float]]:
    """Figures (see :func:`diffusion.tasks.fidelity.figures`) of a model, ``"trained"`` and ``"untrained"``.

    Args:
        checkpoint: of ``sensorium fit``, of a model with classes; sampled as its recipe says.
        classifier: a checkpoint of an image classifier, which judges.
        root: folder of the test images, IDX.
        samples: how many are drawn, of each class in turn.
    """
    judge = EncoderJudge(str(classifier))
    real, labels = _pictures(root)
    opened = open_generator(checkpoint)
    found = {"trained": _judged(opened.generator(precision="float32"), judge, real, labels, samples)}
    torch.manual_seed(0)
    fresh = type(opened.model)(opened.model.config).eval()
    untrained = opened._replace(model=fresh).generator(precision="float32")
    return {**found, "untrained": _judged(untrained, judge, real, labels, samples)}


def recognised(classifier: Path, root: Path) -> float:
    """The share of the real test images whose class a classifier knows."""
    real, labels = _pictures(root)
    logits = EncoderJudge(str(classifier))(real).logits
    assert logits is not None
    return float((logits.argmax(1) == torch.from_numpy(labels)).double().mean())


def _pictures(root: Path) -> tuple[list[torch.Tensor], Any]:
    """The test images (H, W, 1) uint8 and their classes."""
    images = Idx().open(root, "test")
    assert images is not None
    return list(torch.from_numpy(images.images)[..., None]), images.labels


def _judged(
    generator: Generator, judge: Judge, real: list[torch.Tensor], labels: Any, samples: int
) -> dict[str, float]:
    asked = [number % generator.config.classes for number in range(samples)]
    made = generator.draw(asked, list(range(samples)), generator.with_settings(batch=100))
    return figures(judge, real, list(made), asked, labels)
