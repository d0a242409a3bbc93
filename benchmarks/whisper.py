"""Whisper base with random weights: encoder and greedy decoding against openai-whisper and CTranslate2.

    python -m benchmarks.whisper [--repeats 9] [--threads 2]

All three get the same weights. Decoding starts from the same encoded audio and writes `TOKENS` tokens one by one. What
is plainly called sensorium is what users get by default (`audio.fast`). Real speech is in ``benchmarks.speech``.
"""

import copy
import logging
import tempfile
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audio.fast import fast_whisper
from audio.weights import HUGGING_FACE, OPENAI
from audio.whisper import Whisper, WhisperConfig
from benchmarks.apart import Apart
from benchmarks.harness import Case, Contender, main, options
from core.generate.search import generate

TOKENS = 64
PROMPT = (50258, 50259, 50359, 50363)  # start, English, transcribe, no timestamps
STOP = 50257
BASE = WhisperConfig(audio_dim=512, audio_heads=8, audio_layers=6, text_dim=512, text_heads=8, text_layers=6)


class Models(NamedTuple):
    """The same weights in each implementation."""

    ours: Whisper
    fast: Whisper
    openai: Any


def random_weights() -> Any:
    """Hugging Face's model with random weights, which are the same in any process."""
    from transformers import WhisperConfig as TheirConfig
    from transformers import WhisperForConditionalGeneration

    torch.manual_seed(0)
    return WhisperForConditionalGeneration(
        TheirConfig(
            vocab_size=BASE.vocab,
            d_model=BASE.audio_dim,
            encoder_layers=BASE.audio_layers,
            decoder_layers=BASE.text_layers,
            encoder_attention_heads=BASE.audio_heads,
            decoder_attention_heads=BASE.text_heads,
            encoder_ffn_dim=4 * BASE.audio_dim,
            decoder_ffn_dim=4 * BASE.text_dim,
        )
    ).eval()


@cache
def models() -> Models:
    """The weights in our implementation and in OpenAI's."""
    ours = Whisper(BASE).eval()
    ours.load_state_dict(HUGGING_FACE.load(random_weights().state_dict()))
    return Models(ours, fast_whisper(copy.deepcopy(ours)), openai_whisper(ours))


def openai_whisper(ours: Whisper) -> Any:
    """OpenAI's implementation with our weights."""
    from whisper.model import ModelDimensions
    from whisper.model import Whisper as TheirWhisper

    config = ours.config
    theirs = TheirWhisper(
        ModelDimensions(
            n_mels=config.mels,
            n_audio_ctx=config.audio_context,
            n_audio_state=config.audio_dim,
            n_audio_head=config.audio_heads,
            n_audio_layer=config.audio_layers,
            n_vocab=config.vocab,
            n_text_ctx=config.text_context,
            n_text_state=config.text_dim,
            n_text_head=config.text_heads,
            n_text_layer=config.text_layers,
        )
    ).eval()
    theirs.load_state_dict(OPENAI.export(ours.state_dict()))
    return theirs


class SpecialTokens:
    """As much of a tokenizer as CTranslate2's converter asks for: the ids of the special tokens."""

    additional_special_tokens: tuple[str, ...] = ()

    def __init__(self) -> None:
        from whisper.tokenizer import get_tokenizer

        self.ids = get_tokenizer(multilingual=True).encoding._special_tokens

    def get_vocab(self) -> dict[str, int]:
        """Names of all tokens but the timestamps, which the converter adds."""
        names = {number: name for name, number in self.ids.items()}
        return {names.get(number, f"token{number}"): number for number in range(50364)}

    def convert_tokens_to_ids(self, token: str) -> int:
        """The id of a special token."""
        return int(self.ids[token])


def ctranslate2_whisper(kind: str) -> Any:
    """CTranslate2's implementation, float32 or int8."""
    import ctranslate2
    from ctranslate2.converters.transformers import WhisperLoader

    ctranslate2.set_log_level(logging.ERROR)
    source = random_weights()
    source.generation_config.suppress_tokens = source.generation_config.begin_suppress_tokens = []
    specification = WhisperLoader()(source, SpecialTokens())
    specification.validate()
    specification.optimize()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        specification.save(folder)
        return ctranslate2.models.Whisper(
            folder, device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1
        )


