"""Pixels and autoencoders: there and back, real weights on a photograph, what is drawn and what is expected."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from core.errors import InputError
from diffusion.latents import AutoEncoder, Pixels


@pytest.fixture(scope="module")
def small_kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AutoencoderKL of factor 2, with a shift and a scale."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=3,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    vae.save_pretrained(folder / "vae")
    return folder


def test_pixels_there_and_back() -> None:
    images = torch.rand(2, 1, 5, 4) * 2 - 1
    pixels = Pixels(mean=-0.4, std=0.7, channels=1)
    latents = pixels.encode(images)
    torch.testing.assert_close(latents, (images + 0.4) / 0.7)
    torch.testing.assert_close(pixels.decode(latents), images)
    assert float(latents.abs().max()) <= pixels.clip
    with pytest.raises(InputError, match="above 0"):
        Pixels(std=0)


@pytest.mark.parametrize(("name", "least"), [("taesd", 21.5), ("taef1", 25.5)])
def test_tiny_autoencoders_reconstruct_a_photograph(assets: Path, name: str, least: float) -> None:
    picture = (
        Image.open(assets / "images" / "astronaut.png").convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)
    )
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    latents = AutoEncoder(str(assets / "weights" / name))
    encoded = latents.encode(images)
    assert encoded.shape[2:] == (256 // latents.factor, 256 // latents.factor)
    assert _psnr(latents.decode(encoded).clamp(-1, 1), images) >= least


def _psnr(x: Tensor, y: Tensor) -> float:
    return float(10 * torch.log10(4 / (x.double() - y.double()).square().mean()))


def test_an_autoencoder_of_diffusers_in_its_pipeline(small_kl: Path) -> None:
    latents = AutoEncoder(str(small_kl))
    peer = AutoencoderKL.from_pretrained(small_kl / "vae").eval()
    images = torch.rand(2, 3, 8, 12) * 2 - 1
    with torch.no_grad():
        said = peer.encode(images).latent_dist
        expected = (said.mean - 0.25) * 0.5
        torch.testing.assert_close(latents.encode(images), expected)
        torch.testing.assert_close(latents.decode(expected), peer.decode(expected / 0.5 + 0.25).sample)
    moments = latents.moments(images)
    torch.manual_seed(1)
    drawn = latents.drawn(moments)
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, (said.mean + said.std * torch.randn(said.mean.shape) - 0.25) * 0.5)
    assert (latents.factor, latents.channels, latents.clip) == (2, 3, None)


def test_what_is_no_autoencoder(tmp_path: Path, small_kl: Path) -> None:
    with pytest.raises(InputError, match="no autoencoder; expected a folder"):
        AutoEncoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(InputError, match="holds UNet2DModel; expected AutoencoderKL"):
        AutoEncoder(str(tmp_path))
    with pytest.raises(InputError, match="multiples of 2"):
        AutoEncoder(str(small_kl)).moments(torch.zeros(1, 3, 8, 9))
