"""Text from a language model: what a person calls. The loops are `core.generate`'s."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.order import keys, uniforms
from core.errors import InputError
from core.generate import (
    AfterPrompt,
    Agreement,
    Chooser,
    Drawn,
    Hypothesis,
    NothingBetter,
    Rejection,
    RepetitionPenalty,
    Rule,
    StopTexts,
    StopWhen,
    beam_search,
    generate,
    most_likely,
    speculate,
    stream,
)
from multimodal.chat_template import ChatTemplate
from multimodal.compiled_decoder import CompiledDecoder, can_compile, is_small
from multimodal.constrained import JsonRule
from multimodal.decoder import Decoder
from multimodal.decoder_step import DecoderStep
from multimodal.decoder_weights import load_decoder
from multimodal.language_tokenizer import LanguageTokenizer
from multimodal.language_writing import Completion, Writing
from multimodal.messages import Message, checked, media

__all__ = ["LanguageModel", "load_language", "prepared"]

NEW_TOKENS = 256


class LanguageModel:
    """A decoder, its tokenizer and how its chats are written.

    Args:
        decoder: in evaluation mode.
        tokenizer: that belongs to it.
        template: of its chats, if it has any.
        step: makes the step of `core.generate` for a decoder: with a cache of its own, or compiled kernels.

    Raises:
        InputError: if the tokenizer has more tokens than the decoder.
    """

    def __init__(
        self,
        decoder: Decoder | CompiledDecoder,
        tokenizer: LanguageTokenizer,
        template: ChatTemplate | None = None,
        *,
        step: Callable[..., Any] = DecoderStep,
    ) -> None:
        if tokenizer.vocab > decoder.config.vocab:
            raise InputError(
                f"the tokenizer has {tokenizer.vocab} tokens and the model {decoder.config.vocab}: they are not of one"
            )
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.template = template
        self.step = step

    @classmethod
    def load(cls, folder: Path | str) -> "LanguageModel":
        """Load a folder of Hugging Face or a bundle, as is fastest on the machine; see :func:`load_language`."""
        return load_language(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device

    def generate(
        self, prompts: Sequence[str], *, draft: "LanguageModel | None" = None, **settings: Any
    ) -> list[Completion]:
        """Go on with each of the prompts.

        Args:
            prompts: any texts, not empty.
            draft: a smaller model of the same tokenizer that tries tokens in advance: the same texts, sooner.
            settings: see :class:`Writing`.

        Raises:
            InputError: for settings that make no sense, and prompts that leave no room in the context.
        """
        if isinstance(prompts, str):
            raise InputError("prompts are a list of texts: write ['...']")
        return self._written([self.tokenizer.encode(text) for text in prompts], _writing(settings), draft)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        draft: "LanguageModel | None" = None,
        tools: Sequence[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> Completion:
        """Answer a chat; arguments as of :meth:`generate`, messages as of :mod:`multimodal.messages`."""
        return self._written([self._chat(messages, tools)], _writing(settings), draft)[0]

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """As :meth:`generate` for a text, or :meth:`chat` for a chat, piece by piece.

        The pieces joined are the text; none ends inside a letter, or shows the beginning of a stop string.

        Raises:
            InputError: also for beams, whose texts change until the end.
        """
        writing = _writing(settings)
        if writing.beams > 1:
            raise InputError("a text of several beams is known at its end only: use 1 beam to stream")
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else self._chat(prompt, tools)
        run = _Run(self, [tokens], writing)
        return run.pieces()

    def _chat(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> list[int]:
        if self.template is None:
            raise InputError("this model has no chat template: it goes on with texts only (generate)")
        if media(messages):
            raise InputError("this model reads text only: it can't see or hear what the messages hold")
        messages = [_joined(message) for message in checked(messages)]
        text = self.template.render(messages, add_generation_prompt=True, tools=tools)
        return self.tokenizer.encode(text, special=False)  # the template has written what is around it

    def _written(self, prompts: list[list[int]], writing: Writing, draft: "LanguageModel | None") -> list[Completion]:
        if draft is not None and draft.decoder.config.vocab != self.decoder.config.vocab:
            raise InputError(
                f"a draft of {draft.decoder.config.vocab} tokens can't help a model of {self.decoder.config.vocab}"
            )
        if draft is not None and writing.beams > 1:
            raise InputError(f"a draft model can't help to keep {writing.beams} beams: use 1, or no draft")
        if not prompts:
            return []
        return _Run(self, prompts, writing).completions(draft)


def load_language(folder: Path | str, precision: Literal["auto", "float32", "int8"] = "auto") -> LanguageModel:
    """Load a folder of Hugging Face or a bundle.

    Args:
        folder: where it is.
        precision: PyTorch's float32; by default that in kernels compiled for the processor, if the model is not small
            (`compiled_decoder.SMALL`), on a GPU bfloat16; ``"int8"``: kernels with weights of 8 bits.

    Raises:
        InputError: if it holds no language model that is known, or no tokenizer.
    """
    decoder, _ = load_decoder(folder)
    return LanguageModel(prepared(decoder, precision), LanguageTokenizer.load(folder), ChatTemplate.load(folder))


def prepared(decoder: Decoder, precision: str = "auto") -> Decoder | CompiledDecoder:
    """Return a decoder where and as it is fastest.

    Args:
        decoder: in float32 and evaluation mode.
        precision: as of :func:`load_language`.

    Raises:
        InputError: if there is no such precision.
    """
    if precision not in ("auto", "float32", "int8"):
        raise InputError(f"no precision {precision!r} for a language model: there are auto, float32 and int8")
    if precision == "auto" and torch.cuda.is_available():
        return decoder.to("cuda", torch.bfloat16)
    if precision == "int8" or (precision == "auto" and can_compile(decoder) and not is_small(decoder)):
        return CompiledDecoder(decoder, "int8" if precision == "int8" else "float32")
    return decoder.to("cuda" if torch.cuda.is_available() else "cpu")


def _joined(message: Message) -> Message:
    """Of a message with several texts, one: templates of models that read only know no parts."""
    content = message.get("content")
    return message if not isinstance(content, list) else {**message, "content": "".join(p["text"] for p in content)}


def _writing(settings: dict[str, Any]) -> Writing:
    unknown = sorted(settings.keys() - Writing.__dataclass_fields__.keys())
    if unknown:
        raise InputError(f"no setting {unknown[0]!r}: there are {', '.join(Writing.__dataclass_fields__)}")
    return Writing(**settings)


class _Run:
    """One call: prompts padded on the left to one length, the rules, where it stops."""

    def __init__(self, model: LanguageModel, prompts: list[list[int]], writing: Writing) -> None:
        self.model, self.writing = model, writing
        self.stops = StopTexts(writing.stop)
        ends = model.tokenizer.stops
        if not ends and (writing.stop or writing.schema is not None):
            raise InputError("the tokenizer has no token that ends a text: stop strings and schemas need one")
        self.stop, self.others = (ends[0], set(ends[1:])) if ends else (-1, set())
        lengths = [len(prompt) for prompt in prompts]
        self.limit = _room(lengths, model.decoder.config.context, writing.max_new_tokens)
        size = max(lengths)
        # what fills a row up is its own first token: penalties for repetition see nothing that isn't there
        rows = [[prompt[0]] * (size - len(prompt)) + prompt for prompt in prompts]
        self.prompt = torch.tensor(rows, device=model.device)
        self.lengths = None if len(set(lengths)) == 1 else torch.tensor(lengths, device=model.device)

    def completions(self, draft: LanguageModel | None) -> list[Completion]:
        """Write all to the end."""
        writing = self.writing
        say: dict[str, Any] = {"stop": self.stop, "limit": self.limit, "rules": self._rules()}
        if writing.beams > 1:
            finish = partial(NothingBetter, length_penalty=writing.length_penalty)
            found = beam_search(self._step(self.model), self.prompt, **say, beams=writing.beams, finish=finish)
        elif draft is not None:
            judge = Rejection(self._draws) if writing.temperature > 0 else Agreement()
            step, tries = (self._step(model, last=writing.ahead + 1) for model in (self.model, draft))
            found = speculate(step, tries, self.prompt, **say, ahead=writing.ahead, judge=judge)
        else:
            step = self._step(self.model)
            found = generate(step, self.prompt, **say, choose=self._chooser(), keep=step.keep)
        return [self._completion(one) for one in found]

    def pieces(self) -> Iterator[str]:
        """Write the only row, piece by piece."""
        letters, text, shown = self.model.tokenizer.detokenizer(), "", 0
        say: dict[str, Any] = {"stop": self.stop, "limit": self.limit, "rules": self._rules()}
        for chosen, _ in stream(self._step(self.model), self.prompt, **say, choose=self._chooser()):
            token = int(chosen[0])
            if token == self.stop or token in self.others:
                break
            text += letters.add(token)
            if self.stops.within(text):
                break
            ready = self.stops.settled(text)
            if len(ready) > shown:
                yield ready[shown:]
                shown = len(ready)
        text = self.stops.cut(text + letters.rest())
        if len(text) > shown:
            yield text[shown:]

    def _step(self, model: LanguageModel, last: int = 1) -> Any:
        return model.step(model.decoder, lengths=self.lengths, last=last)

    def _rules(self) -> list[Rule]:
        writing, rules = self.writing, list[Rule]()
        if writing.repetition_penalty != 1:
            rules.append(AfterPrompt(RepetitionPenalty(writing.repetition_penalty), self.prompt))
        if writing.schema is not None:
            rules.append(JsonRule(self.model.tokenizer, writing.schema, self.model.decoder.config.vocab, self.stop))
        rules += writing.rules()
        if self.others or self.stops.texts:
            rules.append(StopWhen(self.stop, self._ended))
        return rules

    def _ended(self, tokens: list[int]) -> bool:
        if tokens[-1] in self.others:
            return True
        # a letter may take several tokens, and decoders treat the first one of a text in their own way
        tail = tokens[-(self.stops.bytes + 4) :]
        return bool(self.stops.texts) and self.stops.within(self.model.tokenizer.decode(tail))

    def _chooser(self) -> Chooser:
        return Drawn(self._draws) if self.writing.temperature > 0 else most_likely

    def _draws(self, number: int) -> Tensor:
        drawn_by = keys(self.writing.seed, 0, np.arange(len(self.prompt)))
        return torch.from_numpy(uniforms(drawn_by, number + 1)[:, -1])

    def _completion(self, found: Hypothesis) -> Completion:
        tokens, ended = list(found.tokens), found.finished
        if tokens and tokens[-1] in self.others:
            tokens, ended = tokens[:-1], True
        whole = self.model.tokenizer.decode(tokens)
        text = self.stops.cut(whole)
        ended = ended or len(text) < len(whole)
        return Completion(text, tokens, found.logprobs[: len(tokens)], "stop" if ended else "length")


def _room(lengths: list[int], context: int, wanted: int | None) -> int:
    if min(lengths) == 0:
        raise InputError("an empty prompt has no tokens to go on with: write something")
    room = context - max(lengths)
    if room < (wanted or 1):
        raise InputError(
            f"a prompt of {max(lengths)} tokens and {wanted or 1} new ones are more than the context of {context}: "
            "shorten it, or ask for fewer"
        )
    return wanted or min(NEW_TOKENS, room)
