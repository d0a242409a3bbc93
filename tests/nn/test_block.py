"""Blocks and stacks against timm, PyTorch and transformers; what can be seen inside them; recomputation."""

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed, split_qkv
from torch import nn

from core.nn import (
    Block,
    Causal,
    Ctx,
    DropPath,
    LayerNorm,
    LayerScale,
    Memory,
    Mlp,
    PostNorm,
    Residual,
    RMSNorm,
    Rope,
    Stack,
    SwiGLU,
    Tokens,
    attention,
    cross_attention,
    kernels,
    padded_tokens,
    recomputed,
    rope_frequencies,
)

DIM, HEADS = 16, 4
_DRAW = torch.Generator().manual_seed(1)
X, MEMORY = torch.randn(2, 6, DIM, generator=_DRAW), torch.randn(2, 5, DIM, generator=_DRAW)


def run(model):
    return lambda x: model(x, Ctx()).x


# --- against other blocks


@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_block_equals_timm(scale, qk_norm, bias):
    vit = pytest.importorskip("timm.models.vision_transformer")
    theirs = vit.Block(DIM, HEADS, qkv_bias=bias, qk_norm=qk_norm, init_values=scale, norm_layer=LayerNorm)

    def post():
        return None if scale is None else LayerScale(DIM)

    attend = attention(DIM, HEADS, bias="qkvo" if bias else "o", norm=LayerNorm if qk_norm else None)
    ours = Block(attn=Residual(LayerNorm(DIM), attend, post()), mlp=Residual(LayerNorm(DIM), Mlp(DIM), post()))
    table = {
        "norm1": "attn.norm", "attn.proj": "attn.fn.out", "ls1": "attn.post", "norm2": "mlp.norm",
        "attn.q_norm": "attn.fn.q.norm", "attn.k_norm": "attn.fn.k.norm",
        "mlp": "mlp.fn", "ls2": "mlp.post",
    }  # fmt: skip

    def convert(named):
        return renamed(named, table) | split_qkv(named, "attn.qkv", "attn.fn")

    assert_equal_modules(ours, theirs, convert, [X], run(ours), theirs)


def test_block_with_drop_path_equals_timm_from_the_same_seed():
    vit = pytest.importorskip("timm.models.vision_transformer")
    theirs = vit.Block(DIM, HEADS, qkv_bias=True, drop_path=0.5, norm_layer=LayerNorm)
    ours = Block(
        attn=Residual(LayerNorm(DIM), attention(DIM, HEADS), DropPath(0.5)),
        mlp=Residual(LayerNorm(DIM), Mlp(DIM), DropPath(0.5)),
    )
    table = {"norm1": "attn.norm", "attn.proj": "attn.fn.out", "norm2": "mlp.norm", "mlp": "mlp.fn"}

    def seeded(model):
        def call(x):
            torch.manual_seed(11)
            y = model(x)
            return y if isinstance(y, torch.Tensor) else y.x

        return call

    assert_equal_modules(
        ours, theirs, lambda named: renamed(named, table) | split_qkv(named, "attn.qkv", "attn.fn"),
        [torch.randn(8, 3, DIM)], seeded(ours), seeded(theirs),
    )  # fmt: skip


def by_torch(named, layers=2):
    """Names of PyTorch's encoder and decoder layers; a decoder's second attention is the one over the memory."""
    decoder = "layers.0.multihead_attn.out_proj.weight" in named
    norms = ("attn", "cross", "mlp") if decoder else ("attn", "mlp")
    found = {}
    for n in range(layers):
        table = {f"layers.{n}.norm{i + 1}": f"{n}.{branch}.norm" for i, branch in enumerate(norms)}
        table |= {f"layers.{n}.linear{i}": f"{n}.mlp.fn.fc{i}" for i in (1, 2)}
        for theirs, ours in (("self_attn", "attn"), ("multihead_attn", "cross")):
            table[f"layers.{n}.{theirs}.out_proj"] = f"{n}.{ours}.fn.out"
            fused = {
                f"in_proj.{kind}": named[f"layers.{n}.{theirs}.in_proj_{kind}"]
                for kind in ("weight", "bias")
                if f"layers.{n}.{theirs}.in_proj_{kind}" in named
            }
            found |= split_qkv(fused, "in_proj", f"{n}.{ours}.fn")
        found |= renamed(named, table)
    return found


ORDERS = pytest.mark.parametrize(("branch", "first"), [(Residual, True), (PostNorm, False)])


def encoder(branch):
    return Stack(
        Block(
            attn=branch(LayerNorm(DIM), attention(DIM, HEADS)),
            mlp=branch(LayerNorm(DIM), Mlp(DIM, 24, act=nn.ReLU())),
        )
        for _ in range(2)
    )


def torch_layer(kind, first):
    return kind(DIM, HEADS, 24, dropout=0.0, batch_first=True, norm_first=first)


