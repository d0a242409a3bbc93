"""Whatever is handed in wrong is told in one line with exit code 2, without a traceback, and leaves nothing behind."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sensorium.cli import main

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "assets" / "librivox" / "sense_and_sensibility_01_0880.flac"
CONFIG = ROOT / "configs" / "vision" / "classify_vit_fashion_mnist.yaml"
TINY_EN = {
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "d_model": 384,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "vocab_size": 51864,
    "max_source_positions": 1500,
    "max_target_positions": 448,
}


class Exploit:
    """Writes a file when it is unpickled by a loader that trusts it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def no_file(folder: Path) -> list[str]:
    return ["transcribe", "nothing.wav"]


def a_folder(folder: Path) -> list[str]:
    (folder / "recordings").mkdir()
    return ["transcribe", "recordings"]


def empty_file(folder: Path) -> list[str]:
    (folder / "empty.wav").touch()
    return ["transcribe", "empty.wav"]


def text_named_wav(folder: Path) -> list[str]:
    (folder / "notes.wav").write_text("Dear diary, today I heard nothing.\n" * 20)
    return ["transcribe", "notes.wav"]


def truncated_flac(folder: Path) -> list[str]:
    (folder / "cut.flac").write_bytes(CLIP.read_bytes()[:20_000])
    return ["transcribe", "cut.flac"]


def truncated_wav_header(folder: Path) -> list[str]:
    soundfile.write(folder / "whole.wav", np.zeros(16_000, np.float32), 16_000)
    (folder / "cut.wav").write_bytes((folder / "whole.wav").read_bytes()[:30])
    return ["transcribe", "cut.wav"]


def unknown_model(folder: Path) -> list[str]:
    return ["transcribe", str(CLIP), "--model", "tiny.em"]


def model_path_missing(folder: Path) -> list[str]:
    return ["transcribe", str(CLIP), "--model", "./nowhere"]


def unknown_language(folder: Path) -> list[str]:
    return ["transcribe", str(CLIP), "--language", "klingon"]


def unknown_format(folder: Path) -> list[str]:
    return ["transcribe", str(CLIP), "--format", "docx"]


def empty_model_folder(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    return ["transcribe", str(CLIP), "--model", "./model"]


def corrupt_safetensors(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TINY_EN))
    (folder / "model" / "model.safetensors").write_bytes(b"\xff" * 4000)
    return ["transcribe", str(CLIP), "--model", "./model"]


def incomplete_safetensors(folder: Path) -> list[str]:
    import torch
    from safetensors.torch import save_file

    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TINY_EN))
    save_file({"model.encoder.conv1.weight": torch.zeros(384, 80, 3)}, folder / "model" / "model.safetensors")
    return ["transcribe", str(CLIP), "--model", "./model"]


def pickle_that_is_no_weights(folder: Path) -> list[str]:
    (folder / "model.pt").write_bytes(pickle.dumps({"dims": Exploit(), "model_state_dict": {}}))
    return ["transcribe", str(CLIP), "--model", "./model.pt"]


def checkpoint_that_executes(folder: Path) -> list[str]:
    import torch

    torch.save({"state_dict": Exploit(), "loops": {}}, folder / "best.ckpt")
    return ["test", "--ckpt_path", "best.ckpt"]


def checkpoint_missing(folder: Path) -> list[str]:
    return ["predict", "--ckpt_path", "nothing.ckpt"]


def checkpoint_not_given(folder: Path) -> list[str]:
    return ["validate", "-c", str(CONFIG)]


def config_missing(folder: Path) -> list[str]:
    return ["fit", "-c", "nothing.yaml"]


def unknown_config_key(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text(CONFIG.read_text() + "\nlearning_rat: 1.0\n")
    return ["fit", "-c", "config.yaml"]


def unknown_option(folder: Path) -> list[str]:
    return ["fit", "-c", str(CONFIG), "--model.optim.learning_rat", "1.0"]


def forbidden_class(folder: Path) -> list[str]:
    (folder / "config.yaml").write_text(
        "model:\n  class_path: subprocess.Popen\n  init_args: {args: [touch, executed]}\n"
    )
    return ["fit", "-c", "config.yaml"]


def data_missing(folder: Path) -> list[str]:
    return ["fit", "-c", str(CONFIG), "--data.root", "nowhere"]


def unknown_command(folder: Path) -> list[str]:
    return ["transcrib", "talk.wav"]


def unknown_family(folder: Path) -> list[str]:
    return ["models", "resnet"]


CASES = [
    no_file,
    a_folder,
    empty_file,
    text_named_wav,
    truncated_flac,
    truncated_wav_header,
    unknown_model,
    model_path_missing,
    unknown_language,
    unknown_format,
    empty_model_folder,
    corrupt_safetensors,
    incomplete_safetensors,
    pickle_that_is_no_weights,
    checkpoint_that_executes,
    checkpoint_missing,
    checkpoint_not_given,
    config_missing,
    unknown_config_key,
    unknown_option,
    forbidden_class,
    data_missing,
    unknown_command,
    unknown_family,
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, far from the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_line_and_exit_code_2(
    case: Callable[[Path], list[str]], folder: Path, capfd: pytest.CaptureFixture
) -> None:
    argv = case(folder)
    before = files(folder)
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert 20 < len(lines[0]) < 1000
    assert files(folder) == before


def test_output_is_not_touched_by_a_failure(folder: Path) -> None:
    (folder / "talk.srt").write_text("what was there before")
    assert main([*truncated_flac(folder), "--output", "talk.srt"]) == 2
    assert (folder / "talk.srt").read_text() == "what was there before"
    assert sorted(path.name for path in folder.iterdir()) == ["cut.flac", "talk.srt"]


def test_debug_shows_where(folder: Path, capfd: pytest.CaptureFixture) -> None:
    assert main(["transcribe", "--debug", "nothing.wav"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: ")


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sensorium", *text_named_wav(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
