"""How a model is shown pictures: what becomes of their pixels, and what stands for them in the text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from core.errors import InputError
from core.weights import from_plain
from multimodal.preparation import CLIP_MEAN, CLIP_STD
from multimodal.vlm.config import Gated, GatedModelConfig, Projected, ProjectedConfig
from multimodal.vlm.crops import Crops, Picture
from multimodal.vlm.placing import expanded
from multimodal.vlm.words import CropWords, FencedWords, RepeatedWords
from vision.preprocess import Preparation, preparation

__all__ = ["Showing", "whole"]

_WORDS = {"whole": RepeatedWords, "crops": CropWords, "fenced": FencedWords}


@dataclass(frozen=True)
class Showing:
    """Pictures as an eye takes them, and the words for them.

    Attributes:
        prepare: makes an eye's picture of any.
        words: what stands for it in the text.
    """

    prepare: Preparation | Crops
    words: RepeatedWords | CropWords | FencedWords

    @classmethod
    def of(cls, model: Projected | Gated, said: Mapping[str, Any], token: str = "<image>") -> "Showing":
        """Return how a model is shown pictures.

        Args:
            model: the model.
            said: by Hugging Face (``preprocessor_config.json``), or a bundle of ours (:meth:`plain`); where nothing is
                said, as published models of its kind are.
            token: that stands for a picture.

        Raises:
            InputError: if what is said can't be followed.
        """
        if "show" in said:
            return cls._of_plain(said)
        try:
            if isinstance(model, Projected) and model.config.projector == "shuffle":
                return cls(_crops(model.config, said), CropWords(token, model.tokens_of_a_picture))
            prepare = whole(model.config, said)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the model's preprocessing can't be followed ({error!r}): {dict(said)}") from error
        if isinstance(model, Gated):
            return cls(prepare, FencedWords(token))
        return cls(prepare, RepeatedWords(token, model.tokens_of_a_picture))

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for a bundle."""
        show = next(name for name, kind in _WORDS.items() if isinstance(self.words, kind))
        return {"show": show, "words": asdict(self.words), "prepare": asdict(self.prepare)}

    def picture(self, image: Image.Image) -> Picture:
        """Return a picture as the eye takes it."""
        found = self.prepare(image)
        return found if isinstance(found, Picture) else Picture(found[None])

    def text(self, text: str, pictures: Sequence[Picture]) -> str:
        """Return a text with words for each of its pictures in the place of the image token.

        Raises:
            InputError: if there are more or fewer of them: which, and where.
        """
        found = expanded(text, self.words.token, [self.words.of(picture) for picture in pictures])
        if isinstance(self.words, FencedWords):  # neighbours share the fence between them
            found = found.replace(2 * self.words.fence, self.words.fence)
        return found

    @classmethod
    def _of_plain(cls, said: Mapping[str, Any]) -> "Showing":
        kind = _WORDS.get(str(said["show"]))
        if kind is None or not {"words", "prepare"} <= said.keys():
            raise InputError(f"the bundle shows pictures by {said['show']!r}: known are {', '.join(_WORDS)}")
        of: type[Any] = Crops if kind is CropWords else Preparation
        prepare: Any = from_plain(of, said["prepare"], "prepare")
        words: Any = from_plain(kind, said["words"], "words")
        return cls(prepare, words)


def _crops(config: ProjectedConfig, said: Mapping[str, Any]) -> Crops:
    side = config.eye.image[0]
    if not said:
        return Crops(side, 4 * side)
    size, crop = said.get("size") or {}, said.get("max_image_size") or {}
    edge = int(crop.get("longest_edge", side))
    if edge != side:
        raise InputError(f"the model's crops are of {edge} pixels, but its eye takes {side}: expected the same")
    scaled = said.get("do_normalize", True)
    longest = int(size.get("longest_edge", 4 * side)) if said.get("do_resize", True) else None
    return Crops(
        side,
        longest,
        bool(said.get("do_image_splitting", True)),
        Image.Resampling(int(said.get("resample", Image.Resampling.LANCZOS))).name,
        tuple(map(float, said.get("image_mean") or (0.5,) * 3)) if scaled else (0.0,) * 3,
        tuple(map(float, said.get("image_std") or (0.5,) * 3)) if scaled else (1.0,) * 3,
    )


def whole(config: ProjectedConfig | GatedModelConfig, said: Mapping[str, Any]) -> Preparation:
    """Return how pictures that are shown as a whole are prepared.

    Args:
        config: of the model.
        said: see :meth:`Showing.of`, or a transform of a recipe of ours.

    Raises:
        InputError: if what is said can't be followed.
    """
    eye = config.eye
    if "class_path" in said:  # a transform of a recipe of ours
        return preparation(eye.image, eye.channels, said)
    if said.get("do_pad"):
        raise InputError("the model's pictures are padded to squares (do_pad), which is not known here")
    usual: dict[str, Any] = {"resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    if isinstance(config, ProjectedConfig) and eye.cls_token:
        usual |= {"size": {"shortest_edge": eye.image[0]}, "crop_size": eye.image[0]}
    if eye.channels == 1:
        return preparation(eye.image, 1, {})
    return preparation(eye.image, eye.channels, {**usual, **said})
