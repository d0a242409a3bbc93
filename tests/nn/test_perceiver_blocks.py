"""Latents that read a memory: Perceiver, Flamingo's gate and its resampler, against transformers."""

import pytest
import torch
from peer import assert_close, assert_equal_modules, renamed
from torch import nn

from core.nn import (
    Block,
    CrossAttention,
    Ctx,
    Heads,
    LayerNorm,
    Memory,
    Mlp,
    Repeat,
    Replace,
    Residual,
    RMSNorm,
    Stack,
    SwiGLU,
    Tokens,
    attention,
    cross_attention,
    padded_tokens,
)

DIM, MEMORY = 16, 10
LATENTS, INPUTS = torch.randn(2, 4, DIM), torch.randn(2, 7, MEMORY)


def perceiver():
    module = pytest.importorskip("transformers.models.perceiver.modeling_perceiver")
    config = module.PerceiverConfig(
        d_latents=DIM, d_model=MEMORY, attention_probs_dropout_prob=0.0, num_blocks=3, num_self_attends_per_block=2,
        num_self_attention_heads=2, num_cross_attention_heads=2, self_attention_widening_factor=2,
        cross_attention_widening_factor=1,
    )  # fmt: skip
    return module, config


def names(theirs, ours, branch):
    return {
        f"{theirs}attention.self.layernorm1": f"{ours}{branch}.norm",
        f"{theirs}attention.self.layernorm2": f"{ours}{branch}.fn.pre",
        f"{theirs}attention.self.query": f"{ours}{branch}.fn.q.proj",
        f"{theirs}attention.self.key": f"{ours}{branch}.fn.k.proj",
        f"{theirs}attention.self.value": f"{ours}{branch}.fn.v.proj",
        f"{theirs}attention.output.dense": f"{ours}{branch}.fn.out",
        f"{theirs}layernorm": f"{ours}mlp.norm",
        f"{theirs}mlp.dense1": f"{ours}mlp.fn.fc1",
        f"{theirs}mlp.dense2": f"{ours}mlp.fn.fc2",
    }


def read_block(branch=Residual, keys=DIM, values=DIM, hidden=DIM):
    """Cross-attention whose memory has a norm of its own, and whose heads are as wide as the peer likes."""
    fn = CrossAttention(
        Heads(DIM, 2, keys // 2), Heads(MEMORY, 2, keys // 2), Heads(MEMORY, 2, values // 2), nn.Linear(values, DIM),
        pre=LayerNorm(MEMORY),
    )  # fmt: skip
    return Block(cross=branch(LayerNorm(DIM), fn), mlp=Residual(LayerNorm(DIM), Mlp(DIM, hidden)))


def self_block(hidden):
    return Block(attn=Residual(LayerNorm(DIM), attention(DIM, 2)), mlp=Residual(LayerNorm(DIM), Mlp(DIM, hidden)))


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "output queries"])
@pytest.mark.parametrize(("keys", "values"), [(DIM, DIM), (6, 12)])
@pytest.mark.parametrize("padded", [False, True])
def test_cross_attention_with_a_norm_of_the_memory_equals_perceiver(residual, keys, values, padded):
    module, config = perceiver()
    theirs = module.PerceiverLayer(
        config, is_cross_attention=True, qk_channels=keys, v_channels=values, num_heads=2, q_dim=DIM, kv_dim=MEMORY,
        widening_factor=1, use_query_residual=residual,
    )  # fmt: skip
    ours = read_block(Residual if residual else Replace, keys, values)
    tokens = padded_tokens(torch.tensor([3, 7]), 7) if padded else Tokens()
    mask = (tokens.index < 0)[:, None, None].double() * -1e30 if padded else None
    assert_equal_modules(
        ours, theirs, lambda named: renamed(named, names("", "", "cross")), [LATENTS, INPUTS],
        lambda x, memory: ours(x, Ctx(memory=Memory(memory, tokens))).x,
        lambda x, memory: theirs(x, inputs=memory, inputs_mask=mask)[0],
    )  # fmt: skip


