"""A fast DiT computes what the exact one does: to rounding, or as closely as its precision and its bound allow."""

import pytest
import torch
from torch import Tensor, nn

from core import simd
from core.nn.rowwise import has_integers
from diffusion.condition import Condition, Labels, rows
from diffusion.dit import DiT, DiTConfig
from diffusion.speed.caching import Reuse
from diffusion.speed.quick import QuickDiT, quick

integers = pytest.mark.skipif(not (simd.available() or has_integers()), reason="no 8-bit layers on this processor")
TIMES = torch.linspace(900, 20, 12)


def _model(**changes: object) -> DiT:
    torch.manual_seed(0)
    settings = {"image": (8, 8), "dim": 64, "depth": 4, "heads": 4, "classes": 5, **changes}
    model = DiT(DiTConfig(**settings)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.05)
    return model


def _inputs(count: int = 3) -> tuple[Tensor, Labels]:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1)), Labels(torch.arange(count) % 6)


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


MODELS = [
    {},
    {"positions": "rotary", "qk_norm": "rms", "mlp": "swiglu", "norm": "rms"},
    {"out_channels": 8, "classes": 0},
    {"spare": 4},
]


@pytest.mark.parametrize("changes", MODELS, ids=["plain", "options", "told nothing", "SiT"])
def test_float32_is_exact_prepared_or_not(changes: dict[str, object]) -> None:
    model = _model(**changes)
    fast = quick(model, "float32")
    x, labels = _inputs()
    condition: Condition = labels if model.label is not None else None
    t = torch.tensor([300.0, 20.0, 0.5])
    with torch.no_grad():
        torch.testing.assert_close(fast(x, t, condition), model(x, t, condition), atol=1e-5, rtol=1e-5)
        fast.prepare(TIMES, condition)
        for time in (*TIMES[:3], torch.tensor(333.0)):  # the last was not announced
            t = time.expand(3)
            torch.testing.assert_close(fast(x, t, condition), model(x, t, condition), atol=1e-5, rtol=1e-5)


def test_classes_that_were_not_announced_are_computed_all_the_same() -> None:
    model = _model()
    fast = quick(model, "float32")
    x, labels = _inputs()
    fast.prepare(TIMES, Labels(labels.index[:1]))
    t = TIMES[0].expand(3)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, t, labels), model(x, t, labels), atol=1e-5, rtol=1e-5)


def test_steps_are_prepared_in_parts_where_there_is_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion.speed import modulations

    monkeypatch.setattr(modulations, "ROOM", 1)
    model = _model()
    fast = quick(model, "float32")
    x, labels = _inputs()
    fast.prepare(TIMES, labels)
    with torch.no_grad():
        for time in TIMES[:3]:
            t = time.expand(3)
            torch.testing.assert_close(fast(x, t, labels), model(x, t, labels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", MODELS, ids=["plain", "options", "told nothing", "SiT"])
def test_bfloat16_is_close_and_a_row_does_not_depend_on_others(changes: dict[str, object]) -> None:
    model = _model(**changes)
    fast = quick(model, "bfloat16")
    assert isinstance(fast, QuickDiT)
    x, labels = _inputs()
    condition: Condition = labels if model.label is not None else None
    t = torch.full((3,), 500.0)
    with torch.no_grad():
        found = fast(x, t, condition)
        assert found.dtype is torch.float32
        assert _off(found, model(x, t, condition)) < 0.02
        for i in range(3):
            at = slice(i, i + 1)
            part = None if condition is None else rows(labels, at)
            assert _off(fast(x[at], t[at], part), found[at]) < 0.005


def test_by_default_steps_can_be_used_again() -> None:
    x, labels = _inputs()
    reuse = Reuse(0.5)
    made = quick(_model(), reuse=reuse)
    assert isinstance(made, QuickDiT)
    assert _off(_run(made, x, labels), _run(_cached(_model(), None), x, labels)) < 0.05
    assert 0 < reuse.computed < reuse.asked


@integers
def test_int8_is_close_and_a_row_does_not_depend_on_others() -> None:
    model = _model()
    fast = quick(model, "int8")
    x, labels = _inputs()
    t = torch.full((3,), 500.0)
    with torch.no_grad():
        found = fast(x, t, labels)
        assert _off(found, model(x, t, labels)) < 0.03
        for i in range(3):
            at = slice(i, i + 1)
            torch.testing.assert_close(fast(x[at], t[at], rows(labels, at)), found[at], atol=1e-5, rtol=1e-5)


def _run(model: QuickDiT, x: Tensor, labels: Labels) -> Tensor:
    """A few steps towards data, as a flow takes them."""
    model.prepare(TIMES, labels)
    with torch.no_grad():
        for time in TIMES:
            x = x - 0.02 * model(x, time.expand(len(x)), labels)
    return x


def _cached(model: DiT, reuse: Reuse | None) -> QuickDiT:
    made = quick(model, "float32", reuse)
    assert isinstance(made, QuickDiT)
    return made


def test_a_bound_of_zero_reuses_nothing() -> None:
    x, labels = _inputs()
    model, reuse = _model(), Reuse(0.0)
    torch.testing.assert_close(_run(_cached(model, reuse), x, labels), _run(_cached(model, None), x, labels))
    assert reuse.computed == reuse.asked == 3 * len(TIMES)


def test_a_larger_bound_computes_less_and_errs_more() -> None:
    x, labels = _inputs()
    model = _model()
    exact = _run(_cached(model, None), x, labels)
    computed, errors = [], []
    for bound in (0.02, 0.1, 0.5):
        reuse = Reuse(bound)
        errors.append(_off(_run(_cached(model, reuse), x, labels), exact))
        computed.append(reuse.computed)
    assert computed == sorted(computed, reverse=True)
    assert computed[-1] <= 3 * len(TIMES) / 2
    assert errors[0] <= errors[-1] < 0.05


def test_reuse_is_decided_for_each_sample_alone() -> None:
    x, labels = _inputs()
    x = x * torch.tensor([0.1, 1.0, 5.0])[:, None, None, None]
    model = _model()
    together = _run(_cached(model, Reuse(0.1)), x, labels)
    for i in range(3):
        at = slice(i, i + 1)
        chosen = rows(labels, at)
        assert isinstance(chosen, Labels)
        alone = _run(_cached(model, Reuse(0.1)), x[at], chosen)
        torch.testing.assert_close(alone, together[at], atol=1e-5, rtol=1e-5)


def test_reuse_begins_anew_with_every_run() -> None:
    x, labels = _inputs()
    fast = _cached(_model(), Reuse(0.1))
    first = _run(fast, x, labels)
    _run(fast, -x, labels)
    torch.testing.assert_close(_run(fast, x, labels), first)
