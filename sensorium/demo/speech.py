"""The first job: transcribe five spoken sentences with a real Whisper, and compare with what was read."""

import time
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from audio.transcribe import Transcript

__all__ = ["Clip", "Listening", "listen", "marked", "word_error_rate"]

CLIPS = Path("assets/librivox")


@dataclass(frozen=True)
class Clip:
    """One recording: what was read, and what was heard."""

    path: Path
    reference: str
    transcript: "Transcript"
    seconds: float  # that the transcription took


@dataclass(frozen=True)
class Listening:
    """All clips, with the time that it took to load the model."""

    clips: list[Clip]
    loading: float


def listen(root: Path, model: str = "tiny.en") -> Listening:
    """Transcribe the embedded clips of the checkout `root` with a Whisper known by name or path."""
    import sensorium

    started = time.perf_counter()
    transcribe = sensorium.load(model, language="en")
    loading = time.perf_counter() - started
    clips = []
    for line in (root / CLIPS / "transcripts.tsv").read_text().splitlines():
        name, reference = line.split("\t")
        started = time.perf_counter()
        transcript = transcribe(root / CLIPS / name)
        clips.append(Clip(root / CLIPS / name, reference, transcript, time.perf_counter() - started))
        print(f"{name}: {transcript.text}", flush=True)
    return Listening(clips, loading)


def words(text: str) -> list[str]:
    """The words as they are compared: Whisper's English normalisation of case, punctuation and numbers."""
    from audio.wer import normalizer

    return normalizer("en")(text).split()


def word_error_rate(clips: list[Clip]) -> float:
    """Wrong, missing and added words over all clips as a share of the words that were read (0..1)."""
    from audio import wer

    return wer.word_error_rate([clip.reference for clip in clips], [clip.transcript.text for clip in clips])


def marked(clip: Clip) -> str:
    """What was heard as HTML: words that were not read are marked, words that are missing are struck out."""
    read, heard = words(clip.reference), words(clip.transcript.text)
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, read, heard, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(escape(" ".join(heard[c:d])))
            continue
        if b > a:
            parts.append(f"<del>{escape(' '.join(read[a:b]))}</del>")
        if d > c:
            parts.append(f"<ins>{escape(' '.join(heard[c:d]))}</ins>")
    return " ".join(parts)


def wave_and_mel(path: Path) -> tuple[np.ndarray, int, np.ndarray]:
    """A clip's wave (samples,), its sampling rate, and its log-mel spectrogram (mels, frames)."""
    from audio.mel import SAMPLE_RATE, LogMel
    from core.data.audio import read_audio

    wave = read_audio(path, SAMPLE_RATE)
    return wave.numpy(), SAMPLE_RATE, LogMel(80)(wave).numpy()
