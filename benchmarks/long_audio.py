"""An hour of speech through the command line: seconds, and the most memory that it took.

    python -m benchmarks.long_audio CLIPS [--minutes 60] [--model tiny.en]

CLIPS is a folder of wav files, looped until the recording is long enough. The result must hold text to its end.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import soundfile

from core.data.audio import read_audio

LIMIT = 1.5 * 1024  # MiB


def main() -> None:
    """Write the recording, transcribe it in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", default="tiny.en")
    given = parser.parse_args()
    clips = [read_audio(path).numpy() for path in sorted(given.clips.glob("*.wav"))]
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder) / "long.flac", Path(folder) / "long.json"
        seconds = 0.0
        with soundfile.SoundFile(path, "w", 16_000, 1) as file:
            for clip in cycle(clips):
                file.write(clip)
                seconds += len(clip) / 16_000
                if seconds >= 60 * given.minutes:
                    break
        start = time.perf_counter()
        command = [sys.executable, "-m", "sensorium", "transcribe", str(path), "-m", given.model, "-o", str(result)]
        subprocess.run(command, check=True)
        took = time.perf_counter() - start
        said = json.loads(result.read_text(encoding="utf-8"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    last = said["segments"][-1]["end"]
    print(f"{seconds:.0f} s of audio in {took:.0f} s: {seconds / took:.1f} times as fast; at most {peak:.0f} MiB")
    if last < seconds - 30 or peak > LIMIT:
        sys.exit(f"text to {last:.0f} s, {peak:.0f} MiB: expected text to the end, and {LIMIT:.0f} MiB at most")


if __name__ == "__main__":
    main()
