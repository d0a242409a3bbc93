"""What is denoised, and how it becomes a picture: pixels, or the latents of an autoencoder.

Pictures are (B, C, H, W) in [-1, 1].
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from core.errors import InputError
from core.weights.files import digest, read_json

__all__ = ["AutoEncoder", "Latents", "Pixels"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Latents(ABC):
    """From pictures to what is denoised, and back.

    Encoding has two parts, so that the first and costly one can be done once for all: ``moments`` is what the encoder
    says of a picture, ``drawn`` and ``expected`` make latents of that.

    Attributes:
        channels: of a picture.
        factor: pixels of a picture, along each side, for one of its latents.
        clip: the largest value that latents of a picture can have; None if nothing is known of it.
    """

    channels: int
    factor: int
    clip: float | None

    @abstractmethod
    def moments(self, images: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to what is known of their latents (B, M, h, w), float32."""

    @abstractmethod
    def drawn(self, moments: Tensor) -> Tensor:
        """Map moments (B, M, h, w) to latents (B, c, h, w) to train on, perhaps with PyTorch's generator."""

    @abstractmethod
    def expected(self, moments: Tensor) -> Tensor:
        """Map moments (B, M, h, w) to their mean latents (B, c, h, w)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Map latents (B, c, h, w) to pictures (B, C, H, W), not clamped."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What moments depend on, as plain values: kept ones may be used where this is the same."""

    def encode(self, images: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to their mean latents (B, c, h, w)."""
        return self.expected(self.moments(images))


class Pixels(Latents):
    """No autoencoder: small pictures as they are, less their mean and over their deviation.

    Args:
        mean, std: of the pictures' values in [-1, 1].
        channels: of a picture.
    """

    factor = 1

    def __init__(self, mean: float = 0.0, std: float = 1.0, channels: int = 3) -> None:
        if std <= 0:
            raise InputError(f"std {std} of pixels: expected a number above 0")
        self.mean, self.std, self.channels = mean, std, channels
        self.clip = (1 + abs(mean)) / std

    def moments(self, images: Tensor) -> Tensor:
        """See :class:`Latents`: the pictures."""
        return images.float()

    def drawn(self, moments: Tensor) -> Tensor:
        """See :class:`Latents`."""
        return self.expected(moments)

    def expected(self, moments: Tensor) -> Tensor:
        """See :class:`Latents`."""
        return (moments - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """See :class:`Latents`."""
        return latents * self.std + self.mean

    def identity(self) -> dict[str, Any]:
        """See :class:`Latents`; mean and deviation come later."""
        return {"kind": "pixels"}


class AutoEncoder(Latents):
    """A variational autoencoder of diffusers, from its folder: ``AutoencoderKL`` or ``AutoencoderTiny``.

    It is no part of the model that is trained, nor of its checkpoints. It goes to the device of what it is given.

    Args:
        path: folder with ``config.json`` and weights in safetensors; or that of a pipeline, with such a folder ``vae``.
        precision: what it computes in.

    Raises:
        InputError: if there is no such autoencoder.
    """

    clip = None

    def __init__(self, path: str, precision: Literal["float32", "bfloat16", "float16"] = "float32") -> None:
        folder = Path(path).expanduser()
        self.folder = folder / "vae" if (folder / "vae").is_dir() else folder
        if not (self.folder / "config.json").is_file():
            raise InputError(f"{self.folder}: no autoencoder; expected a folder with config.json and its weights")
        self.config = read_json(self.folder / "config.json")
        self.precision, self.dtype = precision, DTYPES[precision]
        self.vae = _opened(self.folder, self.config, self.dtype)
        self.variational = self.config["_class_name"] == "AutoencoderKL"
        self.channels = int(self.vae.config.in_channels)
        self.factor = int(2 ** (len(self.vae.config.block_out_channels) - 1))
        # of the tiny ones, which are made so that their latents need neither, diffusers' files say 0 and 1
        self.shift = float(self.config.get("shift_factor") or 0.0)
        self.scale = float(self.config.get("scaling_factor") or 1.0)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """See :class:`Latents`: mean and log-variance (B, 2 c, h, w), of a tiny one the latents alone.

        Raises:
            InputError: if the sides of the pictures are no multiples of ``factor``.
        """
        height, width = images.shape[-2:]
        if height % self.factor or width % self.factor:
            raise InputError(f"pictures of {height} x {width}: the autoencoder needs multiples of {self.factor}")
        found = self._on(images.device).encode(images.to(self.dtype))
        kept: Tensor = found.latent_dist.parameters if self.variational else found.latents
        # in the order of its axes, as from a file: what is drawn "like" it would else be another noise
        return kept.float().contiguous()

    def drawn(self, moments: Tensor) -> Tensor:
        """See :class:`Latents`."""
        if not self.variational:
            return self.expected(moments)
        mean, log_variance = moments.chunk(2, 1)
        noise = torch.randn(mean.shape, device=mean.device)
        return self._scaled(mean + (log_variance.clamp(-30, 20) / 2).exp() * noise)

    def expected(self, moments: Tensor) -> Tensor:
        """See :class:`Latents`."""
        return self._scaled(moments.chunk(2, 1)[0] if self.variational else moments)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See :class:`Latents`."""
        x = (latents / self.scale + self.shift).to(self.dtype)
        decoded: Tensor = self._on(latents.device).decode(x).sample
        return decoded.float()

    def identity(self) -> dict[str, Any]:
        """See :class:`Latents`: the weights, and what they compute in; not where they lie."""
        kind = str(self.config["_class_name"])
        return {"kind": kind, "weights": digest(self.folder), "precision": self.precision}

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self.shift) * self.scale

    def _on(self, device: torch.device) -> Any:
        self.vae = self.vae.to(device)
        return self.vae


def _opened(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    import diffusers  # only those who have an autoencoder need it

    name = str(config.get("_class_name"))
    if name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise InputError(f"{folder}: holds {name}; expected AutoencoderKL or AutoencoderTiny")
    try:
        vae = getattr(diffusers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder}: its autoencoder can't be read: {' '.join(str(error).split())[:300]}") from error
    return vae.eval().requires_grad_(False)
