"""Reading and writing of files; damaged and hostile ones."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import save_file

from core.errors import InputError
from core.weights import read, weight_files, write_safetensors

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.ones(3, dtype=torch.bfloat16)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors", {"format": "pt", "note": "x"})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        found = read(path)
        assert found.format == "safetensors"
        assert found.meta["note"] == "x"
        assert same(found.tensors, STATE)


def test_written_files_are_read_by_others(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    file = tmp_path / "new" / "x.safetensors"
    write_safetensors(file, {"a": shared, "b": shared, "c": shared.reshape(2, 3).T}, {"by": "us"})
    found = load_numpy(file)
    np.testing.assert_array_equal(found["a"], np.arange(6))
    np.testing.assert_array_equal(found["b"], np.arange(6))
    np.testing.assert_array_equal(found["c"], np.arange(6).reshape(2, 3).T)
    assert read(file).meta["by"] == "us"
    assert [path.name for path in file.parent.iterdir()] == ["x.safetensors"]
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.safetensors"
    write_safetensors(file, {"a": torch.zeros(2)})

    def fail(tensors: object, path: Path, meta: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("core.weights.formats.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(file, {"a": torch.ones(2)})
    assert torch.equal(read(file).tensors["a"], torch.zeros(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_shards(tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, key in zip(names, STATE, strict=True):
        save_file({key: STATE[key]}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    places = dict(zip(STATE, names, strict=True))
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same(read(tmp_path).tensors, STATE)
    (tmp_path / "elsewhere").mkdir()
    for damage, word in [
        (dict.fromkeys(STATE, names[0]), "disagree on 1 tensors, such as a.bias"),
        ({**places, "a.weight": "../" + names[0]}, "must lie beside it"),
        ({**places, "a.weight": "/etc/passwd"}, "must lie beside it"),
        ({**places, "a.weight": "model-00003-of-00002.safetensors"}, "model-00003"),
        ({}, "no weight_map"),
    ]:
        index.write_text(json.dumps({"weight_map": damage}))
        refused(tmp_path, word)
    index.write_text("{")
    refused(tmp_path, "not valid JSON")


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "x.pt"
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    assert same(read(file).tensors, STATE)
    dims = {"n_mels": 80, "n_vocab": 51864}
    torch.save({"dims": dims, "model_state_dict": STATE}, file, _use_new_zipfile_serialization=zipped)
    found = read(tmp_path)
    assert found.format == "torch"
    assert found.meta == {"dims": dims}
    assert same(found.tensors, STATE)


def test_several_sets_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"student": STATE, "teacher": {"b": torch.ones(1)}, "epoch": 3}, file)
    refused(file, "student, teacher")
    assert read(file, key="teacher").tensors.keys() == {"b"}
    torch.save({"epoch": 3}, file)
    refused(file, "holds no weights")
    torch.save([1, 2], file)
    refused(file, "holds no weights")


def test_torch_shards(tmp_path: Path) -> None:
    torch.save({"a.weight": STATE["a.weight"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"a.bias": STATE["a.bias"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    places = {name: f"pytorch_model-0000{i}-of-00002.bin" for i, name in enumerate(STATE, 1)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(read(tmp_path).tensors, STATE)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch old"])
def test_pickles_that_are_not_weights_never_run(tmp_path: Path, kind: str) -> None:
    file, mark = tmp_path / "x.pt", tmp_path / "mark"
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"a": Evil(mark)}))
    else:
        torch.save({"a": Evil(mark), **STATE}, file, _use_new_zipfile_serialization=kind == "torch")
    refused(file, "x.pt")
    assert not mark.exists()
    if kind == "torch":
        refused(file, "is refused", "mkdir")


def test_an_archive_that_would_grow(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry) + bytes(10**6) * entry.filename.endswith("data/0"))
    refused(tmp_path / "b.pt", "compressed archive")


def test_damaged_files(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_file(STATE, good)
    raw = good.read_bytes()
    for name, data in {
        "cut.safetensors": raw[:-5],
        "head.safetensors": raw[:20],
        "huge.safetensors": struct.pack("<Q", 2**60) + raw[8:],
        "text.safetensors": b"this is text, not weights at all",
        "empty.safetensors": b"",
        "renamed.bin": raw[:-5],
        "text.pt": b"this is text, not weights at all",
    }.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, name)
    torch.save(STATE, tmp_path / "a.pt")
    raw = (tmp_path / "a.pt").read_bytes()
    for size in (4, 100, len(raw) // 2, len(raw) - 3):
        (tmp_path / "a.pt").write_bytes(raw[:size])
        refused(tmp_path / "a.pt", "a.pt")
    refused(tmp_path / "missing.pt", "No such file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no weights")


def test_the_format_is_seen_not_guessed(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "pytorch_model.bin")
    assert read(tmp_path).format == "safetensors"


def test_which_files_hold_the_weights() -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "model.safetensors.index.json"
    noise = ["config.json", "modeling.py", "onnx/model.onnx", "flax_model.msgpack", "training_args.bin"]
    assert weight_files([*noise, "model.safetensors", "pytorch_model.bin"]) == ["model.safetensors"]
    assert weight_files([*noise, index, *shards, "pytorch_model.bin"]) == [index, *shards]
    other = ["model.fp32-00001-of-00002.safetensors", "model.safetensors.index.fp32.json"]  # whisper-large-v3
    assert weight_files([*noise, *other, "model.safetensors"]) == ["model.safetensors"]
    assert weight_files(["config.json", "model.bin", "vocabulary.txt"]) == ["model.bin"]
    assert weight_files(["dinov2_vits14.pth"]) == ["dinov2_vits14.pth"]
    assert weight_files(["config.json", "sub/model.safetensors"]) == []
    with pytest.raises(InputError, match=r"which of a\.pt, b\.pt"):
        weight_files(["a.pt", "b.pt"])


def test_reading_is_lazy(tmp_path: Path) -> None:
    """Opening 256 MB of weights takes next to no memory."""
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {f"{i}.weight": torch.zeros(1024, 4096) for i in range(16)})
    code = f"""
import resource
from core.weights import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = read({str(file)!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 40
