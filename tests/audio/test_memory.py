"""A recording of any length needs the memory of a short one."""

import subprocess
import sys
from pathlib import Path

import soundfile

ROOT = Path(__file__).resolve().parent.parent.parent

PROGRAM = """
import sys
from dataclasses import replace
import torch
from audio.fallback import Fallback
from audio.settings import OPENAI, Settings
from audio.transcribe import Transcriber
from audio.whisper import Whisper, WhisperConfig

torch.set_num_threads(1)
torch.manual_seed(0)
small = {"audio_dim": 16, "audio_heads": 1, "audio_layers": 1, "text_dim": 16, "text_heads": 1, "text_layers": 1}
model = Whisper(WhisperConfig(vocab=51_864, text_context=16, **small))
once = Fallback(temperatures=(0.0,))  # of random weights no text is good
settings = replace({"speech": Settings(), "openai": OPENAI}[sys.argv[1]], fallback=once)

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

for path in sys.argv[2:]:
    found = Transcriber(model, settings=settings)(path)
    print(found.duration, len(found.segments), peak())
"""


def test_an_hour_needs_no_more_than_minutes(assets: Path, tmp_path: Path) -> None:
    speech, rate = soundfile.read(assets / "speech" / "jfk.flac")
    for name, times in (("short", 30), ("long", 300)):
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", rate // 4, 1) as file:
            for _ in range(times):
                file.write(speech[::4, 0])
    for settings in ("speech", "openai"):
        command = [sys.executable, "-c", PROGRAM, settings, str(tmp_path / "short.flac"), str(tmp_path / "long.flac")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        (short, _, before), (long, _, after) = (map(float, line.split()) for line in done.stdout.splitlines())
        assert long == 10 * short == 3300
        assert after < before + 60, settings  # MiB: the samples alone are 200
