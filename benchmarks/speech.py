"""Real speech from files to text with Whisper tiny.en, beam 1: against openai-whisper and faster-whisper.

    python -m benchmarks.speech [--repeats 7] [--threads 2]

All get the weights of the package that carries tiny.en, and find the files in ``$SENSORIUM_ASSETS`` (see the tests).
The output that is compared is the share of words that were heard right: nobody may hear half a percent less than
faster-whisper in int8 does. To hear more is no fault.
"""

import csv
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sensorium
from audio.checkpoints import find_whisper
from audio.mel import SAMPLE_RATE
from audio.weights import load_whisper
from audio.wer import word_error_rate
from benchmarks.apart import Apart
from benchmarks.harness import Case, Contender, main, options
from benchmarks.whisper import openai_whisper
from core.data.audio import read_audio

FOLDER = Path(os.environ.get("SENSORIUM_ASSETS", Path(__file__).parents[2] / "shared" / "assets")) / "speech"
LONG = 600  # seconds of the long recording: the clips over and over
HALF = 0.005  # by which the share of right words may be lower


class Clip(NamedTuple):
    """A recording, and what is said in it."""

    path: Path
    said: str


@cache
def clips() -> list[Clip]:
    """The clips of LJSpeech."""
    with (FOLDER / "ljspeech" / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [Clip(FOLDER / "ljspeech" / f"{Path(row[0]).stem}.wav", row[-1]) for row in rows]
    return [clip for clip in found if clip.path.exists()]


@cache
def long_recording() -> tuple[Tensor, str]:
    """Ten minutes at 16 kHz, and what is said in them."""
    waves: list[Tensor] = []
    said: list[str] = []
    samples = 0
    sources = [(read_audio(clip.path, SAMPLE_RATE), clip.said) for clip in clips()]
    while samples < LONG * SAMPLE_RATE:
        wave, text = sources[len(waves) % len(sources)]
        waves.append(wave)
        said.append(text)
        samples += len(wave)
    return torch.cat(waves), " ".join(said)


def faster_whisper(kind: str) -> Any:
    """faster-whisper in float32 or int8."""
    from faster_whisper import WhisperModel

    return WhisperModel(
        str(find_whisper("tiny.en")), device="cpu", compute_type=kind, cpu_threads=torch.get_num_threads()
    )


def faster_clips(kind: str) -> Callable[[], list[float]]:
    """Each clip alone by faster-whisper, for a process apart."""
    model = faster_whisper(kind)

    def hear(path: str) -> str:
        segments, _ = model.transcribe(path, beam_size=1, language="en")
        return "".join(segment.text for segment in segments)

    return each(hear)


def faster_long(kind: str) -> Callable[[], list[float]]:
    """The long recording by faster-whisper, for a process apart."""
    from faster_whisper import BatchedInferencePipeline

    pipeline = BatchedInferencePipeline(faster_whisper(kind))
    wave, said = long_recording()

    def run() -> list[float]:
        segments, _ = pipeline.transcribe(wave.numpy(), beam_size=1, language="en", batch_size=8)
        return right([said], ["".join(segment.text for segment in segments)])

    return run


def right(said: Sequence[str], heard: Sequence[str]) -> list[float]:
    """The share of words that were heard right."""
    return [1 - word_error_rate(list(said), list(heard))]


def missed(heard: Sequence[float], reference: Sequence[float]) -> float:
    """By how much the share of words that were heard right is below the reference's."""
    return max(0.0, *(theirs - ours for ours, theirs in zip(heard, reference, strict=True)))


def each(hear: Callable[[str], str]) -> Callable[[], list[float]]:
    """What hears all clips, one after the other."""
    return lambda: right([clip.said for clip in clips()], [hear(str(clip.path)) for clip in clips()])


def sixteen_clips() -> Case:
    """Each clip alone, one after the other."""
    ours = sensorium.load("tiny.en")
    theirs = openai_whisper(load_whisper(find_whisper("tiny.en"))[0])

    return Case(
        f"Whisper tiny.en, {len(clips())} clips",
        [
            Contender("sensorium", each(lambda path: str(ours(path).text))),
            Contender(
                "openai-whisper fp32",
                each(lambda path: str(theirs.transcribe(read_audio(path, SAMPLE_RATE).numpy(), fp16=False)["text"])),
                tolerance=0.02,  # it writes without voice activity
            ),
            Contender(
                "faster-whisper fp32", Apart(partial(faster_clips, "float32")), tolerance=0.02
            ),  # against its own int8
            Contender("faster-whisper int8", Apart(partial(faster_clips, "int8"))),
        ],
        unit="ms/clip",
        items=len(clips()),
        tolerance=HALF,
        reference=3,
        compare=missed,
    )


def ten_minutes() -> Case:
    """A long recording, eight windows at once."""
    wave, said = long_recording()
    ours = sensorium.load("tiny.en")

    return Case(
        "Whisper tiny.en, 10 minutes, batch 8",
        [
            Contender("sensorium", lambda: right([said], [ours(wave).text])),
            Contender("faster-whisper batched fp32", Apart(partial(faster_long, "float32")), tolerance=0.02),
            Contender("faster-whisper batched int8", Apart(partial(faster_long, "int8"))),
        ],
        unit="s of audio/s",
        items=round(len(wave) / SAMPLE_RATE),
        tolerance=HALF,
        reference=2,
        compare=missed,
    )


if __name__ == "__main__":
    if not FOLDER.is_dir():
        raise SystemExit(f"error: no recordings at {FOLDER}: set SENSORIUM_ASSETS to the folder that holds speech/")
    main("speech", [sixteen_clips, ten_minutes], options(__doc__))
