"""TorchScript archives are read without running them, and equal what PyTorch makes of them."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.weights import read
from core.weights.torchscript import read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Model(nn.Module):
    """Parameters in two dtypes, buffers of several kinds, and attributes that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(3, 4).half()
        self.blocks = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.turned = nn.Parameter(torch.arange(12.0).reshape(3, 4).T[1:])
        self.bf16 = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor(77))
        self.register_buffer("mask", torch.ones(2, 2, dtype=torch.bool))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.steps = 7
        self.rate = 0.5
        self.pair = (1, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x * self.scale


def _scripted(path: Path) -> None:
    torch.jit.script(Model().eval()).save(str(path))


def _traced(path: Path) -> None:
    torch.jit.trace(Model().eval(), torch.ones(1, 2)).save(str(path))


@pytest.mark.parametrize("save", [_scripted, _traced])
def test_what_pytorch_reads_by_running_it(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "model.pt"
    save(path)
    expected = torch.jit.load(str(path)).state_dict()
    checkpoint = read(path)
    assert checkpoint.format == "torchscript"
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        found = checkpoint.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found, tensor), name


def test_code_is_never_looked_at(tmp_path: Path) -> None:
    path, other = tmp_path / "model.pt", tmp_path / "without.pt"
    _scripted(path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            if "/code/" not in entry.filename:
                new.writestr(entry, old.read(entry))
    assert read(other).tensors.keys() == read(path).tensors.keys()


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("exit 3",)


def _archive(path: Path, data: bytes, *, compressed: bool = False) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/data/0", bytes(16))
        archive.writestr("model/constants.pkl", pickle.dumps((), 2))


def test_a_pickle_that_calls_something_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def fail(command: str) -> int:
        raise AssertionError(command)

    data = pickle.dumps({"weight": _Bomb()}, 2)
    monkeypatch.setattr(os, "system", fail)
    _archive(tmp_path / "bomb.pt", data)
    with pytest.raises(InputError, match="holds no weights"):
        read(tmp_path / "bomb.pt")


def _tensor(size: bytes, stride: bytes, storage: bytes = b"FloatStorage", key: bytes = b"0") -> bytes:
    """The pickle of a module with one tensor, as torch.jit.save writes it."""
    text = b"X" + len(key).to_bytes(4, "little") + key
    held = b"(X\x07\0\0\0storagectorch\n" + storage + b"\n" + text + b"X\x03\0\0\0cpuK\x04tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + b"K\x00" + size + stride + b"\x89NtR"
    return b"\x80\x02c__torch__\nM\n)\x81}(X\x01\0\0\0w" + rebuilt + b"ub."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_tensor(b"(K\x02K\x03t", b"(K\x03K\x01t"), "too few"),
        (_tensor(b"(K\x02t", b"(K\x04t"), "too few"),
        (_tensor(b"(J\xff\xff\xff\x7ft", b"(K\x00t"), "too few"),
        (_tensor(b"(K\x02t", b"(J\xff\xff\xff\xfft"), "too few"),
        (_tensor(b"(K\x02t", b"(K\x01t", storage=b"ComplexFloatStorage"), "ComplexFloatStorage"),
        (_tensor(b"(K\x02t", b"(K\x01t", key=b"9"), "not readable"),
        (_tensor(b"(K\x02t", b"(K\x01t")[:-9], "not readable"),
        (b"\x80\x02" + b"r\xff\xff\xff\x7f.", "not readable"),
        (b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b".", "not readable"),
        (b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\0\0\0ah\x00sb.", "hold each other"),
        (b"\x80\x02})K\x01s.", "no text or number"),
    ],
)
def test_damaged_and_hostile_archives_are_refused_in_a_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.pt"
    _archive(path, data)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_the_pickle_of_the_test_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    _archive(path, _tensor(b"(K\x02K\x02t", b"(K\x02K\x01t"))
    assert torch.equal(read_torchscript(path)["w"], torch.zeros(2, 2))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    _archive(path, _tensor(b"(K\x02t", b"(K\x01t"), compressed=True)
    with pytest.raises(InputError, match="compressed"):
        read(path)
