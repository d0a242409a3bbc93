"""Perceiver (Jaegle et al. 2021, arXiv:2103.03206) and Perceiver IO (arXiv:2107.14795).

A few latents read an input of any kind and size, work among themselves, and answer queries of any kind and number. The
cost of depth does not depend on the size of the input.
"""

from typing import Any

import torch
from torch import nn

from core.nn import Ctx, Memory, Out, Repeat, Stack, Tokens, direct, recomputed
from core.nn.init import lecun_normal
from multimodal.perceiver.config import PerceiverConfig
from multimodal.perceiver.inputs import Given, make_input
from multimodal.perceiver.layers import read_block, self_block
from multimodal.perceiver.outputs import Points, make_output

__all__ = ["Perceiver"]


class Perceiver(nn.Module):
    """One model for images, videos, sounds, texts, and several of them at once.

    Args:
        config: its shape, with its input and output.
        recompute: activation checkpointing of the blocks over the latents: less memory in training for more time.

    Raises:
        ValueError: if the heads don't divide the widths.
    """

    def __init__(self, config: PerceiverConfig, *, recompute: bool = False) -> None:
        super().__init__()
        self.config = config
        self.input = make_input(config.input)
        self.latents = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.latents, config.dim), std=0.02))
        width: int = self.input.dim
        qk = config.qk_dim or (width if config.read_width == "memory" else config.dim)

        def read() -> nn.Module:
            return read_block(
                config.dim, width, config.read_heads, qk, config.v_dim, ratio=config.read_ratio,
                residual=config.residual,
            )  # fmt: skip

        def blocks() -> Stack:
            made = (
                self_block(config.dim, config.heads, config.qk_dim, config.v_dim, ratio=config.ratio)
                for _ in range(config.depth)
            )
            return Stack(made, run=recomputed if recompute else direct)

        def process() -> Repeat:
            return Repeat(blocks(), config.rounds)

        stages = [read(), process()]
        if config.reads > 1 and config.shared:
            stages.append(Repeat(Stack([read(), process()]), config.reads - 1))
        elif config.reads > 1:
            stages += [make() for _ in range(config.reads - 1) for make in (read, process)]
        self.stages = Stack(stages)
        self.output = make_output(config, width)
        lecun_normal(self)

    def forward(self, inputs: Any, tokens: Tokens = Tokens(), points: Points | None = None) -> Any:
        """Read, think, answer.

        Args:
            inputs: what the input adapter takes: ids (B, L), a signal (B, C, *size), or a dictionary of several.
            tokens: of what is read, (B or 1, S); those with index -1 are not looked at.
            points: for a :class:`SeveralOutput`, the points that are wanted, by part.

        Returns:
            What the output adapter gives: logits (B, classes) or (B, L, vocab), values (B, *grid, values), or a
            dictionary of several.

        Raises:
            ValueError: if the inputs don't fit the adapter.
        """
        given = self.input(inputs)
        return self.output(self.think(given, tokens).x, given, points)

    def features(self, inputs: Any, tokens: Tokens = Tokens(), want: Any = None) -> Out:
        """Return the latents (B, latents, dim) of inputs as :meth:`forward` takes them, and what was wanted.

        ``want`` names stages: ``{0: {"cross": True}}`` is what each latent looks at in the input, and
        ``{1: {round: {block: {"attn": True}}}}`` what the latents look at among themselves.
        """
        return self.think(self.input(inputs), tokens, want)

    def think(self, given: Given, tokens: Tokens = Tokens(), want: Any = None) -> Out:
        """Return the latents (B, latents, dim) for what the input adapter made; ``output`` may be asked several times.

        A video is better given out part by part: its points are many.
        """
        latents = self.latents.to(given.x.dtype).expand(len(given.x), -1, -1)
        return self.stages(latents, Ctx(memory=Memory(given.x, tokens), want=want))
