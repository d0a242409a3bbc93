"""Training of speech models through the command line: it resumes, spreads, adapts, distils, and can be used."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from audio.tasks.trained import load_trained_whisper
from audio.tokenizer import Tokenizer
from audio.transcribe import Settings, Transcriber
from audio.weights import MAKERS, load_whisper
from audio.whisper import Whisper, WhisperConfig
from audio.writing import Writing
from core.errors import InputError
from core.train.cli import main
from core.weights import Bundle, save_bundle

ROOT = Path(__file__).parents[2]
SHAPE = {
    "vocab": 51864, "mels": 80, "audio_context": 30, "audio_dim": 16, "audio_heads": 2, "audio_layers": 2,
    "text_context": 16, "text_dim": 16, "text_heads": 2, "text_layers": 2,
}  # fmt: skip
TEACHER = {**SHAPE, "text_layers": 4}
EACH = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "at-{step}", "every_n_train_steps": 3, "save_top_k": -1},
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 low and high tones of 0.1 to 0.5 s, ``low_3.wav``, and a manifest of them."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    lines = []
    for number in range(40):
        word = ("low", "high")[number % 2]
        seconds = random.uniform(0.1, 0.5)
        time = np.arange(int(seconds * 16_000)) / 16_000
        pitch = {"low": 200, "high": 2000}[word] * random.uniform(0.9, 1.1)
        soundfile.write(folder / f"{word}_{number}.wav", 0.3 * np.sin(2 * np.pi * pitch * time), 16_000)
        split = "test" if number < 8 else "val" if number < 12 else "train"
        segments = [{"start": 0, "end": round(seconds, 2), "text": word}]
        row = {"path": f"{word}_{number}.wav", "text": word, "duration": seconds, "split": split, "segments": segments}
        lines.append(json.dumps({**row, "label": word, "prompt": "tone"}))
    (folder / "tones.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def recipe(tmp_path: Path, tones: Path) -> Callable[..., Path]:
    """Writes a configuration: ``task`` and ``data`` change what is in it."""

    def write(
        name: str = "tiny",
        kind: str = "transcription.Transcription",
        task: Any = None,
        data: Any = None,
        **trainer: Any,
    ) -> Path:
        whisper = {"class_path": "audio.whisper.Whisper", "init_args": {"config": SHAPE}}
        content = {
            "runs": str(tmp_path / "runs"),
            "trainer": {
                "accelerator": "cpu", "devices": 1, "max_epochs": 2, "log_every_n_steps": 1, "callbacks": [EACH],
                "num_sanity_val_steps": 0, "enable_model_summary": False, **trainer,
            },
            "model": {
                "class_path": f"audio.tasks.{kind}",
                "init_args": {
                    "model": whisper, "initial": {"class_path": "audio.tasks.initial.Fresh"},
                    "optim": {"lr": 0.003}, **(task or {}),
                },
            },
            "data": {
                "class_path": "audio.tasks.data.SpeechData",
                "init_args": {
                    "root": str(tones), "format": {"class_path": "core.data.manifest.Manifest"}, "vocab": 51864,
                    "context": 16, "ear": {"seconds": 0.6, "silence": 0.02}, "batch_size": 8, "workers": 0,
                    "changes": [
                        {"class_path": "audio.augment.Speed"}, {"class_path": "audio.augment.Volume"},
                        {"class_path": "audio.augment.AddNoise"}, {"class_path": "audio.augment.Shift",
                        "init_args": {"seconds": 0.05}},
                    ],
                    "hide": {"class_path": "audio.augment.SpecAugment"}, **(data or {}),
                },
            },
        }  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def fit(path: Path, *options: str) -> Path:
    """Train, and return the run's folder."""
    runs = path.parent / "runs" / path.stem
    before = set(runs.glob("*"))
    main(["fit", "-c", str(path), *options])
    (folder,) = set(runs.glob("*")) - before
    return folder


