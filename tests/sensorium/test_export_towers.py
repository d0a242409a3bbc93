"""``sensorium export`` of two towers: bundles with their tokenizers, and the names that others read."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from core.weights import Bundle, from_plain, save_bundle
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from sensorium.cli import main
from sensorium.towers import is_towers, open_towers

ROOT = Path(__file__).parents[2]
MERGES = ROOT / "assets" / "fashion_mnist_captions" / "merges.txt"
CONFIG = {
    "image": {"image": [32, 32], "patch": 8, "dim": 64, "depth": 1, "heads": 1, "classes": 0,
              "pre_norm": True, "patch_bias": False, "eps": 1e-5},
    "text": {"context": 12, "dim": 64, "depth": 1, "heads": 1, "embed": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps of the recipe."""
    runs = tmp_path_factory.mktemp("runs")
    config = ROOT / "configs" / "multimodal" / "clip_fashion_mnist.yaml"
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0"]
    small = ["--data.few=64", "--data.batch_size=32", "--trainer.callbacks=[]", "--test_after_fit=false"]
    main(["fit", "-c", str(config), *short, *small, "--trainer.accelerator=cpu", "--runs", str(runs)])
    return next(runs.rglob("last.ckpt"))


@pytest.mark.parametrize("precision", [None, "float16"])
def test_a_checkpoint_becomes_a_bundle_that_needs_nothing_else(
    trained: Path, tmp_path: Path, precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "clip"
    half = [] if precision is None else ["--precision", precision]
    assert main(["export", str(trained), "-o", str(out), *half]) == 0
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "merges.txt"}
    dtypes = {tensor.dtype for tensor in load_file(out / "model.safetensors").values()}
    assert dtypes == {torch.float16 if precision else torch.float32}
    theirs = open_towers(str(trained))
    monkeypatch.chdir(tmp_path)
    assert is_towers("clip")
    ours = open_towers("clip")
    ids = ours.tokenizer(["a photo of a bag", "an ankle boot"])
    assert torch.equal(ids, theirs.tokenizer(["a photo of a bag", "an ankle boot"]))
    assert ours.prepare == theirs.prepare
    assert ours.prepare.size == (28, 28)
    assert ours.prepare.mean == (0.286,)
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        gaps = [
            (a - b).abs().max() for a, b in zip(ours.model(images, ids)[:2], theirs.model(images, ids)[:2], strict=True)
        ]
    assert max(gaps) < (2e-3 if precision else 1e-7)


def test_open_clip_reads_what_is_written_in_its_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TwoTowers(from_plain(TwoTowersConfig, CONFIG))
    save_bundle(tmp_path / "model", model, Bundle("multimodal.TwoTowers", CONFIG))
    out = tmp_path / "out.safetensors"
    assert main(["export", str(tmp_path / "model"), "-f", "open_clip", "-o", str(out)]) == 0
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "head_width": 64}
    text = {"context_length": 12, "width": 64, "layers": 1, "heads": 1}
    peer = open_clip.CLIP(16, vision, text).eval()
    found = load_file(out)
    lacking = peer.load_state_dict(found, strict=False)
    assert not lacking.unexpected_keys
    assert set(lacking.missing_keys) <= {"attn_mask"}
    images, ids = torch.randn(2, 3, 32, 32), open_towers(str(tmp_path / "model")).tokenizer(["a cat", "two dogs"])
    with torch.no_grad():
        for ours, theirs in zip(model(images, ids)[:2], peer(images, ids)[:2], strict=True):
            assert (ours - theirs).abs().max() < 1e-5


def test_what_has_no_such_names_is_refused(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(trained), "-f", "timm", "-o", str(tmp_path / "a.safetensors")]) == 2
    assert "choose one of bundle, huggingface" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
