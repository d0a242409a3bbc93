"""Perceiver AR: against its equations written out, causality, caches, generation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn import Ctx, Growing, Static, Tokens
from multimodal.decoder_step import DecoderStep
from multimodal.perceiver import PerceiverAR, PerceiverARConfig

CONFIG = PerceiverARConfig(vocab=30, latents=4, dim=16, depth=2, heads=2, hidden=24)
IDS = torch.randint(0, 30, (2, 11), generator=torch.Generator().manual_seed(0))


def make(**changes: int) -> PerceiverAR:
    torch.manual_seed(0)
    model = PerceiverAR(PerceiverARConfig(**{**vars(CONFIG), **changes})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def normed(layer: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def heads_of(x: Tensor, place: Tensor | None = None) -> Tensor:
    """(L, D) to two heads (2, L, D / 2), turned as complex numbers whose parts are the halves of a head."""
    x = x.unflatten(-1, (2, -1)).transpose(0, 1)
    if place is None:
        return x
    half = x.shape[-1] // 2
    angle = place[:, None].double() * 10_000.0 ** (-torch.arange(half).double() / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def attended(fn: nn.Module, query: Tensor, memory: Tensor, asked: Tensor, given: Tensor) -> Tensor:
    q, k = heads_of(linear(fn.q.proj, query), asked), heads_of(linear(fn.k.proj, memory), given)
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(given[None] > asked[:, None], float("-inf"))
    out = scores.softmax(-1) @ heads_of(linear(fn.v.proj, memory))
    return linear(fn.out, out.transpose(0, 1).flatten(1))


def written_out(model: PerceiverAR, ids: Tensor, latents: int) -> Tensor:
    """Section 3.1 of the paper for one text (L,): logits (latents, vocab)."""
    x = model.tokens.weight[ids]
    place = torch.arange(len(ids))
    y, own = x[-latents:], place[-latents:]
    block = model.read[0]
    y = y + attended(block.cross.fn, normed(block.cross.norm, y), normed(block.cross.fn.pre, x), own, place)
    for number in range(-1, len(model.blocks)):
        if number >= 0:
            block = model.blocks[number]
            z = normed(block.attn.norm, y)
            y = y + attended(block.attn.fn, z, z, own, own)
        y = y + linear(block.mlp.fn.fc2, F.gelu(linear(block.mlp.fn.fc1, normed(block.mlp.norm, y))))
    return normed(model.norm, y) @ model.tokens.weight.T


@pytest.mark.parametrize("latents", [1, 4, 11, 20])
def test_equals_its_equations(latents: int) -> None:
    model = make(latents=latents)
    with torch.no_grad():
        found = model(IDS).x
        for row, ids in zip(found, IDS, strict=True):
            torch.testing.assert_close(row, written_out(model, ids, min(latents, 11)), atol=1e-6, rtol=1e-6)


def test_a_latent_sees_all_before_it_and_nothing_behind_it() -> None:
    model = make()
    x = model.embed(IDS).detach().requires_grad_()
    states = model.states(x).x
    for latent in range(4):
        (grad,) = torch.autograd.grad(states[:, latent].square().sum(), x, retain_graph=True)
        seen = grad.abs().sum(-1) > 0
        assert seen[:, : 8 + latent].all()
        assert not seen[:, 8 + latent :].any()


@pytest.mark.parametrize("slot", [Growing, lambda: Static(32)], ids=["growing", "static"])
def test_decoding_with_a_cache_equals_doing_without(slot) -> None:
    model = make()
    with torch.no_grad():
        cache = model.cache(slot)
        model(IDS[:, :7], Ctx(cache=cache))  # tokens 3 to 6 are latents
        for end in range(8, 12):
            found = model(IDS[:, end - 1 : end], Ctx(cache=cache)).x
            wanted = model.logits(model.states(IDS[:, :end], latents=end - 3).x)[:, -1:]
            torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)
        cache.truncate(9)
        found = model(IDS[:, 9:11], Ctx(cache=cache)).x
        wanted = model.logits(model.states(IDS, latents=8).x)[:, -2:]
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


def test_padding_on_the_left_changes_nothing() -> None:
    model = make()
    index = torch.stack([torch.arange(-5, 6).clamp(min=-1), torch.arange(11)])
    ids = torch.stack([torch.cat([torch.zeros(5, dtype=torch.long), IDS[0, :6]]), IDS[1]])
    with torch.no_grad():
        found = model(ids, Ctx(Tokens(index=index))).x
        torch.testing.assert_close(found[:1], model(IDS[:1, :6]).x)
        torch.testing.assert_close(found[1:], model(IDS[1:]).x)


def test_the_loops_of_generation_can_call_it() -> None:
    model = make()
    with torch.no_grad():
        step = DecoderStep(model)
        torch.testing.assert_close(step(IDS), model(IDS).x[:, -1:])
        step(IDS[:, :2])
        step.rewind(11)
        found = step(IDS[:, 3:4])
        wanted = model.logits(model.states(torch.cat([IDS, IDS[:, 3:4]], 1), latents=5).x)[:, -1:]
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="divide the width 18"):
        PerceiverARConfig(dim=18, heads=2)
