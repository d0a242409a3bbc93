"""Zero-shot classification with CLIP ViT-B/32 against open_clip: the image tower, and the head of 1000 classes.

python -m benchmarks.zero_shot [--repeats 9] [--threads 2]

Both have the same random weights and read the same tokens. The head is made of ImageNet's names in the 80 sentences of
CLIP (80,000 texts); it is measured on 25 of the classes, as its time grows with their number.
"""

from functools import cache, partial
from typing import Any

import open_clip
import torch
from torch import Tensor

from benchmarks.harness import Case, Contender, main, options
from core.nn.precision import fast
from multimodal.names import open_clip as open_clip_names
from multimodal.presets import two_towers
from multimodal.templates import imagenet_labels, templates
from multimodal.tokenizer import ClipTokenizer
from multimodal.two_towers import TwoTowers
from multimodal.zero_shot import label_embeddings

NAME = "zero_shot"
MODEL = "ViT-B-32"
BATCH = 16
CLASSES = 25


@cache
def pair() -> tuple[TwoTowers, Any]:
    """Ours and open_clip's with the same random weights."""
    torch.manual_seed(0)
    theirs = open_clip.create_model(MODEL).eval()
    ours = two_towers(MODEL).eval()
    ours.load_state_dict(open_clip_names(ours.config, custom=False).load(theirs.state_dict()))
    return ours, theirs


def images() -> Tensor:
    """A batch of random images (B, 3, 224, 224)."""
    return torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def image_tower() -> Case:
    """float32, as `--precision float32` computes it and as the model is trained."""
    ours, theirs = pair()
    quick: Any = fast(ours, "float32")
    batch = images()
    return Case(
        "B/32 image tower, fp32",
        [
            Contender("sensorium fp32", lambda: quick.encode_image(batch)),
            Contender("open_clip fp32", lambda: theirs.encode_image(batch, normalize=True)),
            Contender("sensorium fp32, not packed", lambda: ours.encode_image(batch)),
        ],
        unit="images/s",
        items=BATCH,
        tolerance=1e-4,
    )


def fast_image_tower() -> Case:
    """What the commands use where the processor multiplies bfloat16."""
    ours, theirs = pair()
    quick: Any = fast(ours, "auto")
    batch = images()
    low = batch.to(next(quick.parameters()).dtype)
    return Case(
        "B/32 image tower, default precision",
        [
            Contender("sensorium", lambda: quick.encode_image(low)),
            Contender("open_clip fp32", lambda: theirs.encode_image(batch, normalize=True)),
        ],
        unit="images/s",
        items=BATCH,
        tolerance=0.05,
    )


def head() -> Case:
    """ImageNet's names in 80 sentences."""
    ours, theirs = pair()
    quick: Any = fast(ours, "auto")
    exact: Any = fast(ours, "float32")
    labels, sentences = imagenet_labels()[:: 1000 // CLASSES], templates("openai")
    tokenizer = ClipTokenizer(77)
    tokenize = open_clip.get_tokenizer(MODEL)
    made = [sentence.format for sentence in sentences]

    def peer() -> Tensor:
        found: Tensor = open_clip.build_zero_shot_classifier(theirs, tokenize, labels, made, 10)
        return found.T

    head_of = partial(label_embeddings, tokenizer=tokenizer, labels=labels, sentences=sentences)
    return Case(
        f"zero-shot head, {len(labels)} classes x {len(sentences)} sentences",
        [
            Contender("sensorium", lambda: head_of(quick)),
            Contender("open_clip fp32", peer),
            Contender("sensorium fp32", lambda: head_of(exact), 1e-4),
        ],
        unit="texts/s",
        items=len(labels) * len(sentences),
        tolerance=0.05,
    )


if __name__ == "__main__":
    main(NAME, [image_tower, fast_image_tower, head], options(__doc__))
