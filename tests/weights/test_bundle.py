"""Bundles: enough to run, whole or not there, and nothing in them is executed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.errors import InputError
from core.weights import (
    Bundle,
    ScaledRows,
    Table,
    from_plain,
    is_bundle,
    load_into,
    open_bundle,
    read,
    read_bundle,
    save_bundle,
)


@dataclass(frozen=True)
class Size:
    width: int
    rate: float = 0.1


@dataclass(frozen=True)
class NetConfig:
    size: Size
    grid: tuple[int, int] = (2, 3)
    name: str | None = None


class Net(nn.Module):
    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(config.size.width, config.grid[1])
        self.register_buffer("table", torch.arange(3))


MAKERS = {"toy.Net": lambda config: Net(from_plain(NetConfig, config))}


def net() -> tuple[Net, Bundle]:
    model = Net(NetConfig(Size(4)))
    bundle = Bundle(
        "toy.Net", asdict(model.config), preprocessing={"mean": [0.5]}, labels=("a", "b", "ü"), licence="MIT"
    )
    return model, bundle


def test_enough_to_run(tmp_path: Path) -> None:
    model, bundle = net()
    vocabulary = tmp_path / "v.txt"
    vocabulary.write_text("x")
    folder = tmp_path / "deep" / "net"
    save_bundle(folder, model, bundle, {"vocabulary.txt": vocabulary})
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "vocabulary.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["net"]
    again, said = open_bundle(folder, MAKERS)
    assert said.labels == ("a", "b", "ü")
    assert said.preprocessing == {"mean": [0.5]}
    assert again.config == model.config  # nested dataclass and tuple came back as such
    x = torch.randn(2, 4)
    assert torch.equal(again.fc(x), model.fc(x))
    assert torch.equal(again.table, model.table)


def test_an_older_bundle_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    model, bundle = net()
    folder = tmp_path / "net"
    folder.mkdir()
    save_bundle(folder, model, bundle)
    with torch.no_grad():
        model.fc.bias.fill_(7)
    save_bundle(folder, model, bundle)
    assert (read(folder).tensors["fc.bias"] == 7).all()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"x")
    assert not is_bundle(other)
    with pytest.raises(InputError, match="is no bundle"):
        save_bundle(other, model, bundle)
    assert [path.name for path in other.iterdir()] == ["cat.jpg"]


def test_a_failed_save_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, bundle = net()
    folder = tmp_path / "net"
    save_bundle(folder, model, bundle)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("core.weights.bundle.write_safetensors", fail)
        with pytest.raises(OSError, match="disk full"):
            save_bundle(folder, model, bundle)
    with pytest.raises(TypeError):
        save_bundle(folder, model, Bundle("toy.Net", {"size": object()}))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    open_bundle(folder, MAKERS)
    for name in ("run.py", "../up.json", "config.json"):
        with pytest.raises(InputError, match="can't take"):
            save_bundle(folder, model, bundle, {name: folder / "config.json"})


def changed(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (data | changes).items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "os.system"}, "holds a 'os.system': expected one of toy.Net"),
        ({"model": None}, "missing 1 required"),
        ({"model": {}}, "expected the name of a model"),
        ({"sensorium_bundle": 2}, "says 2"),
        ({"sensorium_bundle": None}, "says None"),
        ({"run": "x"}, "unexpected keyword argument 'run'"),
        (
            {"config": {"size": {"width": 4, "depth": 1}}},
            "Size has no field 'depth'|NetConfig.size has no field 'depth'",
        ),
        ({"config": {}}, "lacks the field 'size'"),
        ({"config": {"size": {"width": "4"}}}, "width should be int, not '4'"),
        ({"config": {"size": {"width": 4}, "grid": [1, 2, 3]}}, "grid should be"),
        ({"config": {"size": {"width": 5}}}, r"fc.weight the shape \(3, 4\), expected \(3, 5\)"),
        ({"config": {"size": {"width": 2**36}}}, r"expected \(3, 68719476736\)"),  # no memory is taken for it
        ({"config": {"size": {"width": 2**80}}}, "makes no model"),
        ({"config": {"size": {"width": -1}}}, "makes no model"),
        ({"source": {"table": "x"}}, "provenance"),
    ],
)
def test_damaged_or_hostile_configs(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model, bundle = net()
    save_bundle(tmp_path / "net", model, bundle)
    changed(tmp_path / "net", **changes)
    with pytest.raises(InputError, match=message) as caught:
        open_bundle(tmp_path / "net", MAKERS)
    assert "\n" not in str(caught.value)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_bundle(tmp_path / "missing")
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(InputError, match="is no bundle"):
        read_bundle(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="expected an object"):
        read_bundle(tmp_path)


def test_int8_leaves_a_bundle_as_it_came(tmp_path: Path) -> None:
    table = Table("packed", {"weight": "fc.weight", "bias": "fc.bias", "table": "table"}, ScaledRows())
    state = {
        "weight": torch.randint(-127, 128, (3, 4), dtype=torch.int8),
        "weight_scale": torch.rand(3) * 100 + 50,
        "bias": torch.randn(3).half(),
        "table": torch.arange(3),
    }
    model, bundle = net()
    source = load_into(model, table, state)
    save_bundle(tmp_path / "net", model, Bundle("toy.Net", bundle.config, source=source))
    again, said = open_bundle(tmp_path / "net", MAKERS)
    out = table.export(again.state_dict(), said.source)
    assert out.keys() == state.keys()
    assert all(torch.equal(out[name], state[name]) and out[name].dtype == state[name].dtype for name in state)
