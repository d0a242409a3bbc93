"""Alignment: paths and medians by definition, words equal openai-whisper's, a window the same alone and in a batch."""

import base64
import gzip
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import torch
import whisper as openai_whisper
from whisper import timing as openai_timing
from whisper.tokenizer import get_tokenizer

from audio.align import Aligner, Timing, dtw, median_filter
from audio.alignment_heads import ALIGNMENT_HEADS, alignment_heads
from audio.decode import Decoder
from audio.tokenizer import Tokenizer
from audio.transcript import Segment
from audio.weights import load_whisper
from audio.whisper import WhisperConfig
from audio.words import Punctuation, merge_punctuation, spoken_end, timed_segments
from core.errors import InputError


def paths(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """All of them, from the first to the last cell."""
    if rows == columns == 1:
        yield [(0, 0)]
        return
    for di, dj in ((1, 0), (0, 1), (1, 1)):
        if rows > di and columns > dj:
            for path in paths(rows - di, columns - dj):
                yield [*path, (rows - 1, columns - 1)]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (3, 3), (3, 6), (5, 4)])
def test_the_path_is_the_cheapest(rows: int, columns: int) -> None:
    costs = torch.randn(rows, columns, dtype=torch.float64).numpy()
    best = min(paths(rows, columns), key=lambda path: sum(costs[cell] for cell in path))
    assert [tuple(cell) for cell in dtw(costs).T.tolist()] == best


def test_equal_costs_lead_to_a_cheapest_path() -> None:
    costs = torch.randint(0, 3, (4, 5)).double().numpy()
    least = min(sum(costs[cell] for cell in path) for path in paths(4, 5))
    assert sum(costs[tuple(cell)] for cell in dtw(costs).T) == least


@pytest.mark.parametrize("shape", [(1, 700), (12, 30), (60, 1500), (230, 1500)])
def test_paths_equal_openais(shape: tuple[int, int]) -> None:
    costs = torch.randn(shape).numpy()
    assert np.array_equal(dtw(costs), openai_timing.dtw_cpu(costs.astype(np.float64)))


@pytest.mark.parametrize("width", [1, 3, 5, 7, 13])
@pytest.mark.parametrize("shape", [(10,), (2, 15), (4, 5, 345)])
def test_medians_equal_scipys(shape: tuple[int, ...], width: int) -> None:
    x = torch.randn(shape)
    expected = scipy.ndimage.median_filter(x.numpy(), [1] * (x.ndim - 1) + [width], mode="mirror")
    assert np.array_equal(median_filter(x, width).numpy(), expected)


def test_medians_at_the_limits() -> None:
    short = torch.randn(2, 3)
    assert torch.equal(median_filter(short, 7), short)
    with pytest.raises(ValueError, match="must be odd, not 4"):
        median_filter(short, 4)


def test_heads_equal_openais() -> None:
    for name, packed in openai_whisper._ALIGNMENT_HEADS.items():
        ours = ALIGNMENT_HEADS[{"large": "large-v3", "turbo": "large-v3-turbo"}.get(name, name)]
        mask = np.frombuffer(gzip.decompress(base64.b85decode(packed)), dtype=bool).reshape(ours.layers, ours.heads)
        assert ours.pairs == tuple((int(layer), int(head)) for layer, head in np.argwhere(mask))


def test_heads_of_a_model() -> None:
    tiny = WhisperConfig(vocab=51_864)
    assert alignment_heads(tiny) == ALIGNMENT_HEADS["tiny.en"].pairs
    assert alignment_heads(WhisperConfig(vocab=51_864, alignment_heads=((3, 1), (5, 0)))) == ((3, 1),)
    large = WhisperConfig(text_layers=32, text_heads=20)
    assert alignment_heads(large) == ALIGNMENT_HEADS["large-v2"].pairs
    assert alignment_heads(large, "large-v1") == ALIGNMENT_HEADS["large-v1"].pairs
    unknown = WhisperConfig(text_layers=3, text_heads=2)
    assert alignment_heads(unknown) == ((1, 0), (1, 1), (2, 0), (2, 1))


