"""Speech that is followed: what is heard in the end is what a file gives, it comes in time, and in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audio.stream import Live, LiveStream, Update, listen
from audio.transcribe import Settings, Transcriber
from audio.wer import word_error_rate
from core.data.audio import read_audio
from core.errors import InputError

RATE = 16_000


@pytest.fixture(scope="module")
def transcriber(tiny_en: tuple) -> Transcriber:
    return Transcriber(tiny_en[0])


class Speaker:
    """Somebody who doesn't wait, by a clock that only looks set forward: blocks are what was said since the last."""

    def __init__(self, audio: Tensor, step: float, busy: float) -> None:
        self.audio, self.step, self.busy = audio, step, busy
        self.clock = 0.0
        self.delays: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        given = 0
        while given < len(self.audio):
            self.clock = max(self.clock, given / RATE + self.step)
            end = min(int(self.clock * RATE), len(self.audio))
            yield self.audio[given:end]
            given = end

    def took(self, update: Update) -> None:
        self.clock += self.busy
        self.delays += [self.clock - word.end for word in update.settled]


def heard(updates: list[Update]) -> str:
    return "".join(update.text for update in updates).strip()


@pytest.mark.parametrize("busy", [pytest.param(0.5, marks=pytest.mark.thorough), 2.5])
def test_what_is_settled_in_time_is_what_was_said(busy: float, transcriber: Transcriber, assets: Path) -> None:
    audio = read_audio(assets / "speech" / "jfk.flac")
    speaker, updates = Speaker(audio, 2.0, busy), []
    for update in listen(transcriber, speaker, Live(step=2.0, wait=4.0)):
        speaker.took(update)
        updates.append(update)
    said = (assets / "speech" / "jfk.txt").read_text()
    assert word_error_rate([said], [heard(updates)]) <= 0.1
    words = [word for update in updates for word in update.settled]
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert len(speaker.delays) == len(words) >= 20
    # it waits no longer than asked, a step and two looks, one of which was on its way when the word became overdue
    assert max(speaker.delays) <= 4.0 + 2.0 + 2 * busy
    assert np.median(speaker.delays) <= 3.0 + 2 * busy


def test_a_long_talk_is_heard_in_bounded_memory(transcriber: Transcriber, assets: Path) -> None:
    """Two clips one after the other: as well as from files, whatever the size of the blocks."""
    clips = sorted((assets / "speech" / "ljspeech").glob("*.wav"))[:2]
    audio = torch.cat([read_audio(clip) for clip in clips])
    offline = " ".join(transcriber(clip).text for clip in clips)
    stream, updates, held = LiveStream(transcriber, Live(step=3.0, keep=8.0)), [], 0
    for block in audio.split(7_001):
        updates += stream.hear(block)
        held = max(held, len(stream.held))
    updates.append(stream.finish())
    assert word_error_rate([offline], [heard(updates)]) <= 0.12
    assert held <= 30 * RATE
    assert stream.begin > 0
    assert len(stream.forgotten) > 50


def test_silence_and_noise_are_nothing(transcriber: Transcriber, assets: Path) -> None:
    for audio in [torch.zeros(8 * RATE), 0.01 * torch.randn(8 * RATE)]:
        updates = list(listen(transcriber, audio.split(RATE)))
        assert heard(updates) == ""
        assert updates[-1].position == 8.0
    stream = LiveStream(transcriber)
    list(stream.hear(torch.zeros(60 * RATE)))
    assert len(stream.held) <= 2 * RATE
    assert list(listen(transcriber, [])) == [Update((), (), 0.0, pytest.approx(0, abs=1))]


def test_nothing_bounds_a_stream_without_words_but_the_window(random_models) -> None:
    stream = LiveStream(Transcriber(random_models(51_865, 0)[0], settings=Settings("en")), Live(step=5.0, pause=None))
    for block in torch.randn(45, RATE):
        for update in stream.hear(block):
            assert update.position * RATE == stream.begin + len(stream.held)
        assert len(stream.held) <= 30 * RATE
    stream.finish()


def test_what_cannot_be_heard(transcriber: Transcriber) -> None:
    stream = LiveStream(transcriber)
    for wrong in [torch.zeros(2, 8), torch.zeros(8, dtype=torch.int16), torch.full((8,), torch.nan)]:
        with pytest.raises(InputError, match="waveform"):
            list(stream.hear(wrong))
    for wrong in [{"step": 0}, {"step": 9}, {"wait": 0.5}, {"keep": 29}, {"pause": 0}]:
        with pytest.raises(InputError, match="expected"):
            Live(**wrong)
