"""Name tables work both ways, byte for byte, and refuse whatever doesn't fit."""

import pytest
import torch
from torch import Tensor, nn

from core.errors import InputError
from core.weights import (
    ZEROS,
    Fixed,
    Reshape,
    ScaledRows,
    Source,
    Split,
    Squeeze,
    Table,
    Tied,
    Transpose,
    Zeros,
    build,
    load_into,
)

RULES = {
    "embed.weight": "tokens.weight",
    "lm_head.weight": Tied("embed.weight"),
    "patch.weight": Reshape("patch.weight", theirs=(-1, 3, 2, 2), ours=(-1, 12)),
    "cls": Reshape("cls", theirs=(1, 1, -1), ours=(-1,)),
    "positions": Squeeze("positions"),
    "h.{i}.attn.qkv.weight": Split(*(f"blocks.{{i}}.{part}.weight" for part in "qkv")),
    "h.{i}.attn.qkv.bias": Split("blocks.{i}.q.bias", ZEROS, "blocks.{i}.v.bias"),
    "h.{i}.attn.k_bias": Zeros("h.{i}.fc.bias"),
    "h.{i}.fc.weight": Transpose("blocks.{i}.fc.weight"),
    "h.{i}.fc.bias": "blocks.{i}.fc.bias",
    "h.{i}.norm.{leaf}": "blocks.{i}.norm.{leaf}",
    "settings.heads": Fixed(2, torch.int16),
    "position_ids": None,
}
TABLE = Table("toy", RULES)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.fc, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.patch = nn.Linear(12, 4, bias=False)
        self.register_buffer("positions", torch.zeros(7, 4))
        self.cls = nn.Parameter(torch.zeros(4))
        self.blocks = nn.ModuleList(Part() for _ in range(2))


