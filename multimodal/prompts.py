"""What a model of pictures is told of texts: a text tower of the suite, and the tokenizer that it reads by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import InputError
from diffusion.condition import Text
from multimodal.find_tokenizer import tokenizer_files, tokenizer_for
from multimodal.load import load_towers
from multimodal.text import TextTower
from multimodal.tokenizer import TextTokenizer

__all__ = ["PromptEncoder", "Prompts", "open_prompts"]


class PromptEncoder(nn.Module):
    """A text tower whose tokens are handed out beside the vector of the whole text (SD3, arXiv:2403.03206, section 4).

    Args:
        tower: of CLIP or SigLIP.
    """

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Text:
        """Encode texts (B, L) int64.

        Returns:
            The normalised tokens, and what the tower makes of the text, not normalised. Of a causal tower the columns
            behind the longest text are left out, and ``lengths`` ends each text at its stop token; a tower that looks
            at the padding hands it out.
        """
        tower, places = self.tower, self.tower.ends(ids)
        lengths = None
        if tower.config.causal:
            ids, lengths = ids[:, : int(places.max()) + 1], places + 1
        states = tower.features(ids).x
        pooled = tower.proj(states[torch.arange(len(states), device=states.device), places])
        return Text(states, pooled, lengths)

    @property
    def text_dim(self) -> int:
        """Width of the tokens."""
        return self.tower.config.dim

    @property
    def pooled_dim(self) -> int:
        """Width of what stands for the whole text."""
        return self.tower.config.dim if self.tower.config.embed is None else self.tower.config.embed


class Prompts:
    """From texts as people write them to what a model is told.

    Args:
        encoder: on its device.
        tokenizer: that its tower was trained with.
        files: that the tokenizer was read from, by the names that a bundle gives them.
    """

    def __init__(self, encoder: PromptEncoder, tokenizer: TextTokenizer, files: dict[str, Path] | None = None) -> None:
        self.encoder, self.tokenizer, self.files = encoder, tokenizer, files or {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Text:
        """Encode texts, float32.

        Raises:
            InputError: if one is empty, or longer than the tower reads.
        """
        self.check(texts)
        ids = self.tokenizer(list(texts)).to(next(self.encoder.parameters()).device)
        found: Text = self.encoder(ids)
        return found

    def check(self, texts: Sequence[str]) -> None:
        """See that texts can be read (InputError if one is empty or too long)."""
        empty = [text for text in texts if not text.strip()]
        if empty:
            raise InputError(f"the prompt {empty[0]!r} is empty: say what to draw")
        for number in self.tokenizer.too_long(list(texts)):
            count, room = len(self.tokenizer.encode(texts[number])), self.tokenizer.context
            raise InputError(
                f"the prompt {texts[number][:40]!r} has {count} tokens, and the model reads {room}: shorten it"
            )

    def same(self, other: Any) -> bool:
        """Whether another one encodes every text alike."""
        mine, theirs = self.encoder.state_dict(), other.encoder.state_dict() if isinstance(other, Prompts) else {}
        alike = mine.keys() == theirs.keys() and all(mine[name].shape == theirs[name].shape for name in mine)
        return alike and all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine)


def open_prompts(path: Path | str) -> Prompts:
    """The text tower and the tokenizer of a two-tower model, in float32 and evaluation mode.

    Args:
        path: a bundle, or files of open_clip or Hugging Face.

    Raises:
        InputError: if there is no such model, or it has no text tower of CLIP's or SigLIP's kind.
    """
    path = Path(path).expanduser()
    if path.suffix == ".ckpt":
        raise InputError(f"{path}: a text tower is read from a bundle: sensorium export makes one of a checkpoint")
    model, _ = load_towers(path)
    tower: Any = model.text
    if not isinstance(tower, TextTower):
        raise InputError(
            f"{path} holds a {type(model).__name__}: expected CLIP or SigLIP, whose text tower can be told"
        )
    tokenizer = tokenizer_for(path, tower.config.vocab, tower.config.context)
    return Prompts(PromptEncoder(tower).eval(), tokenizer, tokenizer_files(str(path)))