def ctranslate2_encoder(kind: str) -> Callable[[], Any]:
    """What encodes :func:`mel`, for a process apart."""
    model, given = ctranslate2_whisper(kind), stored(mel())
    return lambda: np.array(model.encode(given, to_cpu=True))


def ctranslate2_decoder(kind: str, windows: int, audio: np.ndarray) -> Callable[[], Any]:
    """What writes `TOKENS` tokens about encoded audio (1, S, D) for each of so many windows, for a process apart."""
    model, given = ctranslate2_whisper(kind), stored(torch.from_numpy(audio).repeat(windows, 1, 1))

    def run() -> list[int]:
        # it counts half of max_length as new tokens
        found = model.generate(
            given,
            [list(PROMPT)] * windows,
            beam_size=1,
            max_length=2 * TOKENS,
            suppress_blank=False,
            suppress_tokens=[],
        )
        return [len(row.sequences_ids[0]) for row in found]

    return run


def mel() -> Tensor:
    """Something like 30 s of log-mel frames (1, mels, 3000)."""
    return torch.randn(1, BASE.mels, 3000, generator=torch.Generator().manual_seed(1))


def stored(x: Tensor) -> Any:
    """A tensor as CTranslate2 takes it."""
    import ctranslate2

    return ctranslate2.StorageView.from_array(x.contiguous().numpy())


def encoder() -> Case:
    """30 s of audio through the encoder."""
    every = models()
    frames = mel()
    typed = next(every.fast.encoder.parameters()).dtype
    return Case(
        "Whisper base, encoder, 30 s",
        [
            Contender("sensorium", lambda: every.fast.encode(frames.to(typed)), tolerance=0.1),
            Contender("sensorium fp32", lambda: every.ours.encode(frames)),
            Contender("openai-whisper fp32", lambda: every.openai.encoder(frames)),
            Contender("CTranslate2 fp32", Apart(partial(ctranslate2_encoder, "float32"))),
            Contender("CTranslate2 int8", Apart(partial(ctranslate2_encoder, "int8")), tolerance=0.1),
        ],
        tolerance=1e-4,
        reference=2,
    )


def greedy_decode() -> Case:
    """One token after another, from the same encoded audio."""
    return _decode(1)


def greedy_decode_of_eight() -> Case:
    """The same for eight windows at once."""
    return _decode(8)


def _decode(windows: int) -> Case:
    from whisper.decoding import DecodingOptions, decode

    every = models()
    heard = every.openai.encoder(mel())
    audio = heard.repeat(windows, 1, 1)
    halved = audio.to(torch.bfloat16)
    plain = DecodingOptions(
        language="en",
        temperature=0.0,
        sample_len=TOKENS,
        without_timestamps=True,
        suppress_tokens="",
        suppress_blank=False,
        fp16=False,
    )

    def ours(model: Whisper, heard: Tensor) -> list[int]:
        cache = model.new_cache()
        prompt = torch.tensor([PROMPT] * windows)
        found = generate(lambda new: model.decode(new, heard, cache).x, prompt, stop=STOP, limit=TOKENS)
        return [len(row.tokens) for row in found]

    def ctranslate2(kind: str) -> Apart:
        return Apart(partial(ctranslate2_decoder, kind, windows, heard.numpy()))

    # random weights hold no text to compare: that all write as many tokens is what the comparison needs
    return Case(
        f"Whisper base, greedy decode, batch {windows}",
        [
            Contender("sensorium", lambda: ours(every.fast, halved)),
            Contender("sensorium fp32", lambda: ours(every.ours, audio)),
            Contender("openai-whisper fp32", lambda: [len(r.tokens) for r in decode(every.openai, audio, plain)]),
            Contender("CTranslate2 fp32", ctranslate2("float32")),
            Contender("CTranslate2 int8", ctranslate2("int8")),
        ],
        unit="ms/token",
        items=TOKENS * windows,
        tolerance=0.0,
        reference=2,
    )


if __name__ == "__main__":
    main("whisper", [encoder, greedy_decode, greedy_decode_of_eight], options(__doc__))
