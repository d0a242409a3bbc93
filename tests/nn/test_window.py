"""Windows against the Swin of timm, torchvision and transformers."""

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed, split_qkv
from torch import nn

from core.nn import Block, Ctx, GridBuckets, LayerNorm, Mlp, RelativeBias, Residual, Windowed, attention
from core.nn.window import RollThenPad

DIM, HEADS = 8, 2


def block(size, shift, dim=DIM, kind=Windowed):
    fn = attention(dim, HEADS, pair_bias=RelativeBias(HEADS, GridBuckets(size)))
    return Block(
        attn=Residual(LayerNorm(dim), kind(fn, size, shift)),
        mlp=Residual(LayerNorm(dim), Mlp(dim)),
    )


def run(model):
    return lambda x: model(x, Ctx()).x


def named_by_timm(named, theirs="", ours=""):
    names = {
        "norm1": "attn.norm", "norm2": "mlp.norm", "mlp.fc1": "mlp.fn.fc1", "mlp.fc2": "mlp.fn.fc2",
        "attn.proj": "attn.fn.fn.out", "attn.relative_position_bias_table": "attn.fn.fn.bias.table",
        # torchvision's own
        "mlp.0": "mlp.fn.fc1", "mlp.3": "mlp.fn.fc2",
    }  # fmt: skip
    named = {name.removeprefix(theirs): value for name, value in named.items() if name.startswith(theirs)}
    found = renamed(named, names) | split_qkv(named, "attn.qkv", "attn.fn.fn")
    return {ours + name: value for name, value in found.items()}


def timm_block(grid, size, shift, **settings):
    swin = pytest.importorskip("timm.models.swin_transformer")
    return swin.SwinTransformerBlock(DIM, grid, HEADS, window_size=size, shift_size=shift, **settings)


@pytest.mark.parametrize("shift", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize(
    ("grid", "size"),
    [((8, 8), (4, 4)), ((4, 12), (4, 4)), ((6, 12), (3, 4)), ((4, 4), (4, 4))],
    ids=["square", "one row of windows", "oblong windows", "one window"],
)
def test_windows_that_divide_the_grid_equal_timm(grid, size, shift):
    x = torch.randn(2, *grid, DIM)
    theirs = timm_block(grid, size, shift)
    ours = block(size, shift)
    assert_equal_modules(ours, theirs, named_by_timm, [x], run(ours), theirs)
    if min(grid) > max(size):
        other = block(size, shift, kind=RollThenPad).double()
        other.load_state_dict(ours.state_dict())
        assert_close(run(other)(x.double()), run(ours)(x.double()), 0)


@pytest.mark.parametrize("grid", [(7, 9), (10, 5), (8, 9)])
def test_padding_without_shift_equals_timm(grid):
    theirs = timm_block(grid, (4, 4), (0, 0))
    ours = block((4, 4), (0, 0))
    assert_equal_modules(ours, theirs, named_by_timm, [torch.randn(2, *grid, DIM)], run(ours), theirs)


@pytest.mark.parametrize("grid", [(3, 9), (9, 2), (3, 3)])
def test_a_grid_smaller_than_the_window_equals_timm_with_the_window_that_it_chooses(grid):
    """timm cuts window and bias table down to the grid when the model is built, and drops the shift of that axis."""
    theirs = timm_block(grid, (4, 4), (2, 2))
    assert theirs.window_size == tuple(min(n, 4) for n in grid)
    ours = block(theirs.window_size, theirs.shift_size, kind=RollThenPad)
    assert_equal_modules(ours, theirs, named_by_timm, [torch.randn(2, *grid, DIM)], run(ours), theirs)


@pytest.mark.parametrize("shift", [(0, 0), (2, 1)])
@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (10, 5), (3, 9), (3, 3)])
def test_dynamic_sizes_equal_timm(grid, shift):
    """One model, whatever the size: timm keeps window and shift, rolls, and pads what was rolled."""
    theirs = timm_block((8, 8), (4, 4), shift, always_partition=True, dynamic_mask=True)
    ours = block((4, 4), shift, kind=RollThenPad)
    assert_equal_modules(ours, theirs, named_by_timm, [torch.randn(2, *grid, DIM)], run(ours), theirs)


