"""``sensorium export`` of a trained Whisper: a bundle, and the names that others read; and what opens it again."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration

import sensorium
from audio.tasks.trained import load_trained_whisper
from core.errors import InputError
from sensorium.cli import main
from sensorium.whispers import is_whisper, open_whisper

CONFIG = Path(__file__).parents[2] / "configs" / "audio" / "whisper_fsdd.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps of the recipe."""
    folder = tmp_path_factory.mktemp("trained")
    for number in range(12):
        wave = np.random.default_rng(number).normal(0, 0.1, 4000)
        soundfile.write(folder / f"{number % 4}_noise_{number}.wav", wave, 8000)
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0"]
    quick += ["--data.batch_size=4", "--data.workers=0", "--test_after_fit=false", "--trainer.accelerator=cpu"]
    main(["fit", "-c", str(CONFIG), "--data.root", str(folder), *quick, "--runs", str(folder)])
    return next(folder.rglob("last.ckpt"))


@pytest.mark.parametrize("layout", ["bundle", "huggingface", "openai", "ctranslate2"])
def test_leaves_and_comes_back(trained: Path, layout: str, tmp_path: Path) -> None:
    name = {"bundle": "", "ctranslate2": "model.bin"}.get(layout, "model.safetensors")
    out = tmp_path / "out" / name
    assert main(["export", str(trained), "-o", str(out), "-f", layout]) == 0
    expected = load_trained_whisper(trained)[0]
    found = open_whisper(out)[0]
    assert found.config == expected.config
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], tensor, rtol=0, atol=0)
    assert is_whisper(out)


def test_transformers_opens_it(trained: Path, tmp_path: Path) -> None:
    assert main(["export", str(trained), "-f", "huggingface", "-o", str(tmp_path / "hf" / "model.safetensors")]) == 0
    peer = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    ours = load_trained_whisper(trained)[0]
    mel, tokens = torch.randn(1, 80, 150), torch.tensor([[50257, 50363, 500]])
    with torch.no_grad():
        theirs = peer(input_features=mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(ours(mel, tokens), theirs, rtol=1e-4, atol=1e-4)


def test_a_name_will_do(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audio.checkpoints.find_whisper", {"tiny.en": trained}.__getitem__)
    assert main(["export", "tiny.en", "-f", "openai", "-o", str(tmp_path / "x.safetensors")]) == 0
    assert is_whisper(tmp_path / "x.safetensors")


@pytest.mark.parametrize("layout", ["openai", "ctranslate2"])
def test_a_folder_is_opened_again(trained: Path, layout: str, tmp_path: Path) -> None:
    assert main(["export", str(trained), "-f", layout, "-o", f"{tmp_path}/my/"]) == 0
    found, expected = open_whisper(tmp_path / "my")[0], load_trained_whisper(trained)[0]
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], tensor, rtol=0, atol=0)


def test_half_precision(trained: Path, tmp_path: Path) -> None:
    assert main(["export", str(trained), "-o", str(tmp_path / "half"), "--precision", "float16"]) == 0
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 15_000_000


def test_other_names_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained), "-f", "timm", "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "a Whisper can't be written as timm" in capsys.readouterr().err


def test_load_opens_a_checkpoint(trained: Path) -> None:
    assert type(sensorium.load(str(trained), precision="float32")).__name__ == "Transcriber"


def test_keywords_are_no_whisper(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_whisper(tmp_path / "none.ckpt")
