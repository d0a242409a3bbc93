"""Vision-language models from their configs: what a bundle, a recipe or published weights say."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import nn

from core.nn import LayerNorm
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.resampler import Resampler
from multimodal.vlm.eye import Eye
from multimodal.vlm.gated import GatedConfig, GatedVisionLanguageModel
from multimodal.vlm.model import VisionLanguageModel
from multimodal.vlm.projector import MlpProjector, ShuffleProjector
from multimodal.vlm.vocabulary import ExtendedEmbedding, ExtendedHead
from vision.vit import ViT, ViTConfig

__all__ = ["Gated", "GatedModelConfig", "Projected", "ProjectedConfig", "ResamplerConfig"]


@dataclass(frozen=True)
class ProjectedConfig:
    """The shape of a model that has pictures among its tokens.

    Attributes:
        eye: the ViT.
        decoder: the language model.
        image_token: that stands for one feature.
        layers, prefix: what of the ViT is shown, see :class:`multimodal.vlm.eye.Eye`.
        projector: two layers (LLaVA), or squares of features and a matrix (Idefics3).
        projector_bias: whether the two layers have a bias.
        scale: side of the squares.
    """

    eye: ViTConfig
    decoder: DecoderConfig
    image_token: int
    layers: tuple[int, ...] | None = None
    prefix: bool = False
    projector: Literal["mlp", "shuffle"] = "mlp"
    projector_bias: bool = True
    scale: int = 2


@dataclass(frozen=True)
class ResamplerConfig:
    """The shape of Idefics-1's resampler; see :class:`multimodal.resampler.Resampler`.

    Attributes:
        depth, heads, head_dim, latents: of the blocks.
        act: of the feed-forward branch.
        qk_norm: whether queries and keys are normalised head by head.
    """

    depth: int = 6
    heads: int = 16
    head_dim: int = 96
    latents: int = 64
    act: Literal["relu", "gelu"] = "relu"
    qk_norm: bool = True


@dataclass(frozen=True)
class GatedModelConfig:
    """The shape of a model that looks at pictures between its blocks; as it stands, Idefics-9b's but for the towers.

    Attributes:
        eye: the ViT, of which all tokens are looked at, not normalised.
        decoder: the language model; its vocabulary has the added tokens too.
        image_token: that stands for a picture.
        gates: the branches that look.
        resampler: None if features are looked at as they are.
        added: tokens at the end of the vocabulary whose weights are apart.
    """

    eye: ViTConfig
    decoder: DecoderConfig
    image_token: int
    gates: GatedConfig = field(default_factory=GatedConfig)
    resampler: ResamplerConfig | None = field(default_factory=ResamplerConfig)
    added: int = 0


class Projected(VisionLanguageModel):
    """A :class:`VisionLanguageModel` of a ViT, built from its config.

    Args:
        config: its shape.
        recompute: activation checkpointing in both towers.
    """

    def __init__(self, config: ProjectedConfig, *, recompute: bool = False) -> None:
        eye = Eye(ViT(config.eye, recompute=recompute), config.layers, config.prefix)
        dim = config.decoder.dim
        projector: nn.Module
        if config.projector == "mlp":
            projector = MlpProjector(eye.dim, dim, bias=config.projector_bias)
        else:
            projector = ShuffleProjector(eye.dim, dim, scale=config.scale)
        super().__init__(eye, projector, Decoder(config.decoder, recompute=recompute), config.image_token)
        self.config = config

    @property
    def tokens_of_a_picture(self) -> int:
        """How many tokens a picture of the eye's own size becomes."""
        assert isinstance(self.eye, Eye)
        assert isinstance(self.projector, MlpProjector | ShuffleProjector)
        return self.projector.count(self.eye.count(*self.config.eye.image))


class Gated(GatedVisionLanguageModel):
    """A :class:`GatedVisionLanguageModel` of a ViT, built from its config; arguments as in :class:`Projected`."""

    def __init__(self, config: GatedModelConfig, *, recompute: bool = False) -> None:
        eye = Eye(ViT(config.eye, recompute=recompute), (-1,), prefix=True)
        decoder = Decoder(config.decoder, recompute=recompute)
        if config.added:
            vocab, dim = config.decoder.vocab - config.added, config.decoder.dim
            decoder.tokens = ExtendedEmbedding(vocab, config.added, dim)  # type: ignore[assignment]
            decoder.head = ExtendedHead(vocab, config.added, dim)  # type: ignore[assignment]
        super().__init__(eye, _resampler(config.resampler, eye.dim), decoder, config.image_token, config.gates)
        self.config = config


def _resampler(config: ResamplerConfig | None, dim: int) -> nn.Module:
    if config is None:
        return nn.Identity()
    return Resampler(
        dim,
        config.depth,
        config.heads,
        config.latents,
        head_dim=config.head_dim,
        act=nn.ReLU if config.act == "relu" else nn.GELU,
        norm=partial(LayerNorm) if config.qk_norm else None,
    )