def theirs(dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    state = {"embed.weight": torch.randn(5, 4), "patch.weight": torch.randn(4, 3, 2, 2), "cls": torch.randn(1, 1, 4)}
    state["positions"] = torch.randn(1, 7, 4)
    for i in range(2):
        bias = torch.randn(12)
        bias[4:8] = 0
        state |= {
            f"h.{i}.attn.qkv.weight": torch.randn(12, 4),
            f"h.{i}.attn.qkv.bias": bias,
            f"h.{i}.attn.k_bias": torch.zeros(6),
            f"h.{i}.fc.weight": torch.randn(4, 6),
            f"h.{i}.fc.bias": torch.randn(6),
            f"h.{i}.norm.weight": torch.randn(6),
            f"h.{i}.norm.bias": torch.randn(6),
        }
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    state["h.1.norm.weight"] = state["h.1.norm.weight"].float()
    state["lm_head.weight"] = state["embed.weight"].clone()
    state["settings.heads"] = torch.tensor(2, dtype=torch.int16)
    return state


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_there_and_back(dtype: torch.dtype) -> None:
    model, state = Toy(), theirs(dtype)
    source = load_into(model, TABLE, state)
    assert torch.equal(model.blocks[1].k.weight, state["h.1.attn.qkv.weight"][4:8].float())
    assert torch.equal(model.blocks[0].fc.weight, state["h.0.fc.weight"].T.float())
    assert torch.equal(model.patch.weight[1], state["patch.weight"][1].flatten().float())
    assert same_bytes(TABLE.export(model.state_dict(), source), state)


def test_load_without_a_model() -> None:
    state = theirs()
    ours = TABLE.load(state)
    assert ours.keys() == Toy().state_dict().keys()
    assert ours["cls"].shape == (4,)
    assert ours["cls"].dtype == torch.float16


def test_a_model_of_ours_has_no_source() -> None:
    model = Toy()
    out = TABLE.export(model.state_dict())
    assert out.keys() == theirs().keys()
    assert same_bytes(TABLE.load(out), dict(model.state_dict()))


def test_the_source_survives_json() -> None:
    model, state = Toy(), theirs()
    source = load_into(model, TABLE, state, {"licence": "MIT"})
    again = Source.from_json(source.to_json(), source.kept)
    assert again == source
    assert again.dtype == "float16"
    assert again.meta == {"licence": "MIT"}
    assert same_bytes(TABLE.export(model.state_dict(), again), state)
    with pytest.raises(InputError, match="float99"):
        Source.from_json(source.to_json() | {"dtype": "float99"}, {})


def test_what_the_source_did_not_have_is_not_made_up() -> None:
    model, state = Toy(), theirs()
    del state["lm_head.weight"], state["settings.heads"]
    source = load_into(model, TABLE, state)
    assert same_bytes(TABLE.export(model.state_dict(), source), state)


def test_dropped_on_purpose() -> None:
    model, state = Toy(), theirs()
    source = load_into(model, TABLE, state | {"position_ids": torch.arange(5)})
    assert same_bytes(TABLE.export(model.state_dict(), source), state)


SPOILED = {
    "missing": (lambda s: s.pop("h.1.fc.bias"), r"h\.1\.fc\.bias \(our blocks\.1\.fc\.bias\)"),
    "extra": (lambda s: s.update(stray=torch.zeros(1)), "1 unexpected: stray"),
    "extra layer": (lambda s: s.update({"h.2.fc.bias": torch.zeros(6)}), r"h\.2\.fc\.bias \(our blocks\.2\.fc\.bias\)"),
    "shape": (lambda s: s.update({"h.0.fc.bias": torch.zeros(7)}), r"\(7,\), expected \(6,\)"),
    "fused shape": (lambda s: s.update({"h.0.attn.qkv.weight": torch.zeros(13, 4)}), r"can't be split in 3"),
    "kernel": (lambda s: s.update({"patch.weight": torch.zeros(4, 3, 4, 4)}), r"\(4, 3, 4, 4\) is not of the form"),
    "axis": (lambda s: s.update(positions=torch.zeros(7, 4)), r"\(7, 4\) has no first axis of 1"),
    "integers": (lambda s: s.update({"h.0.fc.bias": torch.zeros(6, dtype=torch.int8)}), "dtype torch.int8"),
    "not zero": (lambda s: s["h.0.attn.qkv.bias"].fill_(1), "should be zero"),
    "zeros": (lambda s: s["h.1.attn.k_bias"].fill_(1), "k_bias should be zero"),
    "tied": (lambda s: s["lm_head.weight"].add_(1), "should equal embed.weight"),
    "fixed": (lambda s: s.update({"settings.heads": torch.tensor(3)}), "settings.heads should be 2"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_misfits_are_refused_and_nothing_changes(kind: str) -> None:
    model, state = Toy(), theirs()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spoil, message = SPOILED[kind]
    spoil(state)
    with pytest.raises(InputError, match=message) as caught:
        load_into(model, TABLE, state)
    assert "\n" not in str(caught.value)
    assert same_bytes(dict(model.state_dict()), before)


def test_the_error_lists_both_sides_and_stays_short() -> None:
    state = theirs()
    state = {f"wrong.{name}" if name.startswith("h.0") else name: t for name, t in state.items()}
    with pytest.raises(InputError) as caught:
        load_into(Toy(), TABLE, state)
    text = str(caught.value)
    assert "9 missing: h.0.attn.qkv.weight (our blocks.0.q.weight)" in text
    assert "7 unexpected: wrong.h.0.attn.qkv.weight" in text
    assert "and 5 more" in text
    assert len(text) < 800


def test_export_refuses_parts_and_strangers() -> None:
    ours = dict(Toy().state_dict())
    del ours["blocks.0.k.weight"]
    with pytest.raises(InputError, match=r"1 missing: part 2 of h\.0\.attn\.qkv\.weight; 1 unexpected: stray"):
        TABLE.export(ours | {"stray": torch.zeros(1)})


def test_a_table_with_a_mistake() -> None:
    with pytest.raises(ValueError, match="different placeholders"):
        Table("bad", {"a.{i}": "b"})
    with pytest.raises(ValueError, match="fits"):
        Table("bad", {"a.{i}": "b.{i}", "a.{leaf}": "c.{leaf}"}).load({"a.1": torch.zeros(1)})
    with pytest.raises(InputError, match="is c, and so is a"):
        Table("bad", {"a": "c", "b": "c"}).load({"a": torch.zeros(1), "b": torch.zeros(1)})


def quantised(dtype: torch.dtype) -> dict[str, Tensor]:
    """A fused weight as CTranslate2 stores it, with scales that its own formula would not find again."""
    if dtype == torch.int16:
        return {"qkv": torch.randint(-1024, 1025, (12, 4), dtype=dtype), "qkv_scale": torch.tensor(7321.7)}
    return {"qkv": torch.randint(-100, 101, (12, 4), dtype=dtype), "qkv_scale": torch.rand(12) * 1000 + 1}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_integers_with_scales(dtype: torch.dtype) -> None:
    table = Table("packed", {"qkv": Split("q.weight", "k.weight", "v.weight"), "qkv2": Tied("qkv")}, ScaledRows())
    state = quantised(dtype)
    state |= {name.replace("qkv", "qkv2"): tensor for name, tensor in state.items()}
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "qkv"})
    source = load_into(model, table, state)
    scale = state["qkv_scale"].double()
    exact = state["qkv"].double() / (scale[:, None] if scale.ndim else scale)
    assert (torch.cat([model[name].weight for name in "qkv"]) - exact).abs().max() < 1e-6 * exact.abs().max()
    assert same_bytes(table.export(model.state_dict(), source), state)

    with torch.no_grad():
        model["q"].weight.mul_(3)  # the old scale would overflow
    out = table.export(model.state_dict(), source)
    assert out["qkv"].dtype == dtype
    again = ScaledRows().unpack(out["qkv"], out["qkv_scale"])
    largest = 3 * exact.abs().max()
    assert (again[:4] - model["q"].weight).abs().max() < largest / (200 if dtype == torch.int8 else 1500)


def test_packing_zeros() -> None:
    packed, scale = ScaledRows().pack(torch.zeros(3, 4), torch.int8, None)
    assert not packed.any()
    assert torch.equal(scale, torch.ones(3))


@pytest.mark.parametrize("kind", ["saved", "unsaved buffer", "loose tensor"])
def test_a_model_is_built_whole(kind: str) -> None:
    """What the file doesn't hold is made by the model itself, and no other random numbers are drawn."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("table", torch.arange(3), persistent=kind == "saved")
            self.loose = torch.arange(4) if kind == "loose tensor" else None

    table = Table("plain", {"{path}": "{path}"})
    state = dict(Net().state_dict())
    before = torch.get_rng_state()
    model, _ = build(Net, table, state)
    assert same_bytes(dict(model.state_dict()), state)
    assert torch.equal(model.table, torch.arange(3))
    if kind == "saved":
        assert torch.equal(torch.get_rng_state(), before)
    if kind == "loose tensor":
        assert torch.equal(model.loose, torch.arange(4))
    with pytest.raises(InputError, match="makes no model"):
        build(lambda: nn.Linear(-1, 2), table, state)
