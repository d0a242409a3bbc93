"""DiT-S/2 against diffusers: 50 guided steps of a flow, exact and fast, and a training step in fp32 and bf16.

python -m benchmarks.dit [--repeats 9] [--threads 2]

The weights are random, with velocities of the size of the noise; in an untrained model blocks do nothing. A flow,
because with random predictions of noise a Gaussian process runs away. Our entries are what `quick` makes; the peer is
asked as in its pipelines, for both answers in one call.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.harness import Case, Contender, main, options
from core.train.master import MasterAdamW
from diffusion.condition import Labels
from diffusion.dit import DiT
from diffusion.guidance import Guidance
from diffusion.names import POSITIONS
from diffusion.names import diffusers as names
from diffusion.noise import Noise
from diffusion.presets import dit
from diffusion.process import Flow
from diffusion.solvers import Euler
from diffusion.speed.caching import Reuse
from diffusion.speed.quick import quick

STEPS = 50
SCALE = 4.0
SHAPE = (4, 32, 32)
BATCH = 8  # of a training step
BOUND = 0.1


def pair() -> tuple[DiT, nn.Module]:
    """Ours and diffusers' with the same random weights."""
    torch.manual_seed(0)
    ours = dit("DiT-S/2", shift=1, mlp_eps=1e-5, out_channels=4)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, 0, 0.02)
    nn.init.normal_(ours.head.proj.weight, 0, 0.05)
    heads = {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 12}
    theirs: Any = diffusers.DiTTransformer2DModel(**heads, out_channels=4)
    tensors = names(ours.config).export(ours.state_dict())
    del tensors[POSITIONS]
    first = "transformer_blocks.0.norm1.emb."
    embeddings = {name.removeprefix(first): tensor for name, tensor in tensors.items() if name.startswith(first)}
    for i in range(1, ours.config.depth):
        tensors |= {f"transformer_blocks.{i}.norm1.emb.{name}": tensor for name, tensor in embeddings.items()}
    theirs.load_state_dict(tensors)
    return ours.eval(), theirs.eval()


def sampled(model: Any) -> Callable[[], Tensor]:
    """One picture of class 207 in our loop."""
    flow = Flow()
    solver = Euler(flow, STEPS)
    labels = Labels(torch.tensor([207]))

    def run() -> Tensor:
        noise = Noise([0], SHAPE)
        x = noise()
        with torch.inference_mode():
            model.prepare(solver.times, labels)
            denoise = Guidance(SCALE).denoiser(model, labels, flow)
            for state in solver(denoise, x, noise):
                x = state.x
        return x

    return run


def sampled_by_peer(model: nn.Module, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """The same picture: both answers in one call, guidance, Euler's step."""
    marks = Euler(Flow(), STEPS).marks
    labels = torch.tensor([207, 1000])

    def run() -> Tensor:
        x = Noise([0], SHAPE)()
        with torch.inference_mode():
            for here, there in pairwise(marks):
                answer = model(torch.cat([x, x]).to(dtype), torch.full((2,), here), labels).sample.float()
                better, worse = answer.chunk(2)
                x = x + (there - here) * (worse + SCALE * (better - worse))
        return x

    return run


def sampling() -> Case:
    """Fifty guided steps of one picture: exact, in bf16, as by default, and with steps used again."""
    ours, theirs = pair()
    half = copy.deepcopy(theirs).bfloat16()
    return Case(
        f"DiT-S/2, {STEPS} guided Euler steps",
        [
            Contender("sensorium fp32", sampled(quick(ours, "float32")), 1e-4),
            Contender("diffusers fp32", sampled_by_peer(theirs)),
            Contender("diffusers bf16", sampled_by_peer(half, torch.bfloat16)),
            Contender("sensorium default", sampled(quick(ours))),
            Contender(f"sensorium default, reuse {BOUND}", sampled(quick(ours, reuse=Reuse(BOUND)))),
        ],
        unit="ms a picture",
        tolerance=0.05,
    )


def stepper(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    optimizer: type[torch.optim.AdamW] = torch.optim.AdamW,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
) -> Callable[[], Tensor]:
    """One training step (forward, backward, AdamW); returns the loss and the norm of the gradients."""
    model = copy.deepcopy(model).to(dtype)
    make = torch.Generator().manual_seed(1)
    x, t = torch.randn(BATCH, *SHAPE, generator=make).to(dtype), torch.linspace(0, 999, BATCH).round()
    labels = torch.arange(BATCH)
    parameters = [p for p in model.parameters() if p.requires_grad]
    chosen = optimizer(parameters, lr=1e-9, weight_decay=0.0, fused=True)

    def step() -> Tensor:
        with torch.enable_grad():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                found = loss(model, x, t, labels)
            chosen.zero_grad()
            found.backward()
        chosen.step()
        gradient = model.get_parameter(PATCHES[type(model).__name__]).grad
        assert gradient is not None
        return torch.stack([found.detach().float(), gradient.float().norm()])

    return step


PATCHES = {"DiT": "patch.proj.weight", "DiTTransformer2DModel": "pos_embed.proj.weight"}


def of_ours(model: nn.Module, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The mean square of the answer."""
    return model(x, t, Labels(labels)).float().square().mean()


def of_peer(model: nn.Module, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The mean square of the answer."""
    return model(x, t, labels).sample.float().square().mean()


def training(contenders: Sequence[Contender], kind: str, tolerance: float) -> Case:
    """Forward, backward and optimizer."""
    title = f"DiT-S/2 training step, {BATCH} latents, {kind}"
    return Case(title, contenders, unit="latents/s", items=BATCH, tolerance=tolerance)


def training_step() -> Case:
    """In float32."""
    ours, theirs = pair()
    return training(
        [Contender("sensorium fp32", stepper(ours, of_ours)), Contender("diffusers fp32", stepper(theirs, of_peer))],
        "fp32",
        1e-3,
    )


def training_step_bf16() -> Case:
    """Ours keeps float32 copies of its bf16 weights; diffusers in fp32, and under autocast."""
    ours, theirs = pair()
    return training(
        [
            Contender("sensorium bf16, float32 copies", stepper(ours, of_ours, MasterAdamW, torch.bfloat16)),
            Contender("diffusers fp32", stepper(theirs, of_peer)),
            Contender("diffusers autocast", stepper(theirs, of_peer, autocast=True)),
        ],
        "bf16",
        0.05,
    )


if __name__ == "__main__":
    main("dit", [sampling, training_step, training_step_bf16], options(__doc__))
