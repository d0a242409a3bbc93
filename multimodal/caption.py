"""Writes captions with a CoCa model: `core.generate` over key/value caches of both halves of its text tower."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import InputError
from core.generate import Chooser, Hypothesis, MinLength, Rule, beam_search, generate, most_likely
from multimodal.coca import CoCa
from multimodal.tokenizer import TextTokenizer

__all__ = ["Caption", "CaptionStep", "caption"]


@dataclass(frozen=True)
class Caption:
    """What was written about one image."""

    text: str
    tokens: list[int]  # without start and stop
    logprob: float  # natural logarithm, of all tokens
    finished: bool  # the stop token was reached before the limit


class CaptionStep:
    """A CoCa model looking at images (B, C, H, W), as `core.generate` calls it."""

    def __init__(self, model: CoCa, images: Tensor) -> None:
        self.model = model
        self.image: Tensor | None = model.captioning_tokens(images)
        self.ids = torch.empty(len(images), 0, dtype=torch.long, device=images.device)
        self.text, self.decoder = model.text.tower.blocks.cache(), model.decoder.blocks.cache()

    def __call__(self, tokens: Tensor) -> Tensor:
        """Give the logits (B, L, V) for what follows each of tokens (B, L)."""
        states = self.model.text.following(tokens, self.ids, self.text)
        self.ids = torch.cat([self.ids, tokens], 1)
        x = self.model.decoder(states, self.image, self.decoder)
        self.image = None  # the cache has its keys and values now
        logits: Tensor = self.model.decoder.head(x)
        return logits

    def reorder(self, rows: Tensor) -> None:
        """Continue with the given rows (new B,) of what was fed so far."""
        self.ids = self.ids[rows]
        self.text.reorder(rows)
        self.decoder.reorder(rows)


@torch.inference_mode()
def caption(
    model: CoCa,
    images: Tensor,
    tokenizer: TextTokenizer,
    *,
    prompt: str = "",
    beams: int = 2,
    least: int = 4,
    limit: int = 28,
    rules: Sequence[Rule] = (),
    choose: Chooser = most_likely,
) -> list[Caption]:
    """Write a caption for each image.

    open_clip's default, 6 beams in 3 groups without a penalty for being alike, is 2 beams thrice; it adds up raw
    logits, where log-probabilities are added here. Its ``top_k=1`` is ``beams=1``.

    Args:
        model: in eval mode.
        images: (B, C, H, W), prepared for the model.
        tokenizer: of the model; it has a start token.
        prompt: what every caption begins with.
        beams: beginnings that are kept; 1 = greedy, or what `choose` draws.
        least: tokens before a caption may end.
        limit: of the tokens, the prompt's not counted.
        rules: such as :class:`core.generate.TopK`, with ``choose=Sample()``.
        choose: with one beam, turns logits into tokens.

    Raises:
        InputError: if the prompt leaves no room, or there are both beams and a way to choose.
    """
    if tokenizer.start is None:
        raise InputError("this tokenizer has no start token, which captions begin with: CLIP's has one")
    if beams > 1 and choose is not most_likely:
        raise InputError(f"{beams} beams leave nothing to choose: take 1 beam to draw tokens")
    begin = [tokenizer.start, *(tokenizer.encode(prompt) if prompt else [])]
    room = min(limit, model.config.context + 1 - len(begin))  # the last token is never fed back
    if room < 1:
        raise InputError(f"the prompt has {len(begin) - 1} tokens: the model reads {model.config.context} in all")
    fed = torch.tensor(begin, device=images.device).expand(len(images), -1)
    step, stop = CaptionStep(model, images), tokenizer.eot
    every: list[Rule] = [MinLength(stop, least), *rules]
    if beams == 1:
        found = generate(step, fed, stop=stop, limit=room, rules=every, choose=choose)
    else:
        found = beam_search(step, fed, stop=stop, limit=room, beams=beams, rules=every)
    return [_caption(each, begin[1:], tokenizer) for each in found]


def _caption(found: Hypothesis, prompt: list[int], tokenizer: TextTokenizer) -> Caption:
    return Caption(tokenizer.decode([*prompt, *found.tokens]), found.tokens, found.logprob, found.finished)
