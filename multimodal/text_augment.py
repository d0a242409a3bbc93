"""Texts changed at random for training, as images are (EDA, Wei and Zou 2019, arXiv:1901.11196)."""

from collections.abc import Sequence

import numpy as np

from core.data.order import Keys, splitmix64, uniforms
from core.data.sets import Images, ImageSet
from core.errors import InputError
from multimodal.captions import Captioner, Given

__all__ = ["Varied"]


class Varied(Captioner):
    """Texts of another captioner, with some words left out and some in each other's place.

    Args:
        captions: where the texts come from; by default those that the data has.
        leave_out: chance of each word to be left out; one word always stays.
        swap: pairs of words that change places, as a share of the number of words.
    """

    def __init__(self, captions: Captioner | None = None, leave_out: float = 0.1, swap: float = 0.1) -> None:
        if not (0 <= leave_out < 1 and 0 <= swap <= 1):
            raise InputError(f"leave_out {leave_out} and swap {swap}: expected shares between 0 and 1")
        self.captions = captions or Given()
        self.leave_out = leave_out
        self.swap = swap

    def __call__(self, images: Images, numbers: Sequence[int], source: ImageSet, keys: Keys) -> list[str]:
        """See :class:`Captioner`."""
        texts = self.captions(images, numbers, source, keys)
        longest = max((len(text.split()) for text in texts), default=0)
        # keys of its own: which words go must not follow from which text was drawn
        draws = uniforms(splitmix64(keys), 3 * longest + 1)
        return [self._varied(text.split(), own) for text, own in zip(texts, draws, strict=True)]

    def _varied(self, words: list[str], draws: np.ndarray) -> str:
        count = len(words)
        if not count:
            return ""
        places = (draws[1:] * count).astype(int)  # of the words to swap, then one draw for each word
        for first, second in places[: 2 * round(self.swap * count)].reshape(-1, 2):
            words[first], words[second] = words[second], words[first]
        stay = draws[-count:] >= self.leave_out
        stay[int(draws[0] * count)] |= not stay.any()
        return " ".join(word for word, kept in zip(words, stay, strict=True) if kept)