def test_heads_come_with_the_weights(assets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(assets / "weights" / "whisper-tiny.en", folder)
    path = folder / "generation_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "alignment_heads": [[2, 1], [3, 5]]}))
    assert load_whisper(folder)[0].config.alignment_heads == ((2, 1), (3, 5))
    path.write_text(json.dumps({**said, "alignment_heads": [[2, 1], [4, 5]]}))
    with pytest.raises(InputError, match=r"generation_config.json names head 5 of layer 4 .* has 4 layers of 6 heads"):
        load_whisper(folder)
    path.write_text(json.dumps({**said, "alignment_heads": [2, 1]}))
    with pytest.raises(InputError, match="alignment_heads should be"):
        load_whisper(folder)


TEXTS = {"en": " It's one, two (and three).", "fr": " Ça va, l'été ?", "ja": "今日は、いい天気です。"}


@pytest.mark.parametrize("frames", [3000, 1501, 240])
@pytest.mark.parametrize(("vocab", "language"), [(51_864, "en"), (51_865, "fr"), (51_866, "ja")])
def test_words_equal_openais(vocab: int, language: str, frames: int, random_models: Callable) -> None:
    model, reference = random_models(vocab, 0, 0.1)
    tokenizer = Tokenizer.for_vocab(vocab)
    other = get_tokenizer(vocab > 51_864, num_languages=len(tokenizer.languages), language=language, task="transcribe")
    mel, text = torch.randn(80, 3000), tokenizer.encode(TEXTS[language])
    expected = openai_timing.find_alignment(reference, other, text, mel, frames)
    audio = Decoder(model, tokenizer).encode(mel[None])
    found = Aligner(model, tokenizer)(audio, [text], [frames], language)[0]
    assert len(found) > 3
    assert [(word.text, list(word.tokens)) for word in found] == [(word.word, word.tokens) for word in expected]
    for word, theirs in zip(found, expected, strict=True):
        assert (word.start, word.end) == pytest.approx((theirs.start, theirs.end), abs=0.02 + 1e-6)
        assert word.probability == pytest.approx(theirs.probability, rel=1e-3)


def test_a_batch_changes_nothing(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    tokenizer = Tokenizer()
    audio = Decoder(model, tokenizer).encode(torch.randn(4, 80, 3000))
    texts = [tokenizer.encode(text) for text in (" One, two.", " Un deux trois quatre", "", " 你好，世界")]
    frames, languages = [3000, 1234, 3000, 620], ["en", "fr", "en", "zh"]
    aligner = Aligner(model, tokenizer)
    together = aligner(audio, texts, frames, languages)
    assert [timing.text for timing in together[0]] == [" One", ",", " two", "."]
    assert [timing.text for timing in together[3]] == [" 你", "好", "，", "世界"]
    assert together[2] == []
    for n, text in enumerate(texts):
        alone = aligner(audio[n : n + 1], [text], [frames[n]], languages[n])[0]
        assert [timing[:4] for timing in alone] == [timing[:4] for timing in together[n]]
        assert [one.probability for one in alone] == pytest.approx([one.probability for one in together[n]], rel=1e-3)


def test_windows_that_are_too_many_at_once(random_models: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = random_models(51_865, 0)
    tokenizer = Tokenizer()
    audio = Decoder(model, tokenizer).encode(torch.randn(3, 80, 3000))
    texts = [tokenizer.encode(" One two three")] * 3
    together = Aligner(model, tokenizer)(audio, texts, [3000] * 3)
    monkeypatch.setattr("audio.align._HELD", 1)
    assert [[word[:4] for word in one] for one in Aligner(model, tokenizer)(audio, texts, [3000] * 3)] == [
        [word[:4] for word in one] for one in together
    ]


def test_audio_that_is_too_short_has_no_words(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    aligner = Aligner(model, Tokenizer())
    audio = torch.randn(1, 1500, 64)
    assert aligner(audio, [[400]], [1]) == [[]]
    assert len(aligner(audio, [[400]], [2])[0]) == 1


def test_texts_that_are_too_long_are_aligned_at_their_start(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)  # of 80 positions
    tokenizer = Tokenizer()
    found = Aligner(model, tokenizer)(torch.randn(1, 1500, 64), [tokenizer.encode(" word") * 90], [3000])
    assert len(found[0]) == 80 - 5


def test_translations_are_split_as_english_is(random_models: Callable) -> None:
    model, _ = random_models(51_865, 0)
    tokenizer = Tokenizer()
    found = Aligner(model, tokenizer)(
        torch.randn(1, 1500, 64), [tokenizer.encode(" Good morning")], [3000], "ja", "translate"
    )
    assert [timing.text for timing in found[0]] == [" Good", " morning"]


SIGNS = ["(", ' "', " (", ".", "。", ",", "?", '"', ")", " -", "!", " '", "¿"]


def random_timings(dice: random.Random, count: int) -> list[Timing]:
    """Words and signs, each beginning where the one before ends, most of them short."""
    timings, time = [], 0.0
    for _ in range(count):
        text = dice.choice(SIGNS) if dice.random() < 0.4 else dice.choice(["", " "]) + dice.choice(["ab", "cd e", "f"])
        length = dice.choice([0.0, 0.02, 0.1, 0.2, 0.24, 0.3, 0.4, 0.9, 2.5]) if dice.random() < 0.9 else 4.0
        tokens = tuple(dice.randrange(100) for _ in range(dice.randrange(1, 4)))
        timings.append(Timing(text, tokens, round(time, 2), round(time + length, 2), dice.random()))
        time += length
    return timings


def theirs(timings: list[Timing]) -> list[openai_timing.WordTiming]:
    return [openai_timing.WordTiming(word, list(tokens), *rest) for word, tokens, *rest in timings]


@pytest.mark.parametrize("seed", range(40))
def test_punctuation_is_merged_as_openais(seed: int) -> None:
    dice = random.Random(seed)
    timings = random_timings(dice, dice.randrange(12))
    expected = theirs(timings)
    openai_timing.merge_punctuations(expected, Punctuation().prepended, Punctuation().appended)
    found = merge_punctuation(timings)
    kept = [(word.word, tuple(word.tokens), word.start, word.end, word.probability) for word in expected if word.word]
    assert [tuple(timing) for timing in found] == kept


def segments_of(dice: random.Random, timings: list[Timing], offset: float, eot: int) -> list[Segment]:
    """The timings' text cut into segments anywhere, with times near to or far from the words'."""
    tokens = list(itertools.chain.from_iterable(timing.tokens for timing in timings))
    cuts = sorted(dice.randrange(len(tokens) + 1) for _ in range(dice.randrange(4)))
    segments = []
    for first, end in itertools.pairwise([0, *cuts, len(tokens)]):
        start = offset + dice.random() * 5
        part = (eot + 5, *tokens[first:end], eot + 9)
        segments.append(Segment(start, start + dice.random() * 8, "", part, 0.0, 0.0, 1.0, 0.0))
    return segments


@pytest.mark.parametrize("seed", range(60))
def test_segments_get_their_words_as_openais_do(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    eot, seek = 100, dice.randrange(5000)
    offset, spoken_until = seek / 100, max(0.0, seek / 100 - dice.random() * 3)
    timings = random_timings(dice, dice.randrange(1, 15))
    segments = segments_of(dice, timings, offset, eot)
    expected = [{"seek": seek, "start": s.start, "end": s.end, "tokens": list(s.tokens)} for s in segments]
    monkeypatch.setattr(openai_timing, "find_alignment", lambda *_, **__: theirs(timings))
    openai_timing.add_word_timestamps(
        segments=expected,
        model=None,
        tokenizer=SimpleNamespace(eot=eot),
        mel=None,
        num_frames=3000,
        last_speech_timestamp=spoken_until,
    )
    found = timed_segments(segments, timings, offset, spoken_until, eot)
    for segment, other in zip(found, expected, strict=True):
        assert (segment.start, segment.end) == pytest.approx((other["start"], other["end"]), abs=1e-9)
        assert [word.text for word in segment.words] == [word["word"] for word in other["words"]]
        for word, its in zip(segment.words, other["words"], strict=True):
            assert (word.start, word.end) == pytest.approx((its["start"], its["end"]), abs=1e-9)
    assert spoken_end(found) == pytest.approx(openai_whisper.utils.get_end(expected))


def test_nothing_was_spoken() -> None:
    assert timed_segments([], [], 0.0, 0.0, 100) == []
    assert spoken_end([]) is None
    segment = Segment(1.0, 2.0, "", (101, 102), 0.0, 0.0, 1.0, 0.0)
    assert timed_segments([segment], [], 0.0, 0.0, 100) == [segment]
    assert spoken_end([segment]) == 2.0
