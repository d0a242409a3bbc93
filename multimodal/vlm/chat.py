"""Chats about pictures: what a person calls."""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.errors import InputError
from core.weights import Source, is_bundle
from multimodal.chat_template import ChatTemplate
from multimodal.language import LanguageModel
from multimodal.language_tokenizer import LanguageTokenizer
from multimodal.language_writing import Completion, Writing
from multimodal.messages import Message
from multimodal.vlm.config import Gated, Projected
from multimodal.vlm.media import with_frames
from multimodal.vlm.showing import Showing
from multimodal.vlm.step import SeeingStep, features_of
from multimodal.vlm.weights import load_vlm

__all__ = ["VisionLanguage"]

CAPTION = "Describe this image."


class VisionLanguage(LanguageModel):
    """A model that sees, its tokenizer, how its chats are written and how it is shown pictures.

    Args:
        model: in evaluation mode.
        tokenizer: that belongs to it.
        template: of its chats.
        showing: of pictures; by default as published models of its kind are shown them.

    Raises:
        InputError: if model and tokenizer don't belong together.
    """

    def __init__(
        self,
        model: Projected | Gated,
        tokenizer: LanguageTokenizer,
        template: ChatTemplate | None = None,
        showing: Showing | None = None,
    ) -> None:
        super().__init__(model.decoder, tokenizer, template)
        self.model = model
        self.source: Source | None = None  # of weights that were loaded, for their way back
        self.showing = Showing.of(model, {}) if showing is None else showing
        word = self.showing.words.token
        if tokenizer.token(word) != model.image_token:
            raise InputError(
                f"the tokenizer has {word} as {tokenizer.token(word)}, the model as {model.image_token}: not of one"
            )

    @classmethod
    def load(cls, folder: Path | str, precision: str = "auto") -> "VisionLanguage":
        """Load a folder of Hugging Face (LLaVA-1.5, Idefics3, SmolVLM, Idefics-1) or a bundle.

        Args:
            folder: that holds the model and its tokenizer.
            precision: auto or float32, which are the same here.

        Raises:
            InputError: if it holds no such model, or no tokenizer; for another precision.
        """
        if precision not in ("auto", "float32"):
            raise InputError(f"no precision {precision!r} for a vision-language model: there are auto and float32")
        folder = Path(folder)
        model, origin = load_vlm(folder)
        tokenizer = LanguageTokenizer.load(folder)
        if isinstance(model, Gated) and not is_bundle(folder):  # its config does not say which token it is
            known = tokenizer.token("<image>")
            model.image_token = model.image_token if known is None else known
        word = tokenizer.tokenizer.id_to_token(model.image_token) or "<image>"
        found = cls(model, tokenizer, ChatTemplate.load(folder), Showing.of(model, origin.preprocessing, word))
        found.source = origin.source
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def chat(self, messages: Sequence[Message], **settings: Any) -> Completion:
        """Answer a chat.

        Args:
            messages: OpenAI's: ``[{"role": "user", "content": [{"type": "image", "image": "cat.jpg"}, {"type": "text",
                "text": "What is it?"}]}]``; pictures as of :func:`multimodal.vlm.media.with_frames`.
            settings: see :class:`multimodal.language_writing.Writing`.

        Raises:
            InputError: if a message or a picture is not as it must be, there are more or fewer image tokens than
                pictures, or all is longer than the context.
        """
        return self.chats([messages], **settings)[0]

    def chats(self, chats: Sequence[Sequence[Message]], **settings: Any) -> list[Completion]:
        """Answer several chats together; as :meth:`chat`."""
        if not chats:
            return []
        _refuse_draft(settings)
        try:
            writing = Writing(**settings)
        except TypeError as error:
            raise InputError(f"no such setting: there are {', '.join(Writing.__dataclass_fields__)}") from error
        seen = [self._seen(messages) for messages in chats]
        return self._showing(seen)._written([tokens for tokens, _ in seen], writing, None)

    def caption(self, images: Sequence[Any], prompt: str = CAPTION, **settings: Any) -> list[Completion]:
        """Say what pictures show, each by itself.

        Args:
            images: see :func:`multimodal.vlm.media.with_frames`.
            prompt: what the model is asked about each.
            settings: as of :meth:`chat`.
        """
        ask = {"type": "text", "text": prompt}
        return self.chats(
            [[{"role": "user", "content": [{"type": "image", "image": image}, ask]}] for image in images], **settings
        )

    def stream(self, prompt: str | Sequence[Message], **settings: Any) -> Iterator[str]:
        """As :meth:`chat`, piece by piece; the pieces joined are the text, and none ends inside a letter.

        Raises:
            InputError: as :meth:`chat`, at once.
        """
        _refuse_draft(settings)
        if isinstance(prompt, str):
            return super().stream(prompt, **settings)
        seen = self._seen(prompt)
        return LanguageModel.stream(self._showing([seen], seen[0]), prompt, **settings)

    def _seen(self, messages: Sequence[Message]) -> tuple[list[int], list[torch.Tensor]]:
        """The tokens of a chat, and the pixels of its pictures."""
        if self.template is None:
            raise InputError("this model has no chat template: add chat_template.jinja to its folder")
        chat, images = with_frames(messages)
        text = self.template.render(chat, add_generation_prompt=True)
        pictures = [self.showing.picture(image) for image in images]
        text = self.showing.text(text, pictures)
        begin = self.template.special.get("bos_token")
        # a token that begins every text is written by the template, or else by the tokenizer
        tokens = self.tokenizer.encode(text, special=not (begin and text.startswith(begin)))
        return tokens, [picture.pixels for picture in pictures]

    def _showing(self, seen: Sequence[tuple[list[int], list[torch.Tensor]]], tokens: Any = None) -> "VisionLanguage":
        """This model for one call: what it is shown is a part of its step."""
        pixels = [each.to(self.device) for _, some in seen for each in some]
        with torch.inference_mode():
            features = features_of(self.model, pixels)
        call = copy(self)
        call.step = partial(_step, self.model, features)
        call._asked = tokens
        return call

    _asked: list[int] | None = None

    def _chat(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> list[int]:
        if tools:
            raise InputError("models that see are not told of tools here: leave them out")
        assert self._asked is not None
        return self._asked


def _step(model: Any, features: Any, decoder: Any, **given: Any) -> SeeingStep:
    return SeeingStep(model, features, **given)


def _refuse_draft(settings: dict[str, Any]) -> None:
    if settings.pop("draft", None) is not None:
        raise InputError("a draft model can't see: leave it out")
