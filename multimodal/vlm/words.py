"""What stands in a prompt for a picture: its image tokens, and the words around them."""

from dataclasses import dataclass
from typing import Protocol

from multimodal.vlm.crops import Picture

__all__ = ["CropWords", "FencedWords", "RepeatedWords", "Words"]


class Words(Protocol):
    """Writes what stands for a picture."""

    @property
    def token(self) -> str:
        """What the chat template writes for a picture."""
        ...

    def of(self, picture: Picture) -> str:
        """Return the text for a picture."""
        ...


@dataclass(frozen=True)
class RepeatedWords:
    """The image token, once for each feature (LLaVA).

    Attributes:
        token: that stands for one feature.
        count: features of a picture.
    """

    token: str = "<image>"
    count: int = 576

    def of(self, picture: Picture) -> str:
        """Return the tokens."""
        return self.token * (self.count * len(picture.pixels))


@dataclass(frozen=True)
class CropWords:
    """Crops row by row, each after its place in the grid, then the whole (Idefics3, SmolVLM).

    Attributes:
        token: that stands for one feature.
        count: features of a crop, and of the whole.
        fence: around all.
        whole: before the whole.
    """

    token: str = "<image>"
    count: int = 169
    fence: str = "<fake_token_around_image>"
    whole: str = "<global-img>"

    def of(self, picture: Picture) -> str:
        """Return the text."""
        features = self.token * self.count
        rows = [
            "".join(f"{self.fence}<row_{row + 1}_col_{column + 1}>{features}" for column in range(picture.columns))
            + "\n"
            for row in range(picture.rows)
        ]
        between = "\n" if rows else ""
        return "".join(rows) + f"{between}{self.fence}{self.whole}{features}{self.fence}"


@dataclass(frozen=True)
class FencedWords:
    """One image token between two fences (Idefics-1)."""

    token: str = "<image>"
    fence: str = "<fake_token_around_image>"

    def of(self, picture: Picture) -> str:
        """Return the tokens."""
        return f"{self.fence}{self.token}{self.fence}"