@ORDERS
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_stack_equals_the_encoder_of_pytorch(branch, first, padding):
    theirs = nn.TransformerEncoder(torch_layer(nn.TransformerEncoderLayer, first), 2, enable_nested_tensor=False)
    ours = encoder(branch)
    tokens = Tokens() if padding == "none" else padded_tokens(torch.tensor([4, 6]), 6, left=padding == "left")
    gone = None if tokens.index is None else tokens.index < 0

    def real(y):
        return y if gone is None else y.masked_fill(gone[..., None], 0)

    assert_equal_modules(
        ours, theirs, by_torch, [X], lambda x: real(ours(x, Ctx(tokens)).x),
        lambda x: real(theirs(x, src_key_padding_mask=gone)),
    )  # fmt: skip


@ORDERS
def test_stack_equals_the_decoder_of_pytorch(branch, first):
    theirs = nn.TransformerDecoder(torch_layer(nn.TransformerDecoderLayer, first), 2)
    ours = Stack(
        Block(
            attn=branch(LayerNorm(DIM), attention(DIM, HEADS, mask=Causal())),
            cross=branch(LayerNorm(DIM), cross_attention(DIM, HEADS)),
            mlp=branch(LayerNorm(DIM), Mlp(DIM, 24, act=nn.ReLU())),
        )
        for _ in range(2)
    )
    later, memory_tokens = torch.ones(6, 6).triu(1).bool(), padded_tokens(torch.tensor([5, 3]), 5)
    assert_equal_modules(
        ours, theirs, by_torch, [X, MEMORY],
        lambda x, memory: ours(x, Ctx(memory=Memory(memory, memory_tokens))).x,
        lambda x, memory: theirs(x, memory, tgt_mask=later, memory_key_padding_mask=memory_tokens.index < 0),
    )  # fmt: skip


DECODERS = {
    # family: (its settings, projections with a bias, norm of queries and keys)
    "llama": ({}, "", False),
    "llama with biases": ({"attention_bias": True}, "qkvo", False),
    "qwen2": ({}, "qkv", False),
    "qwen3": ({}, "", True),
}
WIDTH = 12  # of a head: not dim / heads


def language_model(name, groups):
    """A peer's model of two layers and ours, with the table between them."""
    family = name.split()[0]
    module = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    settings, bias, qk_norm = DECODERS[name]
    title = family.capitalize()
    free = {} if family == "qwen2" else {"head_dim": WIDTH}
    width = WIDTH if free else DIM // HEADS
    config = getattr(module, f"{title}Config")(
        vocab_size=9, hidden_size=DIM, intermediate_size=24, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=groups, max_position_embeddings=64, rms_norm_eps=1e-6, attn_implementation="eager",
        use_cache=False, **free, **settings,
    )  # fmt: skip
    theirs = getattr(module, f"{title}Model")(config)
    del theirs.embed_tokens

    def norm(dim):
        return RMSNorm(dim, eps=1e-6)

    turn = Rope(rope_frequencies(width, config.rope_parameters["rope_theta"]))
    blocks = (
        Block(
            attn=Residual(
                norm(DIM),
                attention(
                    DIM, HEADS, kv_heads=groups, head_dim=width, bias=bias, norm=norm if qk_norm else None, turn=turn,
                    mask=Causal(),
                ),
            ),
            mlp=Residual(norm(DIM), SwiGLU(DIM, 24)),
        )
        for _ in range(2)
    )  # fmt: skip
    ours = nn.ModuleDict({"blocks": Stack(blocks), "norm": norm(DIM)})
    parts = {
        "input_layernorm": "attn.norm", "post_attention_layernorm": "mlp.norm",
        "self_attn.q_proj": "attn.fn.q.proj", "self_attn.k_proj": "attn.fn.k.proj",
        "self_attn.v_proj": "attn.fn.v.proj", "self_attn.o_proj": "attn.fn.out",
        "self_attn.q_norm": "attn.fn.q.norm", "self_attn.k_norm": "attn.fn.k.norm",
        "mlp.gate_proj": "mlp.fn.gate", "mlp.up_proj": "mlp.fn.up", "mlp.down_proj": "mlp.fn.down",
    }  # fmt: skip
    table = {f"layers.{n}.{old}": f"blocks.{n}.{new}" for n in range(2) for old, new in parts.items()}
    return ours, theirs, table | {"norm": "norm"}


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("name", DECODERS)
def test_grouped_queries_equal_transformers(name, groups):
    ours, theirs, table = language_model(name, groups)
    assert_equal_modules(
        ours, theirs, lambda named: renamed(named, table), [X],
        lambda x: ours["norm"](ours["blocks"](x).x), lambda x: theirs(inputs_embeds=x).last_hidden_state,
        tolerance=1e-5,  # their norms and softmax are float32
    )  # fmt: skip


@pytest.mark.parametrize("heads", [(16, 3, None), (16, 4, 3)])
def test_heads_that_do_not_divide_are_an_error(heads):
    dim, count, groups = heads
    with pytest.raises(ValueError, match="do not divide"):
        attention(dim, count, kv_heads=groups)