def curve(folder: Path, start: int = 0) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if row["step"] >= start]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def bundle(folder: Path, shape: dict[str, int]) -> Whisper:
    """A released model, so to speak."""
    model = Whisper(WhisperConfig(**shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_bundle(folder, model, Bundle("audio.Whisper", shape))
    return model


@pytest.mark.parametrize("data", [{}, {"batch_seconds": 2.4, "batch_multiple": 2}], ids=["by number", "by length"])
def test_resumed_is_not_stopped(data: dict[str, Any], recipe: Callable[..., Path]) -> None:
    path = recipe(data=data, task={"ema": 0.9})
    whole = fit(path)
    resumed = fit(path, "--ckpt_path", str(next(whole.rglob("at-step=3.ckpt"))))
    assert curve(resumed, 3) == curve(whole, 3)
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert {"val/loss", "val/wer", "val/cer"} <= set().union(*curve(whole))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(recipe: Callable[..., Path]) -> None:
    path = recipe(data={"batch_seconds": 2.4, "batch_multiple": 2})
    one = fit(path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pair = ["fit", "-c", str(path), "--trainer.devices=2", "--trainer.strategy=ddp", "--name=two"]
    subprocess.run([sys.executable, "-m", "sensorium", *pair], env=environment, cwd=ROOT, check=True, timeout=240)
    two = path.parent / "runs" / "two" / "version_0"
    rows = curve(one), curve(two)
    assert len(rows[0]) == len(rows[1]) > 8
    for alone, shared in zip(*rows, strict=True):
        for key, value in alone.items():
            assert shared[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    expected = weights(one)
    for key, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-4, msg=key)


def test_workers_and_what_is_kept_change_nothing(recipe: Callable[..., Path]) -> None:
    path = recipe(max_epochs=1)
    assert curve(fit(path)) == curve(fit(path, "--data.workers=1", "--data.keep=0"))


def test_it_learns_and_its_transcripts_are_a_manifest(recipe: Callable[..., Path], tones: Path, tmp_path: Path) -> None:
    task = {"optim": {"lr": 0.01, "weight_decay": 0.0}}
    data = {"changes": [], "hide": None, "ear": {"seconds": 0.6}, "targets": {"timestamps": 0, "prompts": 0}}
    folder = fit(recipe(task=task, data=data, max_epochs=60, check_val_every_n_epoch=10, callbacks=[]))
    assert min(row["val/wer"] for row in curve(folder) if "val/wer" in row) == 0
    main(["test", "--ckpt_path", str(folder / "best.ckpt"), "--runs", str(tmp_path), "--name", "measured"])
    assert curve(tmp_path / "measured" / "version_0")[-1]["test/wer"] <= 0.25
    main(["predict", "--ckpt_path", str(folder / "best.ckpt"), "--runs", str(tmp_path), "--name", "written"])
    lines = (tmp_path / "written" / "version_0" / "transcripts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["path"] for row in rows] == [f"{('low', 'high')[number % 2]}_{number}.wav" for number in range(8)]
    assert sum(row["text"] == row["path"].split("_")[0] for row in rows) >= 6
    model, _ = load_trained_whisper(folder / "best.ckpt")
    assert model.config == WhisperConfig(**SHAPE)


def test_lora_of_a_released_model(recipe: Callable[..., Path], tmp_path: Path) -> None:
    start = bundle(tmp_path / "start", SHAPE)
    task = {
        "initial": {"class_path": "audio.tasks.initial.Released", "init_args": {"source": str(tmp_path / "start")}},
        "adapt": {"class_path": "core.train.adapt.LoRA", "init_args": {"rank": 2}},
    }
    folder = fit(recipe(task=task, max_epochs=1))
    trained = weights(folder)
    assert torch.equal(trained["model.decoder.tokens.weight"], start.decoder.tokens.weight)
    merged = load_trained_whisper(folder / "last.ckpt")[0].state_dict()
    assert merged.keys() == start.state_dict().keys()
    changed = {name for name, tensor in start.state_dict().items() if not torch.equal(tensor, merged[name])}
    assert "encoder.blocks.0.attn.fn.q.proj.weight" in changed
    assert "decoder.blocks.1.cross.fn.out.weight" in changed
    assert all(name.endswith("weight") and "norm" not in name for name in changed)


def test_a_frozen_encoder(recipe: Callable[..., Path], tmp_path: Path) -> None:
    start = bundle(tmp_path / "start", SHAPE)
    task = {
        "initial": {"class_path": "audio.tasks.initial.Released", "init_args": {"source": str(tmp_path / "start")}},
        "adapt": {"class_path": "core.train.adapt.Lock", "init_args": {"parts": ["encoder"]}},
    }
    found = load_trained_whisper(fit(recipe(task=task, max_epochs=1)) / "last.ckpt")[0]
    for name, tensor in start.encoder.state_dict().items():
        assert torch.equal(tensor, found.encoder.state_dict()[name]), name
    assert not torch.equal(start.decoder.tokens.weight, found.decoder.tokens.weight)


def test_more_languages_and_a_shorter_window(recipe: Callable[..., Path], tmp_path: Path) -> None:
    start = bundle(tmp_path / "start", {**SHAPE, "audio_context": 50, "vocab": 51865})
    shape = {**SHAPE, "vocab": 51866}
    task = {
        "model": {"class_path": "audio.whisper.Whisper", "init_args": {"config": shape}},
        "initial": {"class_path": "audio.tasks.initial.Released", "init_args": {"source": str(tmp_path / "start")}},
        "optim": {"lr": 1e-12},
    }
    found = load_trained_whisper(fit(recipe(task=task, data={"vocab": 51866}, max_epochs=1)) / "last.ckpt")[0]
    words, before = found.decoder.tokens.weight, start.decoder.tokens.weight
    old, new = Tokenizer.for_vocab(51865), Tokenizer.for_vocab(51866)
    for name in ("startoftranscript", "en", "de", "su", "translate", "notimestamps", "0.00", "30.00"):
        torch.testing.assert_close(words[new.special(name)], before[old.special(name)])
    torch.testing.assert_close(words[:50_000], before[:50_000])
    known = before[list(old.language_tokens.values())]
    torch.testing.assert_close(words[new.special("yue")], known.mean(0))
    assert torch.equal(found.encoder.positions.table, start.encoder.positions.table[:30])


def test_distillation(recipe: Callable[..., Path], tmp_path: Path) -> None:
    teacher = bundle(tmp_path / "teacher", TEACHER)
    released = {"source": str(tmp_path / "teacher")}
    task = {
        "teacher": {
            "model": {"class_path": "audio.whisper.Whisper", "init_args": {"config": TEACHER}},
            "initial": {"class_path": "audio.tasks.initial.Released", "init_args": released},
        },
        "initial": {"class_path": "audio.tasks.initial.Layers", "init_args": released},
        "adapt": {"class_path": "core.train.adapt.Lock", "init_args": {"parts": ["encoder"]}},
        "optim": {"lr": 1e-3},
    }
    folder = fit(recipe(kind="distillation.Distillation", task=task, max_epochs=2))
    rows = [row for row in curve(folder) if "train/divergence" in row]
    assert rows[-1]["train/divergence"] < rows[0]["train/divergence"]
    for row in rows:
        assert row["train/loss"] == pytest.approx(0.8 * row["train/label"] + row["train/divergence"], rel=1e-4)
    held = weights(folder)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(held[f"teacher.model.{name}"], tensor), name
    student = load_trained_whisper(folder / "last.ckpt")[0]
    assert torch.equal(student.encoder.conv1.weight, teacher.encoder.conv1.weight)


def test_keywords(recipe: Callable[..., Path], tmp_path: Path) -> None:
    model = {
        "class_path": "audio.classifier.AudioClassifier",
        "init_args": {"config": {"encoder": SHAPE, "classes": 2, "projection": 16}},
    }
    path = recipe(kind="keywords.Keywords", task={"model": model, "optim": {"lr": 0.01}}, max_epochs=8)
    content = yaml.safe_load(path.read_text())
    content["data"]["class_path"] = "audio.tasks.data.AudioData"
    for name in ("vocab", "context"):
        del content["data"]["init_args"][name]
    path.write_text(yaml.safe_dump(content))
    folder = fit(path)
    assert max(row["val/accuracy"] for row in curve(folder) if "val/accuracy" in row) == 1
    main(["predict", "--ckpt_path", str(folder / "best.ckpt"), "--runs", str(tmp_path), "--name", "classes"])
    lines = (tmp_path / "classes" / "version_0" / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("recording,class_id,class,probability")
    assert len(lines) == 9
    assert lines[1].startswith("low_0.wav,1,low,")


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        ({}, {"vocab": 51865}, "the data is made for vocab 51865"),
        ({}, {"ear": {"seconds": 2}}, "audio_context is 30: shorten"),
        ({}, {"ear": {"seconds": 0.6, "mels": 128}}, "128 mels"),
        ({}, {"context": 20}, "context 20"),
        ({}, {"targets": {"language": "de"}}, "English-only model"),
        (
            {"initial": {"class_path": "audio.tasks.initial.Released", "init_args": {"source": "nowhere"}}},
            {},
            "nowhere",
        ),
        ({"smoothing": 2}, {}, "smoothing"),
    ],
)
def test_what_does_not_fit_is_said(task: Any, data: Any, message: str, recipe: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=message):
        fit(recipe(task=task, data=data))


def test_a_bundle_of_what_was_trained(recipe: Callable[..., Path], tmp_path: Path) -> None:
    found = load_trained_whisper(fit(recipe(max_epochs=1)) / "last.ckpt")[0]
    shape = {**SHAPE, "alignment_heads": []}
    assert set(MAKERS) == {"audio.Whisper"}
    save_bundle(tmp_path / "bundle", found, Bundle("audio.Whisper", SHAPE))
    again = load_whisper(tmp_path / "bundle")[0]
    assert shape["vocab"] == again.config.vocab
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_model_of_a_short_window_hears_all_of_a_recording(tmp_path: Path) -> None:
    model = bundle(tmp_path / "start", SHAPE)
    frames: list[int] = []
    model.encoder.register_forward_hook(lambda encoder, given, out: frames.append(given[0].shape[-1]))
    settings = Settings(vad=None, condition_on_previous_text=False, writing=Writing(timestamps=False))
    transcript = Transcriber(model, settings=settings)(torch.randn(24_000) / 9)
    assert set(frames) == {60}
    assert len(frames) >= 3  # more where a text was decoded again
    assert transcript.duration == pytest.approx(1.5)
    assert all(0 <= segment.start < segment.end <= 2.1 for segment in transcript.segments)
