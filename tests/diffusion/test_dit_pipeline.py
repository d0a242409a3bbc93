"""Whole samplings equal those of diffusers' DiTPipeline: model, guidance and solver together."""

from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn

from diffusion.condition import Labels
from diffusion.guidance import Guidance
from diffusion.process import Gaussian
from diffusion.solvers import DDIM, Diffusers
from diffusion.weights import load_denoiser

LABELS = [3, 998, 207]


@pytest.fixture(scope="module")
def transformer():
    """Of random weights, with a learned variance; its blocks share the embeddings, as those of the release do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8
        )
        for parameter in peer.parameters():
            nn.init.normal_(parameter, 0.0, 0.08)
    for block in peer.transformer_blocks:
        block.norm1.emb.load_state_dict(peer.transformer_blocks[0].norm1.emb.state_dict())
    return peer.eval()


def theirs(transformer, scheduler, scale: float) -> torch.Tensor:
    """The latents that diffusers' pipeline hands to its autoencoder."""
    vae = diffusers.AutoencoderKL(latent_channels=4, block_out_channels=(8,), norm_num_groups=4, scaling_factor=1.0)
    seen: list[torch.Tensor] = []
    decode = vae.decode
    vae.decode = lambda latents, *more, **others: (seen.append(latents), decode(latents, *more, **others))[1]
    pipeline = diffusers.DiTPipeline(transformer, vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in range(len(LABELS))]
    pipeline(LABELS, guidance_scale=scale, generator=generator, num_inference_steps=10, output_type="pt")
    return seen[0]


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(
    ("scheduler", "make"),
    [
        (diffusers.DDIMScheduler(clip_sample=False), lambda process: DDIM(process, 10, spacing="leading")),
        (diffusers.DDIMScheduler(clip_sample=False), lambda process: Diffusers(process, "DDIMScheduler", 10)),
        (
            diffusers.DPMSolverMultistepScheduler(),
            lambda process: Diffusers(process, "DPMSolverMultistepScheduler", 10),
        ),
    ],
    ids=["ddim", "adapted-ddim", "dpm-solver++"],
)
def test_latents_are_those_of_the_pipeline(transformer, tmp_path: Path, scheduler, make, scale: float) -> None:
    process = Gaussian(1000, variance="learned")
    expected = theirs(transformer, scheduler, scale)
    transformer.save_pretrained(tmp_path)
    model, _ = load_denoiser(tmp_path)
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in range(len(LABELS))])
    denoise = Guidance(scale).denoiser(model.eval(), Labels(torch.tensor(LABELS)), process)
    with torch.inference_mode():
        *_, state = make(process)(denoise, noise, lambda: torch.randn_like(noise))
    assert expected.std() > 0.1
    torch.testing.assert_close(state.x, expected, rtol=1e-4, atol=1e-4)
