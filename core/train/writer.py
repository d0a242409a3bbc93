"""Predictions of a classifier as a table."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from core.data.sets import ItemSet
from core.train.folders import write_text
from core.train.processes import gathered_items

__all__ = ["PredictionWriter"]


class PredictionWriter(Callback):
    """Writes ``predictions.csv`` into a folder: a line for each image or recording, with its name and the most
    probable classes.

    Columns: ``image`` (or ``recording``), then ``class_id``, ``class`` and ``probability`` of the best, second best
    (``class_id_2``, ...), ... The order is that of the data, on any number of processes. The file appears when it is
    complete.

    Args:
        folder: Where to write; made if missing.
        top: How many classes for each.
    """

    def __init__(self, folder: Path, top: int = 5) -> None:
        self.path = folder / "predictions.csv"
        self.top = top
        self._rows: list[tuple[int, list[int], list[float]]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the best classes of a batch."""
        probabilities: Tensor = outputs["probabilities"].float().cpu()
        values, classes = probabilities.topk(min(self.top, probabilities.shape[1]))
        rows = zip(outputs["index"].tolist(), classes.tolist(), values.tolist(), strict=True)
        self._rows.extend(rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the rows of all processes and write them."""
        rows, self._rows = sorted(gathered_items(self._rows)), []
        if trainer.is_global_zero:
            items = trainer.datamodule.items("predict")  # type: ignore[attr-defined]
            names = getattr(pl_module, "class_names", [])
            write_text(self.path, _table(rows, items, names))


def _table(rows: list[tuple[int, list[int], list[float]]], items: ItemSet[Any], names: list[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    count = len(rows[0][1]) if rows else 1
    suffixes = ["", *(f"_{place}" for place in range(2, count + 1))]
    table.writerow(
        [
            items.noun.removesuffix("s"),
            *(f"{column}{s}" for s in suffixes for column in ("class_id", "class", "probability")),
        ]
    )
    for index, classes, values in rows:
        cells: list[Any] = [items.name(index)]
        for label, value in zip(classes, values, strict=True):
            cells += [label, names[label] if label < len(names) else label, f"{value:.6f}"]
        table.writerow(cells)
    return text.getvalue()
