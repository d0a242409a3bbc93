"""All configurations of audio, made small, run two steps and can be used."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from audio.tasks.trained import load_trained_whisper
from audio.whisper import Whisper, WhisperConfig
from core.train.cli import main
from core.weights import Bundle, save_bundle

CONFIGS = Path(__file__).parents[2] / "configs" / "audio"
DIGITS = ["zero", "one", "two", "three"]
SMALL = {
    "audio_dim": 16, "audio_heads": 2, "audio_layers": 1, "text_dim": 16, "text_heads": 2, "text_layers": 2,
    "text_context": 24,  # models that know nothing write as much as they can
}  # fmt: skip
LARGE_V3 = {"mels": 128, "vocab": 51866, "audio_context": 50, **SMALL}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 recordings of noise, named as those of the Free Spoken Digit Dataset are; a manifest and a parquet of them."""
    folder = tmp_path_factory.mktemp("digits")
    random = np.random.default_rng(0)
    lines = []
    for number in range(16):
        name = f"{number % 4}_noise_{number // 2}.wav"
        soundfile.write(folder / name, random.normal(0, 0.1, 4000), 8000)
        lines.append(f"{name},{DIGITS[number % 4]},{'test' if number < 4 else 'train'}")
    (folder / "train.csv").write_text("\n".join(["path,text,split", *lines]))
    content = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.glob("*.wav"))]
    for split in ("train", "test"):
        pq.write_table(pa.table({"audio": content, "text": DIGITS * 4}), folder / f"{split}-0.parquet")
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_recipe(name: str, digits: Path, tmp_path: Path) -> None:
    quick = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    quick += ["--trainer.accumulate_grad_batches=1", "--trainer.val_check_interval=null"]
    quick += ["--trainer.check_val_every_n_epoch=1", "--trainer.max_epochs=1", "--trainer.enable_model_summary=false"]
    quick += ["--data.batch_size=4", "--data.workers=0", "--data.hold_out=0.25", "--data.ear.seconds=1.0"]
    where = "--model.model.init_args.config."
    shape = dict(SMALL)
    released = {"finetune_small": {"vocab": 51865}, "lora_tiny_en_fsdd": {"vocab": 51864}}.get(name, LARGE_V3)
    released = {**LARGE_V3, "mels": 80, **released} if name not in ("lora_large_v3", "distil_large_v3") else LARGE_V3
    if name == "keyword_fsdd":
        where += "encoder."
        shape = {key: value for key, value in SMALL.items() if key.startswith("audio")}
    else:
        shape["audio_context"] = 50
        quick.append(f"--data.context={SMALL['text_context']}")
    if name == "distil_large_v3":
        released = {**released, "text_layers": 3}
        teacher = {**SMALL, "audio_context": 50, "text_layers": 3}
        quick += [f"--model.teacher.model.init_args.config.{key}={value}" for key, value in teacher.items()]
        quick.append(f"--model.teacher.initial.init_args.source={tmp_path / 'start'}")
    if name not in ("keyword_fsdd", "whisper_fsdd"):
        save_bundle(tmp_path / "start", Whisper(WhisperConfig(**released)), Bundle("audio.Whisper", released))
        quick.append(f"--model.initial.init_args.source={tmp_path / 'start'}")
    changes = [f"{where}{key}={value}" for key, value in shape.items()]
    main(
        [
            "fit",
            "-c",
            str(CONFIGS / f"{name}.yaml"),
            "--data.root",
            str(digits),
            *quick,
            *changes,
            "--runs",
            str(tmp_path),
        ]
    )
    trained = next((tmp_path / name).rglob("last.ckpt"))
    table = next((tmp_path / name).rglob("metrics.csv")).read_text()
    if name == "keyword_fsdd":
        assert "test/accuracy" in table
        return
    assert "/wer" in table
    model = load_trained_whisper(trained)[0]
    with torch.no_grad():
        logits = model(torch.zeros(1, model.config.mels, 100), torch.tensor([[50257, 50361]]))
    assert torch.isfinite(logits).all()
