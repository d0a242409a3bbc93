"""A two-tower model as a judge of generated pictures: it knows classes by their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError
from core.train.judge import Judge, Judgement
from core.weights.files import digest
from multimodal.find_tokenizer import tokenizer_for
from multimodal.load import load_towers
from multimodal.preparation import preparation_for
from multimodal.templates import templates
from multimodal.zero_shot import checked, label_embeddings
from vision.tasks.judge import prepared

__all__ = ["TowersJudge"]


class TowersJudge(Judge):
    """Embeddings of pictures, and how well they fit to words.

    Args:
        path: a bundle, or the files of open_clip or Hugging Face.
        names: words for the classes, in their order.
        sentences: what a word is put into; see :func:`multimodal.templates.templates`.
        batch: pictures at once.

    Raises:
        InputError: if there is no such model.
    """

    def __init__(self, path: str, names: list[str], sentences: str | list[str] = "photo", batch: int = 250) -> None:
        if batch < 1:
            raise InputError(f"batch {batch} of a judge: expected 1 or more")
        self.path = Path(path).expanduser()
        self.names, self.batch = checked(names), batch
        model, origin = load_towers(self.path)
        self.model: Any = model.requires_grad_(False)
        self.prepare = preparation_for(model, origin)
        tokenizer = tokenizer_for(self.path, model.config.vocab, model.config.context)
        self.words = label_embeddings(self.model, tokenizer, self.names, templates(sentences))

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Tensor]) -> Judgement:
        """See :class:`core.train.judge.Judge`."""
        found = []
        for first in range(0, len(pictures), self.batch):
            images = prepared(pictures[first : first + self.batch], self.prepare)
            found.append(self.model.encode_image(images, normalize=False).float())
        features = torch.cat(found)
        return Judgement(features, F.normalize(features, dim=-1) @ self.words.T)

    def protocol(self) -> dict[str, Any]:
        """See :class:`core.train.judge.Judge`."""
        kind = f"image tower of {type(self.model).__name__} of the suite, labels as words"
        return {"judge": kind, "weights": digest(self.path), "names": list(self.names)}
