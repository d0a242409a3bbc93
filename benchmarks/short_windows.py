"""What it takes to hear short recordings in less than a window of 30 s, and how many words it gets wrong.

    python -m benchmarks.short_windows [--threads 2] [--precision auto]

Whisper tiny.en over LJSpeech (``$SENSORIUM_ASSETS``, see the tests) and the LibriVox sentences in ``assets/``. Windows
are encoded whole; with little of the silence after them (`audio.silence`); or cut, to the recording and a margin, a
least length, and a step, all in seconds. The seconds of the table are those from files to text.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import sensorium
from audio.mel import frame_at
from audio.settings import Settings
from audio.silence import Silence
from audio.transcribe import Transcriber
from audio.wer import word_errors
from audio.whisper import Whisper
from benchmarks.speech import Clip, clips

LIBRIVOX = Path(__file__).parents[1] / "assets" / "librivox"


@dataclass(frozen=True)
class Cut(Silence):
    """Windows without what lies beyond a margin: of one length in a batch."""

    least: float = 0.0
    step: float = 5.0

    def encode(self, model: Whisper, mel: Tensor, frames: Sequence[int]) -> Tensor:
        """Encode windows (B, mels, T) -> (B, at most T / 2, audio_dim)."""
        step = frame_at(self.step)
        longest = max(frames) + frame_at(self.margin)
        return model.encode(mel[..., : max(-(-longest // step) * step, frame_at(self.least))])


RULES = {
    "whole": Silence(one_of=1),
    "1 s, then one of 4": Silence(one_of=4),
    "1 s, then one of 8 (default)": Silence(),
    "1 s, then one of 16": Silence(one_of=16),
    **{
        f"cut, margin {margin} s, {f'at least {least} s, ' if least else ''}steps of 5 s": Cut(margin, least=least)
        for margin, least in ((1, 0), (2, 0), (5, 0), (1, 10), (2, 10), (1, 15), (2, 15))
    },
}


def librivox() -> list[Clip]:
    """The sentences in the repository."""
    rows = [line.split("\t") for line in (LIBRIVOX / "transcripts.tsv").read_text(encoding="utf-8").splitlines()]
    return [Clip(LIBRIVOX / name, said) for name, said in rows]


def wrong(transcriber: Transcriber, recordings: Sequence[Clip]) -> int:
    """Words that differ, are missing or were added."""
    heard = [job.transcript.text for job in transcriber.each(clip.path for clip in recordings)]
    return word_errors([clip.said for clip in recordings], heard).wrong


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = sensorium.load("tiny.en", precision=given.precision).model
    sets = {"LJSpeech": clips(), "LibriVox": librivox()}
    words = {name: word_errors([clip.said for clip in some], [""] * len(some)).total for name, some in sets.items()}
    print("| windows | " + " | ".join(f"{name}, of {words[name]} words" for name in sets) + " | seconds |")
    print("|---|" + "---:|" * (len(sets) + 1))
    for rule, silence in RULES.items():
        transcriber = Transcriber(model, settings=replace(Settings(), silence=silence, batch=1))
        start = time.perf_counter()
        counts = [str(wrong(transcriber, some)) for some in sets.values()]
        print(f"| {rule} | {' | '.join(counts)} | {time.perf_counter() - start:.1f} |", flush=True)


if __name__ == "__main__":
    main()
