"""Spans equal silero-vad's; windows hold every span once, are short enough, and are cut in pauses."""

from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio.mel import HOP
from audio.speech import Span, SpanFinder, SpeechWindow, VoiceActivity, WindowFinder, speech_windows
from audio.vad import FRAME
from core.data.audio import read_audio
from core.errors import InputError

SECOND = 16_000
UNPADDED = VoiceActivity(padding=0.0)


def spans(probabilities: list[float], rule: VoiceActivity = VoiceActivity(), size: int = 1_000_000) -> list[Span]:
    find = SpanFinder(rule)
    parts = [probabilities[n : n + size] for n in range(0, len(probabilities), size)]
    return [span for part in parts for span in find(part)] + list(find([], last=True))


def random_walk(seed: int, frames: int) -> list[float]:
    steps = torch.randn(frames, generator=torch.Generator().manual_seed(seed))
    return (steps.cumsum(0) * 0.7).sin().mul(0.5).add(0.5).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("times", [(0.1, 0.1), (0.25, 0.5), (0.0, 0.0)])
def test_spans_equal_sileros(seed: int, times: tuple[float, float]) -> None:
    threads = torch.get_num_threads()
    reference = import_module("silero_vad.utils_vad").get_speech_timestamps_from_probs
    torch.set_num_threads(threads)  # which the import has changed
    min_speech, min_silence = times
    likely = random_walk(seed, 800)
    theirs = reference(
        likely,
        min_speech_duration_ms=1000 * min_speech,
        min_silence_duration_ms=1000 * min_silence,
        speech_pad_ms=0,
    )
    ours = spans(likely, VoiceActivity(min_speech=min_speech, min_silence=min_silence))
    assert len(ours) > 2
    assert ours == [Span(span["start"], span["end"]) for span in theirs]
    assert spans(likely, VoiceActivity(min_speech=min_speech, min_silence=min_silence), size=7) == ours


def test_speech_without_a_pause_is_cut_where_it_is_least_likely() -> None:
    likely = [0.9] * 3_000
    likely[800:805] = [0.45] * 5
    found = spans(likely)
    assert found[0] == Span(0, 802 * FRAME)
    assert [after.start for after in found[1:]] == [before.end for before in found[:-1]]
    assert found[-1].end == 3_000 * FRAME
    assert all(span.end - span.start <= VoiceActivity().longest for span in found)


def windows_of(spans_of_speech: list[Span], seconds: int, monkeypatch: pytest.MonkeyPatch, rule: VoiceActivity):
    """The windows of a recording whose speech is where the spans are."""
    frames = torch.zeros(-(-seconds * SECOND // FRAME))
    for start, end in spans_of_speech:
        frames[start // FRAME : end // FRAME] = 1.0

    class Voice:
        done = 0

        def __call__(self, audio: Tensor, last: bool = False) -> Tensor:
            self.done += len(audio)
            end = -(-self.done // FRAME) if last else self.done // FRAME
            part, self.given = frames[getattr(self, "given", 0) : end], end
            return part

    monkeypatch.setattr("audio.speech.VoiceStream", Voice)
    audio = torch.arange(seconds * SECOND).float()
    found = list(speech_windows(audio.split(10 * SECOND), rule))
    assert same(found, list(speech_windows(audio.split(33_333), rule)))
    assert same(found, list(speech_windows([audio], rule)))
    for window in found:  # what is said to start at a sample does
        assert window.audio[0] == window.start
    return [(window.start / SECOND, (window.start + len(window.audio)) / SECOND) for window in found]


def same(a: list[SpeechWindow], b: list[SpeechWindow]) -> bool:
    return len(a) == len(b) and all(
        x.start == y.start and torch.equal(x.audio, y.audio) for x, y in zip(a, b, strict=True)
    )


def at(*times: tuple[float, float]) -> list[Span]:
    return [Span(*(round(time * SECOND / FRAME) * FRAME for time in pair)) for pair in times]


def test_windows_end_with_the_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = at((0, 10), (10.32, 17.6), (19.2, 25.6), (25.92, 34.56))
    assert windows_of(speech, 40, monkeypatch, UNPADDED) == [(0, 17.6), (19.2, 34.56)]


def test_long_pauses_part_windows_and_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = at((1.6, 3.2), (4.8, 6.4), (64, 67.2))
    assert windows_of(speech, 80, monkeypatch, VoiceActivity()) == [(1.2, 6.8), (63.6, 67.6)]


def test_padding_stays_within_pauses_and_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = at((0, 16), (16.32, 32), (32.32, 48))
    assert windows_of(speech, 48, monkeypatch, VoiceActivity()) == [(0, 16.16), (16.16, 32.16), (32.16, 48)]


def test_no_speech_no_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert windows_of([], 50, monkeypatch, VoiceActivity()) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_span_is_in_one_window(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    speech = spans(random_walk(seed, 20_000), VoiceActivity(min_silence=0.3))
    rule = VoiceActivity(min_silence=0.0, min_speech=0.0)
    found = windows_of(speech, 640, monkeypatch, rule)
    assert all(0 < end - start <= rule.max_window for start, end in found)
    assert all(before[1] <= after[0] for before, after in pairwise(found))
    covered = torch.zeros(640 * SECOND, dtype=torch.bool)
    for start, end in found:
        covered[round(start * SECOND) : round(end * SECOND)] = True
    for span in speech:
        assert covered[span.start : span.end].all()


def test_little_is_held_of_a_long_recording(assets: Path) -> None:
    speech = read_audio(assets / "speech" / "jfk.flac")
    find = WindowFinder()
    for block in [*speech.repeat(8).split(SECOND), *torch.zeros(120 * SECOND).split(SECOND)]:
        list(find(block))
        assert len(find.held) <= 45 * SECOND
    assert len(find.held) <= 2 * SECOND


def test_real_speech(assets: Path) -> None:
    clips = [read_audio(path) for path in sorted((assets / "speech" / "ljspeech").glob("*.wav"))]
    audio = torch.cat(clips)
    found = list(speech_windows(audio.split(SECOND)))
    assert 4 <= len(found) <= 6
    assert all(window.start % HOP == 0 and len(window.audio) <= 30 * SECOND for window in found)
    assert sum(len(window.audio) for window in found) > 0.95 * len(audio)


@pytest.mark.parametrize("name", ["empty", "noise_1000ms", "silence_1000ms"])
def test_nobody_speaks(name: str, assets: Path) -> None:
    assert list(speech_windows([read_audio(assets / "speech" / "nonspeech" / f"{name}.wav")])) == []


def test_single_words_are_heard(assets: Path) -> None:
    """Cut so closely that the network alone misses every eleventh of them."""
    paths = sorted((assets / "speech" / "fsdd").glob("*.wav"))[::30]
    missed = [path.name for path in paths if not list(speech_windows([read_audio(path)]))]
    assert len(paths) == 100
    assert len(missed) <= 1, missed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"min_speech": -1.0}, "0 or more"),
        ({"max_pause": 0.5}, "twice the padding"),
        ({"max_window": 40.0}, "windows of 40.0 s"),
        ({"max_window": 2.0}, "windows of 2.0 s"),
    ],
)
def test_wrong_rules(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VoiceActivity(**wrong)
