"""Transcripts of a whole data set, as a manifest: what a teacher writes, a student can be trained on."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from core.data.sets import ItemSet
from core.train.folders import write_text
from core.train.processes import gathered_items

__all__ = ["TranscriptWriter"]


class TranscriptWriter(Callback):
    """Writes ``transcripts.jsonl`` into a folder: a line for each recording, in order, on any number of processes.

    Its fields are ``path``, ``text``, ``language`` and ``task``, of a piece of a file also ``offset`` and ``duration``:
    :class:`core.data.manifest.Manifest` reads it, from the folder of the recordings. The file appears when it is
    complete.

    Args:
        folder: Where to write; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "transcripts.jsonl"
        self._rows: list[tuple[int, str, str, str]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the texts of a batch."""
        said = outputs["language"], outputs["task"]
        self._rows += [
            (index, text, *said) for index, text in zip(outputs["index"].tolist(), outputs["text"], strict=True)
        ]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the rows of all processes and write them."""
        rows, self._rows = sorted(gathered_items(self._rows)), []
        if trainer.is_global_zero:
            items = trainer.datamodule.items("predict")  # type: ignore[attr-defined]
            lines = [
                json.dumps({**_place(items, index), "text": text, "language": language, "task": task})
                for index, text, language, task in rows
            ]
            write_text(self.path, "".join(f"{line}\n" for line in lines))


def _place(items: ItemSet[Any], index: int) -> dict[str, str | float]:
    """The file of a recording, and which part of it, unless it is all."""
    said = None if items.captions is None else items.captions[index]
    offset, seconds = (None, None) if said is None or said.offset is None else (said.offset, said.seconds)
    found = {"path": items.name(index), "offset": offset, "duration": seconds}
    return {name: value for name, value in found.items() if value is not None}
