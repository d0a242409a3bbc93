"""``sensorium export``: what it writes is what others read."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm as peers
import torch
from safetensors.torch import load_file, save_file

from core.weights import Bundle, save_bundle
from core.weights.onnx import write_onnx
from sensorium import load
from sensorium.cli import main
from vision.swin import Swin, SwinConfig
from vision.vit import ViT, ViTConfig

CONFIG = ViTConfig(image=(32, 32), patch=8, dim=32, depth=2, heads=2, classes=3)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = ViT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_bundle(tmp_path / "vit", model, Bundle("vision.ViT", asdict(CONFIG), labels=("a", "b", "c")))
    return tmp_path / "vit"


def test_timm_reads_it(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["export", str(bundle), "-f", "timm", "-o", str(out)]) == 0
    assert "compared" in capsys.readouterr().out
    peer = peers.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3
    ).eval()
    peer.load_state_dict(load_file(out))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert (peer(images) - load(bundle)(images)).abs().max() < 1e-5


def test_a_folder_gets_a_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in [f"{tmp_path}/new/", f"{tmp_path}/there"]:
        assert main(["export", str(bundle), "-f", "timm", "-o", folder]) == 0
        assert [path.name for path in Path(folder).iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(bundle: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "half.safetensors"
    code = main(["export", str(bundle), "-f", "huggingface", "-o", str(out), "-p", precision])
    assert {str(t.dtype) for t in load_file(out).values()} == {f"torch.{precision}"} if code == 0 else code == 2


def test_as_it_came(tmp_path: Path) -> None:
    """From timm in half precision to a bundle and back: byte for byte."""
    peer = peers.create_model("vit_tiny_patch16_224", depth=2, num_classes=3).half()
    save_file(peer.state_dict(), tmp_path / "in.safetensors")
    assert main(["export", str(tmp_path / "in.safetensors"), "-o", str(tmp_path / "bundle")]) == 0
    assert main(["export", str(tmp_path / "bundle"), "-f", "timm", "-o", str(tmp_path / "out.safetensors")]) == 0
    a, b = load_file(tmp_path / "in.safetensors"), load_file(tmp_path / "out.safetensors")
    assert a.keys() == b.keys()
    assert all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def test_onnx_of_a_vit(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "vit.onnx"
    assert main(["export", str(bundle), "-o", str(out)]) == 0
    images = torch.randn(5, 3, 32, 32)
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        assert np.abs(found - load(bundle)(images).numpy()).max() < 1e-5


def test_onnx_of_a_swin(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = Swin(
        SwinConfig(image=(32, 32), patch=4, dim=16, depths=(2, 2), heads=(2, 4), windows=(4, 4), classes=3)
    ).eval()
    assert write_onnx(model, torch.randn(2, 3, 32, 32), tmp_path / "swin.onnx") < 1e-4


def test_what_can_not_be_written(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        ([str(bundle), "-o", str(tmp_path / "x.safetensors")], "choose with --format"),
        ([str(bundle), "-f", "timm", "-o", str(bundle)], "vit/model.safetensors is there already"),
        ([str(tmp_path / "nothing"), "-o", str(tmp_path / "y")], "nothing"),
    ]:
        assert main(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "x.safetensors").exists()
