"""How good the features are, measured while they are being learned: neighbours, a linear probe, collapse."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from core.data.examples import ImageExamples
from core.data.sets import ImageSet, Split, few
from core.errors import InputError
from core.train.collapse import effective_rank, rank_me, spread, trouble
from core.train.folders import write_text
from core.train.knn import knn
from core.train.logistic import fit_logistic
from core.train.measuring import due, evaluating, run_folder
from core.train.processes import gathered
from vision.features import Feature, image_features

__all__ = ["Evaluate", "embed_images", "encoder_of"]


class Evaluate(Callback):
    """Embeds fixed images with the task's encoder and says what the features are worth, by one protocol.

    Logs, for ``val`` (and, in ``sensorium test``, for ``test``): ``knn``, the accuracy of weighted nearest neighbours
    among training images (:func:`core.train.knn.knn`); ``probe``, that of a logistic regression on the training
    images' features (:func:`core.train.logistic.fit_logistic`); ``rank_me``, ``effective_rank``, ``spread`` and
    ``feature_std`` (mean over channels), the monitors of collapse. Without labels, only the latter. It warns when the
    features are not finite or have collapsed.

    The results and the protocol they were measured by are written to ``evaluate.json`` in the run's folder. Nothing
    is drawn at random, so a run with this callback is the run without it; ``sensorium validate`` repeats the figures
    of a checkpoint.

    It runs at the end of a validation, with the averaged weights where the task has an average; where a task has no
    validation, at the end of an epoch. The encoder is what the task's ``encoder()`` returns, or else its ``model``.

    Args:
        every: Epochs from one measurement to the next; the last epoch is always measured.
        train: Training images to learn from, as many of each class as there can be; all if there are fewer.
        val: Images to measure on, likewise.
        k: Neighbours that vote.
        temperature: Of their votes; null for one vote each.
        penalty: Of the probe's weights.
        feature: What of the tokens is taken: "pooled" (what the model's own head would get), "cls" (class token),
            "mean" (of the patches), "cls+mean".
        batch_size: Images that are embedded at once; no result depends on it.
        data: Labelled images to measure with; by default the training's own.
    """

    def __init__(
        self,
        every: int = 1,
        train: int = 10_000,
        val: int = 5_000,
        k: int = 20,
        temperature: float | None = 0.07,
        penalty: float = 1e-3,
        feature: Feature = "pooled",
        batch_size: int = 256,
        data: LightningDataModule | None = None,
    ) -> None:
        if min(every, train, val, k, batch_size) < 1:
            raise InputError(
                f"every {every}, train {train}, val {val}, k {k} and batch_size {batch_size} must be at least 1"
            )
        self.every = every
        self.sizes = {"train": train, "val": val, "test": val}
        self.k = k
        self.temperature = temperature
        self.penalty = penalty
        self.feature = feature
        self.batch_size = batch_size
        self.data = data
        self.results: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The results so far: a resumed run goes on writing them."""
        return {"results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the results."""
        self.results = list(state_dict["results"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that there is something to embed with, before anything runs."""
        encoder_of(pl_module)
        if self.data is None and not hasattr(getattr(trainer, "datamodule", None), "images"):
            raise InputError("Evaluate needs data with splits of images: give it data, or train with ImageData")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if it is time."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every)):
            self._measure(trainer, pl_module, "val")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure here where the task has no validation."""
        if not trainer.enable_validation and due(trainer, self.every):
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the test images."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, task: LightningModule, split: Split) -> None:
        data: Any = self.data if self.data is not None else trainer.datamodule  # type: ignore[attr-defined]
        splits: tuple[Split, ...] = ("train", split)
        sets: dict[str, ImageSet] = {name: self._few(data.images(name), name) for name in splits}
        transform = data.preprocess
        with evaluating(task):
            encoder = encoder_of(task)
            encode = partial(image_features, encoder, feature=self.feature)
            features = {
                name: embed_images(trainer, task, encode, ImageExamples(images, transform), self.batch_size)
                for name, images in sets.items()
            }
        found = self._judge(features, split, len(sets["train"].classes))
        task.log_dict({f"{split}/{name}": value for name, value in found.items()}, on_step=False, on_epoch=True)
        if trainer.state.fn == "fit":
            when: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        else:  # the checkpoint's own results are in the folder of its run
            self.results, when = [], {"checkpoint": str(trainer.ckpt_path)}
        self.results.append({**when, "split": split, **found})
        folder = run_folder(trainer)
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            sizes = {name: len(images) for name, images in sets.items()}
            content = {"protocol": self._protocol(trainer, sizes, transform), "results": self.results}
            write_text(folder / "evaluate.json", json.dumps(content, indent=2) + "\n")

    def _few(self, images: ImageSet, split: str) -> ImageSet:
        return images if len(images) <= self.sizes[split] else few(images, self.sizes[split])

    def _judge(self, features: dict[str, tuple[Tensor, Tensor | None]], split: str, classes: int) -> dict[str, float]:
        (x, known), (y, truth) = features["train"], features[split]
        wrong = trouble(y)
        if wrong is not None:
            rank_zero_warn(f"{split}: {wrong}")
        if not (x.isfinite().all() and y.isfinite().all()):
            return {}
        found = {
            "rank_me": rank_me(y),
            "effective_rank": effective_rank(y),
            "spread": spread(y),
            "feature_std": float(y.std(0, correction=0).mean()),
        }
        if known is None or truth is None:
            return found
        classes = max(classes, int(torch.cat([known, truth]).max()) + 1)
        votes = knn(x, known, y, classes, self.k, self.temperature)
        logits = fit_logistic(x, known, classes, self.penalty)(y)
        return {"knn": _accuracy(votes, truth), "probe": _accuracy(logits, truth), **found}

    def _protocol(self, trainer: Trainer, sizes: dict[str, int], transform: Any) -> dict[str, Any]:
        return {
            "feature": self.feature,
            "precision": str(trainer.precision),
            "images": sizes,
            "transform": {"class": f"{type(transform).__module__}.{type(transform).__qualname__}", **_plain(transform)},
            "knn": {"k": self.k, "similarity": "cosine", "temperature": self.temperature},
            "probe": {"model": "logistic regression on standardised features, L-BFGS", "penalty": self.penalty},
        }


def embed_images(
    trainer: Trainer,
    task: LightningModule,
    encode: Callable[[Tensor], Tensor],
    examples: ImageExamples,
    batch_size: int,
) -> tuple[Tensor, Tensor | None]:
    """Return the features (N, D) of all images, in float32, and their labels (N,); each process embeds its share.

    Args:
        trainer, task: whose device and precision are used.
        encode: maps prepared images (B, C, H, W) to features (B, D).
        examples: the images, prepared for evaluation.
        batch_size: images that are embedded at once.
    """
    rank, world = trainer.global_rank, trainer.world_size
    count = len(examples.images)
    # every process needs as many rows, and as many passes through a sharded model: the last ones come twice
    share = -(-count // world)
    mine = [min(index * world + rank, count - 1) for index in range(share)]
    parts, labels = [], []
    for start in range(0, share, batch_size):
        batch = examples.__getitems__([(0, index) for index in mine[start : start + batch_size]])
        with trainer.precision_plugin.forward_context():
            x = encode(batch["image"].to(task.device, task.dtype))
        parts.append(x.float())
        if "label" in batch:  # of the image that was read, should it stand in for a broken one
            labels.append(batch["label"].to(task.device))

    def whole(mine: list[Tensor]) -> Tensor:
        # rows of rank 0, then of rank 1, ...: image number i is row i // world of rank i % world
        rows = gathered(torch.cat(mine)).unflatten(0, (world, share)).transpose(0, 1).flatten(0, 1)
        return rows[:count]

    return whole(parts), whole(labels) if labels else None


def encoder_of(task: Any) -> nn.Module:
    """The image encoder of a task: what its ``encoder()`` returns, or else its ``model``.

    Raises:
        InputError: If that has no ``features`` to take.
    """
    encoder = task.encoder() if callable(getattr(task, "encoder", None)) else getattr(task, "model", None)
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "features"):
        raise InputError(f"{type(task).__name__} has no image encoder, so its features can't be evaluated")
    return encoder


def _accuracy(scores: Tensor, truth: Tensor) -> float:
    return float(multiclass_accuracy(scores, truth, scores.shape[1], average="micro"))


def _plain(transform: Any) -> dict[str, str]:
    """A transform's settings, each as one line."""
    return {name: " ".join(str(value).split()) for name, value in vars(transform).items()}