# --- looking inside


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("heads", [True, [0], [3, 1]])
def test_captured_weights_and_hidden_states_equal_transformers(heads, groups):
    ours, theirs, table = language_model("qwen3", groups)
    ours.load_state_dict(renamed(theirs.state_dict(), table))
    with torch.no_grad():
        seen = theirs(inputs_embeds=X, output_attentions=True, output_hidden_states=True)
        x, notes = ours["blocks"](X, Ctx(want={1: {"attn": heads}, 0: {"hidden": True}}))
        plain, nothing = ours["blocks"](X)
    assert torch.equal(x, plain)
    assert nothing == {}
    assert set(notes) == {0, 1}
    assert set(notes[0]) == {"hidden"}
    assert set(notes[1]) == {"attn"}
    wanted = seen.attentions[1] if heads is True else seen.attentions[1][:, heads]
    assert_close(notes[1]["attn"]["weights"], wanted, 1e-6)
    assert_close(notes[0]["hidden"], seen.hidden_states[1], 1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [True, [2, 0]])
def test_captured_weights_of_padded_rows_and_cross_attention_equal_pytorch(heads, kernel):
    block = Block(
        attn=Residual(nn.Identity(), attention(DIM, HEADS)),
        cross=Residual(nn.Identity(), cross_attention(DIM, HEADS, memory_dim=7)),
    )
    memory = torch.randn(2, 5, 7)
    theirs = {"attn": nn.MultiheadAttention(DIM, HEADS, batch_first=True)}
    theirs["cross"] = nn.MultiheadAttention(DIM, HEADS, kdim=7, vdim=7, batch_first=True)
    weights = block.state_dict()
    with torch.no_grad():
        for name, peer in theirs.items():
            parts = [weights[f"{name}.fn.{part}.proj.weight"] for part in "qkv"]
            if name == "attn":
                peer.in_proj_weight.copy_(torch.cat(parts))
            else:
                for kind, part in zip("qkv", parts, strict=True):
                    getattr(peer, f"{kind}_proj_weight").copy_(part)
            peer.in_proj_bias.copy_(torch.cat([weights[f"{name}.fn.{part}.proj.bias"] for part in "qkv"]))
            peer.out_proj.weight.copy_(weights[f"{name}.fn.out.weight"])
            peer.out_proj.bias.copy_(weights[f"{name}.fn.out.bias"])
        rows, keys = padded_tokens(torch.tensor([4, 6]), 6), padded_tokens(torch.tensor([5, 2]), 5)
        ctx = Ctx(rows, Memory(memory, keys))
        with kernels.use(kernel):
            out, notes = block(X, ctx._replace(want={"attn": heads, "cross": heads}))
            plain = block(X, ctx).x
        result, attn = theirs["attn"](X, X, X, rows.index < 0, average_attn_weights=False)
        y = X + result
        _, cross = theirs["cross"](y, memory, memory, keys.index < 0, average_attn_weights=False)
    assert torch.equal(out, plain)
    for name, wanted in (("attn", attn), ("cross", cross)):
        assert_close(notes[name]["weights"], wanted if heads is True else wanted[:, heads], 1e-6)


def test_only_what_is_wanted_is_computed(monkeypatch):
    calls = []
    weights = kernels.weights
    monkeypatch.setattr(kernels, "weights", lambda q, *rest: calls.append(q.shape[1]) or weights(q, *rest))
    stack = encoder(Residual)
    stack(X)
    stack(X, Ctx(want={0: {"hidden": True}}))
    assert calls == []
    stack(X, Ctx(want={1: {"attn": [2]}}))
    assert calls == [1]


# --- recomputation


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_recomputed_equals_direct(rate):
    """Outputs, notes and gradients to the bit, dropped paths included; and fewer activations are kept."""
    stack = Stack(
        Block(
            attn=Residual(LayerNorm(DIM), attention(DIM, HEADS), DropPath(rate)),
            mlp=Residual(LayerNorm(DIM), Mlp(DIM), DropPath(rate)),
        )
        for _ in range(3)
    )
    found, kept = [], []
    for run_block in (stack.run, recomputed):
        stack.run = run_block
        stack.zero_grad()
        x = torch.randn(8, 6, DIM, generator=torch.Generator().manual_seed(3)).requires_grad_()
        saved = []
        torch.manual_seed(7)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            y, notes = stack(x, Ctx(want={1: {"attn": [0], "hidden": True}}))
        (y.square().sum() + notes[1]["hidden"].sum() + notes[1]["attn"]["weights"].square().sum()).backward()
        kept.append(sum(saved))
        found.append((y, notes[1]["attn"]["weights"], x.grad, *(p.grad for p in stack.parameters())))
    assert_close(*found, 0)
    assert kept[1] < kept[0] / 3


def test_recomputed_without_gradients_runs_each_block_once():
    calls = []

    class Counted(Block):
        def forward(self, x, ctx=Ctx()):
            calls.append(1)
            return super().forward(x, ctx)

    stack = Stack([Counted(mlp=Residual(LayerNorm(DIM), Mlp(DIM)))], run=recomputed)
    with torch.no_grad():
        stack(X)
    assert len(calls) == 1
    stack(X).x.sum().backward()
    assert len(calls) == 3
