"""Compare one of our modules with a peer's: outputs, and gradients of inputs and weights.

``convert`` maps the peer's tensors, by name, to ours. It is a linear rearrangement, so that it carries the weights over
and the gradients too.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Named = dict[str, Tensor]


def shuffle(module: nn.Module) -> None:
    """Random weights everywhere: what starts at zero or one would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.5 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn_like(parameter) * spread + (parameter.ndim < 2))


def assert_close(ours, theirs, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def tensors(x) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else [t for t in x if t is not None]


def assert_equal_modules(
    ours: nn.Module,
    theirs: nn.Module,
    convert: Callable[[Named], Named],
    inputs: Sequence[Tensor],
    run_ours: Callable,
    run_theirs: Callable,
    *,
    tolerance: float = 1e-11,
) -> None:
    """Copy random weights over and compare in float64; the runs map the inputs to a tensor or a tuple of tensors."""
    ours.double()
    theirs.double()
    torch.manual_seed(0)  # how many numbers a library draws while it is imported must not change the weights
    shuffle(theirs)
    ours.load_state_dict(convert(dict(theirs.named_parameters())))
    found = []
    for module, run in ((ours, run_ours), (theirs, run_theirs)):
        module.zero_grad()
        given = [t.detach().double().requires_grad_() for t in inputs]
        results = tensors(run(*given))
        sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in results).backward()
        found.append((results, [t.grad for t in given]))
    assert_close(*found, tolerance)
    gradient = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in theirs.named_parameters()}
    wanted = convert(gradient)
    for name, parameter in ours.named_parameters():
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(
            grad, wanted[name], atol=tolerance, rtol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def split_qkv(named: Named, fused: str, prefix: str) -> Named:
    """The three projections of a fused one."""
    out = {}
    for kind in ("weight", "bias"):
        if f"{fused}.{kind}" in named:
            for part, value in zip("qkv", named[f"{fused}.{kind}"].chunk(3), strict=True):
                out[f"{prefix}.{part}.proj.{kind}"] = value
    return out


def renamed(named: Named, names: dict[str, str]) -> Named:
    """Tensors whose names start with a key, under the value instead."""
    return {
        new + name[len(old) :]: value
        for name, value in named.items()
        for old, new in names.items()
        if name == old or name.startswith(old + ".")
    }