@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (2, 1)])
@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (10, 5), (3, 9), (9, 4), (3, 3)])
def test_any_size_equals_torchvision(grid, shift):
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    theirs = swin.SwinTransformerBlock(DIM, HEADS, [4, 4], list(shift), norm_layer=nn.LayerNorm)
    ours = block((4, 4), shift)
    assert_equal_modules(ours, theirs, named_by_timm, [torch.randn(2, *grid, DIM)], run(ours), theirs)


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (10, 5)])
def test_padding_with_shift_equals_transformers(grid):
    swin = pytest.importorskip("transformers.models.swin.modeling_swin")
    config = swin.SwinConfig(window_size=4, attn_implementation="eager")
    theirs = swin.SwinLayer(config, DIM, grid, HEADS, shift_size=2)
    ours = block((4, 4), (2, 2))
    names = {
        "layernorm_before": "attn.norm", "layernorm_after": "mlp.norm",
        "attention.q_proj": "attn.fn.fn.q.proj", "attention.k_proj": "attn.fn.fn.k.proj",
        "attention.v_proj": "attn.fn.fn.v.proj", "attention.o_proj": "attn.fn.fn.out",
        "attention.relative_position_bias.relative_position_bias_table": "attn.fn.fn.bias.table",
        "mlp.fc1": "mlp.fn.fc1", "mlp.fc2": "mlp.fn.fc2",
    }  # fmt: skip
    assert_equal_modules(
        ours, theirs, lambda named: renamed(named, names), [torch.randn(2, *grid, DIM)], run(ours),
        lambda x: theirs(x.flatten(1, 2), grid)[0].unflatten(1, grid),
        tolerance=1e-5,  # their softmax is float32
    )  # fmt: skip


class Merge(nn.Module):
    """Swin's patch merging: four neighbours become one token of twice the width."""

    def __init__(self, dim):
        super().__init__()
        self.norm, self.reduction = LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        x = nn.functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)  # (B, H, W, 2 columns, 2 rows, C)
        return self.reduction(self.norm(x.flatten(3)))


class Stages(nn.Module):
    """Three stages of two blocks, every other one shifted, with patch merging in front of the second and third."""

    def __init__(self, size, kind):
        super().__init__()
        shift = (size[0] // 2, size[1] // 2)
        self.merges = nn.ModuleList(Merge(DIM * 2**n) for n in range(2))
        self.stages = nn.ModuleList(
            nn.ModuleList(block(size, s, DIM * 2**n, kind) for s in ((0, 0), shift)) for n in range(3)
        )

    def forward(self, x):
        for number, stage in enumerate(self.stages):
            x = self.merges[number - 1](x) if number else x
            for layer in stage:
                x = layer(x).x
        return x


@pytest.mark.parametrize("grid", [(16, 8), (13, 18), (9, 7)])
def test_three_stages_equal_timm(grid):
    swin = pytest.importorskip("timm.models.swin_transformer")
    dynamic = {"always_partition": True, "dynamic_mask": True}
    theirs = nn.Sequential(*(
        swin.SwinTransformerStage(
            DIM * 2 ** max(n - 1, 0), DIM * 2**n, (16 // 2 ** max(n - 1, 0),) * 2, 2,
            downsample=n > 0, num_heads=HEADS, window_size=4, **dynamic,
        )
        for n in range(3)
    ))  # fmt: skip
    ours = Stages((4, 4), RollThenPad)

    def convert(named):
        found = {}
        for n in range(3):
            found |= renamed(named, {f"{n}.downsample": f"merges.{n - 1}"})
            for m in range(2):
                found |= named_by_timm(named, f"{n}.blocks.{m}.", f"stages.{n}.{m}.")
        return found

    assert_equal_modules(ours, theirs, convert, [torch.randn(2, *grid, DIM)], ours, theirs)


def test_tokens_from_opposite_edges_do_not_see_each_other():
    """Only the token's own window, as it lies in the unrolled grid, reaches the result."""
    model = block((4, 4), (2, 2)).double()
    x = torch.randn(1, 10, 9, DIM, dtype=torch.float64, requires_grad=True)
    for row, column, rows, columns in ((0, 0, (0, 2), (0, 2)), (9, 8, (6, 10), (6, 9)), (5, 3, (2, 6), (2, 6))):
        (grad,) = torch.autograd.grad(run(model)(x)[0, row, column].sum(), x)
        seen = grad[0].abs().sum(-1) > 0
        wanted = torch.zeros(10, 9, dtype=torch.bool)
        wanted[slice(*rows), slice(*columns)] = True
        assert torch.equal(seen, wanted)