def test_a_stack_used_several_times_equals_the_encoder_of_perceiver():
    module, config = perceiver()
    theirs = module.PerceiverEncoder(config, kv_dim=MEMORY)
    process = Repeat(Stack(self_block(2 * DIM) for _ in range(2)), 3)
    ours = nn.ModuleDict({"read": read_block(keys=MEMORY, values=MEMORY), "process": process})

    def convert(named):
        found = renamed(named, names("cross_attention.", "read.", "cross"))
        for number in range(2):
            found |= renamed(named, names(f"self_attends.{number}.", f"process.stack.{number}.", "attn"))
        return found

    def run(x, memory):
        ctx = Ctx(memory=Memory(memory))
        return ours["process"](ours["read"](x, ctx).x, ctx).x

    assert_equal_modules(
        ours, theirs, convert, [LATENTS, INPUTS], run,
        lambda x, memory: theirs(x, inputs=memory, inputs_mask=None).last_hidden_state,
    )  # fmt: skip
    assert len(ours.state_dict()) == sum(1 for _ in theirs.parameters())  # each weight once, whatever the rounds


def test_each_round_of_a_repeated_stack_has_its_own_notes():
    module, config = perceiver()
    theirs = module.PerceiverEncoder(config, kv_dim=MEMORY).double()
    ours = Repeat(Stack(self_block(2 * DIM) for _ in range(2)), 3).double()
    for number in range(2):
        table = names(f"self_attends.{number}.", f"{number}.", "attn")
        found = renamed(theirs.state_dict(), table)
        ours.stack[number].load_state_dict({name[2:]: value for name, value in found.items()})
    x = LATENTS.double()
    with torch.no_grad():
        notes = ours(x, Ctx(want={1: {0: {"attn": [1]}}, 2: {1: {"hidden": True}}})).notes
        hidden, seen = x, {}
        for turn in range(3):
            for number, layer in enumerate(theirs.self_attends):
                hidden, weights = layer(hidden, output_attentions=True)
                seen[turn, number] = hidden, weights
    assert set(notes) == {1, 2}
    assert_close(notes[1][0]["attn"]["weights"].double(), seen[1, 0][1][:, [1]], 1e-6)
    assert_close(notes[2][1]["hidden"], seen[2, 1][0], 1e-12)


class TanhGate(nn.Module):
    """Flamingo's gate: a learned factor of the branch, zero at the start."""

    def __init__(self, *shape):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return x * self.alpha.tanh()


def idefics(**settings):
    module = pytest.importorskip("transformers.models.idefics.modeling_idefics")
    config = module.IdeficsConfig(
        hidden_size=DIM, num_attention_heads=2, intermediate_size=24, dropout=0.0, attn_implementation="eager",
        vision_config={"embed_dim": MEMORY}, **settings,
    )  # fmt: skip
    return module, config


