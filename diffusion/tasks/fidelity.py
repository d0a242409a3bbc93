"""How good samples are, measured while the model learns: FID, KID, precision, recall, and what a judge recognises."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from core.data.order import keys
from core.data.sets import ImageSet, ItemSet, Split, few
from core.errors import InputError
from core.train.folders import write_text
from core.train.judge import Judge
from core.train.measuring import due, evaluating, run_folder
from core.train.processes import gathered_items
from diffusion.generate import Settings
from diffusion.metrics import frechet_distance, kernel_distance, precision_recall
from diffusion.sample import as_bytes
from diffusion.tasks.data import LatentData
from diffusion.tasks.samples import PHOTO, generator_of, subjects

__all__ = ["Fidelity", "figures"]


class Fidelity(Callback):
    """Draws samples of all classes or texts in turn, and compares them with real pictures as a judge sees both.

    Logs, for ``val`` (and, in ``sensorium test``, for ``test``): ``fid`` and ``kid`` (of the judge's features, so
    not those of Inception, unless it is the judge), ``precision`` and ``recall`` (arXiv:1904.06991), and, where the
    judge knows the classes, ``recognised``: the share of samples that show what was asked for; of a model with classes
    also ``class_kid``, the mean over the classes of the KID of a class's samples and its real pictures, and as a
    control ``other_class_kid``, that of its samples and the real pictures of the next class. Of a model of texts these
    three are there if it is asked for as many texts as the data has classes, which have to be in their order.

    Where the data is latents that were computed in advance, the real pictures are decoded from them (in
    ``fidelity.json`` ``reference`` says so): figures don't tell what the autoencoder loses.

    Figures and the protocol they were measured by go to ``fidelity.json`` in the run's folder. Seeds are always the
    same, and the training's random state isn't touched.

    Args:
        judge: Whose features they are.
        every: Epochs from one measurement to the next; the last epoch is always measured.
        samples: How many are drawn.
        real: The most real pictures, as many of each class as there can be.
        neighbours: For precision and recall.
        settings: How to sample.
        prompts, sentence: What is asked of a model of texts, as in :class:`diffusion.tasks.samples.Samples`.
    """

    def __init__(
        self,
        judge: Judge,
        every: int = 1,
        samples: int = 1000,
        real: int = 10_000,
        neighbours: int = 3,
        settings: Settings = Settings(),
        prompts: list[str] | None = None,
        sentence: str = PHOTO,
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
        self.prompts = prompts
        self.sentence = sentence
        self.results: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The results so far: a resumed run goes on writing them."""
        return {"results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results."""
        self.results = list(state_dict["results"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there are pictures to compare with."""
        data = getattr(trainer, "datamodule", None)
        if not hasattr(data, "images") and not isinstance(data, LatentData):
            raise InputError("Fidelity needs data with splits of images: train with ImageData or LatentData")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if it is time."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every)):
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the test images."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, task: LightningModule, split: Split) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        items = data.items(split)
        items = items if len(items) <= self.real else few(items, self.real)
        decoded = isinstance(data, LatentData)
        real = (
            _decoded(items, task.latents, self.settings.batch, task.device)
            if decoded
            else _shown(items, data.preprocess)
        )
        with evaluating(task), trainer.precision_plugin.forward_context():
            made, classes = self._made(trainer, task)
        found = figures(self.judge, real, made, classes, items.labels, self.neighbours)
        task.log_dict({f"{split}/{name}": value for name, value in found.items()}, on_step=False, on_epoch=True)
        if trainer.state.fn == "fit":
            when: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        else:  # the checkpoint's own results are in the folder of its run
            self.results, when = [], {"checkpoint": str(trainer.ckpt_path)}
        self.results.append({**when, "split": split, "real": len(real), "samples": len(made), **found})
        folder = run_folder(trainer)
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            protocol = {**self.judge.protocol(), "neighbours": self.neighbours, "sampling": asdict(self.settings)}
            protocol |= {"reference": "decoded latents"} if decoded else {}
            if getattr(task, "text", None) is not None:
                protocol["prompts"] = subjects(task, self.prompts, self.sentence)
            content = {"protocol": protocol, "results": self.results}
            write_text(folder / "fidelity.json", json.dumps(content, indent=2) + "\n")

    def _made(self, trainer: Trainer, task: LightningModule) -> tuple[list[Tensor], list[int] | None]:
        """Samples, and the classes that they were asked to show; each process draws its share."""
        generator = generator_of(task, self.settings)
        texts_or_classes = subjects(task, self.prompts, self.sentence)
        count = len(texts_or_classes)
        numbers = range(trainer.global_rank, self.samples, trainer.world_size)
        asked = [texts_or_classes[number % count] if count else None for number in numbers]
        drawn = list(zip(numbers, generator.draw(asked, list(numbers)), strict=True))
        ordered = sorted(gathered_items(drawn), key=lambda item: item[0])
        known = count if generator.prompts is None or count == len(generator.labels) else 0
        return [picture for _, picture in ordered], [number % count for number, _ in ordered] if known else None


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


def _decoded(items: ItemSet[Any], latents: Any, batch: int, device: torch.device) -> list[Tensor]:
    """Real pictures (H, W, C) uint8, as the autoencoder gives them back."""
    found: list[Tensor] = []
    for first in range(0, len(items), batch):
        views = items.read(range(first, min(first + batch, len(items))))
        moments = torch.stack([view[0] for view in views]).float().to(device)  # the view that isn't mirrored
        found += as_bytes(latents.decode(latents.expected(moments)).float().cpu())
    return found


def _shown(images: ImageSet, preprocess: Any) -> list[Tensor]:
    """Real pictures (H, W, C) uint8, prepared as those that the model was trained on."""
    found: list[Tensor] = []
    for first in range(0, len(images), 250):
        numbers = np.arange(first, min(first + 250, len(images)))
        found += as_bytes(preprocess(images.read(numbers.tolist()), keys(0, 0, numbers)))
    return found
