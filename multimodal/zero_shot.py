"""Classification of images by text: no training, the classes are words (arXiv:2103.00020, section 3.1)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import InputError
from core.nn.precision import Precision, fast
from multimodal.templates import PHOTO, templates
from multimodal.tokenizer import TextTokenizer
from multimodal.two_towers import Towers

__all__ = ["ZeroShotClassifier", "checked", "label_embeddings", "text_embeddings"]

TOKENS = 4096  # of texts in one pass: enough to fill the matrix units, few enough to stay in the cache


class ZeroShotClassifier:
    """Tells which of some labels an image shows.

    The labels are read once. Each image is judged alone: the result doesn't depend on the images beside it.

    Args:
        model: two towers, exact, on their device.
        tokenizer: of the text tower.
        labels: words or phrases, each once.
        sentences: what a label is put into: a set's name, or sentences with ``{}``; see
            :func:`multimodal.templates.templates`.
            The embeddings of the sentences are averaged.
        precision: of both towers; ``auto`` is bfloat16 where the device multiplies it natively. With ``int8`` only the
            image tower is of integers: the labels are read once, in bfloat16.
        calibrate: for ``int8``: a few dozen prepared images (N, C, H, W); see :func:`core.nn.precision.fast`.
        progress: is told how many of the sentences are read, and of how many.

    Attributes:
        labels: as they were given.
        embeddings: (labels, embed) float32, of unit length.

    Raises:
        InputError: if there are no labels, or one of them comes twice.
    """

    def __init__(
        self,
        model: Towers,
        tokenizer: TextTokenizer,
        labels: Sequence[str],
        sentences: str | Sequence[str] = PHOTO,
        precision: Precision = "auto",
        progress: Callable[[int, int], None] | None = None,
        calibrate: Tensor | None = None,
    ) -> None:
        self.labels = checked(labels)
        self.sigmoid = bool(model.sigmoid)
        # in bfloat16 a scale of 100 would be wrong by up to 2 %
        self.scale = float(model.logit_scale.detach().float().exp())
        self.bias = 0.0 if model.logit_bias is None else float(model.logit_bias.detach())
        quick: Any = fast(model, "bfloat16" if precision == "int8" else precision)
        if precision == "int8":
            quick.image = fast(model.image, "int8", calibrate=calibrate)
        self.model: Towers = quick
        first = next(quick.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.embeddings = label_embeddings(self.model, tokenizer, self.labels, templates(sentences), progress)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Return how well images (B, C, H, W) fit the labels: (B, labels) float32."""
        x = self.model.encode_image(images.to(self.device, self.dtype), normalize=False)
        return self.scale * F.normalize(x.float(), dim=-1) @ self.embeddings.T + self.bias

    def __call__(self, images: Tensor) -> Tensor:
        """Return probabilities (B, labels) of images (B, C, H, W).

        Of a model trained by softmax (CLIP) they add up to 1 over the labels; of one trained by sigmoid (SigLIP) each
        label has its own, and all may be small.
        """
        found = self.logits(images)
        return found.sigmoid() if self.sigmoid else found.softmax(-1)


def checked(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels without blanks around them.

    Raises:
        InputError: if there are none, one is empty, or one comes twice.
    """
    found = tuple(" ".join(label.split()) for label in labels)
    if not found or not all(found):
        raise InputError("there are no labels, or one of them is empty: give some, such as --labels 'cat,dog'")
    seen: set[str] = set()
    for label in found:
        if label in seen:
            raise InputError(f"the label {label!r} comes twice: a label may be given once")
        seen.add(label)
    return found


def label_embeddings(
    model: Towers,
    tokenizer: TextTokenizer,
    labels: Sequence[str],
    sentences: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the embeddings (labels, embed) float32: the mean over the sentences, of unit length.

    Equal to open_clip's ``build_zero_shot_classifier``, transposed.
    """
    texts = [sentence.replace("{}", label) for label in labels for sentence in sentences]
    found = text_embeddings(model, tokenizer, texts, progress)
    return F.normalize(found.unflatten(0, (len(labels), len(sentences))).mean(1), dim=-1)


@torch.inference_mode()
def text_embeddings(
    model: Towers,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the embeddings (N, embed) float32 of texts, of unit length.

    Texts of similar length are read together, and equal texts once. A causal tower looks at no column behind the stop
    token, so short texts cost little.
    """
    ids = tokenizer(texts)
    rows, places = ids.unique(dim=0, return_inverse=True)
    device = next(model.parameters()).device
    lengths = (rows != tokenizer.pad).sum(1)
    order = lengths.argsort(stable=True)
    found: Tensor | None = None
    done = 0
    for some in _batches(order, lengths[order].tolist(), ids.shape[1]):
        part = F.normalize(model.encode_text(rows[some].to(device), normalize=False).float(), dim=-1)
        found = part.new_empty(len(rows), part.shape[1]) if found is None else found
        found[some.to(device)] = part
        done += len(some)
        if progress is not None:
            progress(done, len(rows))
    assert found is not None
    return found[places.to(device)]


def _batches(order: Tensor, lengths: list[int], context: int) -> Iterator[Tensor]:
    """Cut what is sorted by length into parts that hold about :data:`TOKENS`."""
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * min(lengths[stop], context) <= TOKENS:
            stop += 1
        yield order[start:stop]
        start = stop
