"""How good samples are, measured while the model learns: FID, KID, precision, recall, and what a judge recognises."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from core.data.order import keys
from core.data.sets import ImageSet, Split, few
from core.errors import InputError
from core.train.folders import write_text
from core.train.judge import Judge
from core.train.measuring import due, evaluating, run_folder
from core.train.processes import gathered_items
from diffusion.generate import Settings
from diffusion.metrics import frechet_distance, kernel_distance, precision_recall
from diffusion.sample import as_bytes
from diffusion.tasks.samples import generator_of

__all__ = ["Fidelity", "figures"]


class Fidelity(Callback):
    """Draws samples of all classes in turn, and compares them with real pictures as a judge sees both.

    Logs, for ``val`` (and, in ``sensorium test``, for ``test``): ``fid`` and ``kid`` (of the judge's features, so
    not those of Inception, unless it is the judge), ``precision`` and ``recall`` (arXiv:1904.06991), and, where the
    judge knows the classes, ``recognised``: the share of samples that show what was asked for; of a model with classes
    also ``class_kid``, the mean over the classes of the KID of a class's samples and its real pictures, and as a
    control ``other_class_kid``, that of its samples and the real pictures of the next class.

    Figures and the protocol they were measured by go to ``fidelity.json`` in the run's folder. Seeds are always the
    same, and the training's random state isn't touched.

    Args:
        judge: Whose features they are.
        every: Epochs from one measurement to the next; the last epoch is always measured.
        samples: How many are drawn.
        real: The most real pictures, as many of each class as there can be.
        neighbours: For precision and recall.
        settings: How to sample.
    """

    def __init__(
        self,
        judge: Judge,
        every: int = 1,
        samples: int = 1000,
        real: int = 10_000,
        neighbours: int = 3,
        settings: Settings = Settings(),
    ) -> None:
        if every < 1 or min(samples, real) <= neighbours or neighbours < 1:
            raise InputError(
                f"every {every} and neighbours {neighbours} must be at least 1, samples {samples} and real {real} more "
                "than neighbours"
            )
        self.judge = judge
        self.every = every
        self.samples = samples
        self.real = real
        self.neighbours = neighbours
        self.settings = settings
        self.results: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The results so far: a resumed run goes on writing them."""
        return {"results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results."""
        self.results = list(state_dict["results"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there are pictures to compare with."""
        if not hasattr(getattr(trainer, "datamodule", None), "images"):
            raise InputError("Fidelity needs data with splits of images: train with ImageData")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if it is time."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every)):
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the test images."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, task: LightningModule, split: Split) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        images = data.images(split)
        images = images if len(images) <= self.real else few(images, self.real)
        real = _shown(images, data.preprocess)
        with evaluating(task), trainer.precision_plugin.forward_context():
            made, classes = self._made(trainer, task)
        found = figures(self.judge, real, made, classes, images.labels, self.neighbours)
        task.log_dict({f"{split}/{name}": value for name, value in found.items()}, on_step=False, on_epoch=True)
        if trainer.state.fn == "fit":
            when: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        else:  # the checkpoint's own results are in the folder of its run
            self.results, when = [], {"checkpoint": str(trainer.ckpt_path)}
        self.results.append({**when, "split": split, "real": len(real), "samples": len(made), **found})
        folder = run_folder(trainer)
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            protocol = {**self.judge.protocol(), "neighbours": self.neighbours, "sampling": asdict(self.settings)}
            content = {"protocol": protocol, "results": self.results}
            write_text(folder / "fidelity.json", json.dumps(content, indent=2) + "\n")

    def _made(self, trainer: Trainer, task: LightningModule) -> tuple[list[Tensor], list[int] | None]:
        """Samples, and the classes that they were asked to show; each process draws its share."""
        generator = generator_of(task, self.settings)
        count = generator.config.classes
        numbers = range(trainer.global_rank, self.samples, trainer.world_size)
        asked = [number % count if count else None for number in numbers]
        drawn = list(zip(numbers, generator.draw(asked, list(numbers)), strict=True))
        ordered = sorted(gathered_items(drawn), key=lambda item: item[0])
        return [picture for _, picture in ordered], [number % count for number, _ in ordered] if count else None


def figures(
    judge: Judge,
    real: list[Tensor],
    made: list[Tensor],
    classes: list[int] | None = None,
    labels: np.ndarray | None = None,
    neighbours: int = 3,
) -> dict[str, float]:
    """What a judge makes of samples.

    Args:
        judge: whose features they are.
        real, made: pictures (H, W, C) uint8.
        classes: that the samples were asked to show.
        labels: of the real pictures.
        neighbours: for precision and recall.
    """
    true, (features, logits) = judge(real).features, judge(made)
    precision, recall = precision_recall(true, features, neighbours)
    found = {
        "fid": frechet_distance(true, features),
        "kid": kernel_distance(true, features),
        "precision": precision,
        "recall": recall,
    }
    if classes is None:
        return found
    asked = torch.tensor(classes)
    if logits is not None:
        found["recognised"] = float((logits.argmax(1).cpu() == asked).double().mean())
    if labels is not None:
        known = torch.from_numpy(labels)
        count = int(known.max()) + 1
        for name, shift in (("class_kid", 0), ("other_class_kid", 1)):
            pairs = [(true[known == (number + shift) % count], features[asked == number]) for number in range(count)]
            whole = [kernel_distance(x, y) for x, y in pairs if min(len(x), len(y)) > 1]
            if whole:
                found[name] = sum(whole) / len(whole)
    return found


def _shown(images: ImageSet, preprocess: Any) -> list[Tensor]:
    """Real pictures (H, W, C) uint8, prepared as those that the model was trained on."""
    found: list[Tensor] = []
    for first in range(0, len(images), 250):
        numbers = np.arange(first, min(first + 250, len(images)))
        found += as_bytes(preprocess(images.read(numbers.tolist()), keys(0, 0, numbers)))
    return found
