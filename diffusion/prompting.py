"""What a picture is asked to show, and what makes of texts what a model is told."""

from collections.abc import Sequence
from typing import Any, Protocol

from diffusion.condition import Text

__all__ = ["Asked", "Prompting"]

Asked = int | str | None
"""What a picture shows: the number of a class, a text, or nothing that anybody asks for."""


class Prompting(Protocol):
    """Texts as people write them for a model that is told texts, such as ``multimodal.prompts.Prompts``."""

    def __call__(self, texts: Sequence[str], /) -> Text:
        """Encode texts, each to a row."""

    def check(self, texts: Sequence[str], /) -> None:
        """See that texts can be read (InputError if not)."""

    def same(self, other: Any, /) -> bool:
        """Whether another one encodes every text alike."""