@pytest.mark.parametrize(("gate", "shape"), [("float", (1,)), ("vector", (1, 1, DIM))])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_gated_cross_attention_equals_idefics(gate, shape, qk_norm):
    """Text looks at its own image only; a token without an image gets nothing from the branch."""
    module, config = idefics(alpha_type=gate, qk_layer_norms=qk_norm)
    theirs = module.IdeficsGatedCrossAttentionLayer(config, layer_idx=0)

    def norm(dim):
        return RMSNorm(dim, eps=config.rms_norm_eps)

    attend = cross_attention(DIM, 2, memory_dim=MEMORY, bias="", norm=norm if qk_norm else None)
    ours = Block(
        cross=Residual(norm(DIM), attend, TanhGate(*shape)), mlp=Residual(norm(DIM), SwiGLU(DIM, 24), TanhGate(*shape))
    )
    table = {
        "cross_attn.q_proj": "cross.fn.q.proj", "cross_attn.k_proj": "cross.fn.k.proj",
        "cross_attn.v_proj": "cross.fn.v.proj", "cross_attn.o_proj": "cross.fn.out",
        "cross_attn.q_layer_norm": "cross.fn.q.norm", "cross_attn.k_layer_norm": "cross.fn.k.norm",
        "input_layernorm": "cross.norm", "post_attention_layernorm": "mlp.norm",
        "alpha_cross_attn": "cross.post.alpha", "alpha_dense": "mlp.post.alpha",
        "mlp.gate_proj": "mlp.fn.gate", "mlp.up_proj": "mlp.fn.up", "mlp.down_proj": "mlp.fn.down",
    }  # fmt: skip
    text = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2]])
    images = torch.tensor([[1, 1, 1, 2, 2, 2, 2]])
    seen = text[:, :, None] == images[:, None]
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None].double()
    assert_equal_modules(
        ours, theirs, lambda named: renamed(named, table), [torch.randn(2, 6, DIM), INPUTS],
        lambda x, memory: ours(x, Ctx(Tokens(segment=text), Memory(memory, Tokens(segment=images)))).x,
        lambda x, memory: theirs(
            x, image_hidden_states=memory, image_attention_mask=mask, cross_attention_gate=seen.any(-1)
        ),
        tolerance=1e-5,  # their norms and softmax are float32
    )  # fmt: skip


class WithMyself(nn.Module):
    """Cross-attention over the memory and the latents themselves (Flamingo's resampler)."""

    def __init__(self, pre, fn):
        super().__init__()
        self.pre, self.fn = pre, fn

    def forward(self, x, ctx):
        return self.fn(x, ctx._replace(memory=Memory(torch.cat([self.pre(ctx.memory.x), x], 1))))


class Resampler(nn.Module):
    """Learned latents that read a memory, two blocks deep."""

    def __init__(self, norm):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, DIM))
        self.blocks = Stack(self.block(norm) for _ in range(2))
        self.norm = LayerNorm(DIM)

    def block(self, norm):
        fn = CrossAttention(
            Heads(DIM, 2, 6, bias=False, norm=norm(6) if norm else None),
            Heads(DIM, 2, 6, bias=False, norm=norm(6) if norm else None),
            Heads(DIM, 2, 6, bias=False),
            nn.Linear(12, DIM, bias=False),
        )
        return Block(
            cross=Residual(LayerNorm(DIM), WithMyself(LayerNorm(DIM), fn)),
            mlp=Residual(LayerNorm(DIM), Mlp(DIM, act=nn.ReLU(), bias=False)),
        )

    def forward(self, memory):
        return self.norm(self.blocks(self.latents.expand(len(memory), -1, -1), Ctx(memory=Memory(memory))).x)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_resampler_equals_idefics(qk_norm):
    _, config = idefics()
    module = pytest.importorskip("transformers.models.idefics.perceiver")
    config.vision_config.embed_dim = DIM
    config.perceiver_config.qk_layer_norms_perceiver = qk_norm
    theirs = module.IdeficsPerceiverResampler(config, DIM, 2, 2, 6, 4)
    parts = {
        "0.latents_layer_norm": "cross.norm", "0.context_layer_norm": "cross.fn.pre",
        "0.q_proj": "cross.fn.fn.q.proj", "0.k_proj": "cross.fn.fn.k.proj", "0.v_proj": "cross.fn.fn.v.proj",
        "0.q_layer_norm": "cross.fn.fn.q.norm", "0.k_layer_norm": "cross.fn.fn.k.norm",
        "0.output_proj": "cross.fn.fn.out",
        "1.ln": "mlp.norm", "1.fc": "mlp.fn.fc1", "1.c_proj": "mlp.fn.fc2",
    }  # fmt: skip
    table = {f"blocks.{n}.{old}": f"blocks.{n}.{new}" for n in range(2) for old, new in parts.items()}
    table |= {"latents": "latents", "layer_norm": "norm"}
    ours = Resampler(LayerNorm if qk_norm else None)
    memory = torch.randn(2, 7, DIM)
    assert_equal_modules(ours, theirs, lambda named: renamed(named, table), [memory], ours, theirs)
