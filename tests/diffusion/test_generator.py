"""`sensorium.load` of a diffusion model, and what it draws from Python; classes by name; recipes in bundles."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image
from small import FLOW, GAUSSIAN, LABELS, PIXELS, small_bundle, small_dit

import sensorium
from core.errors import InputError
from core.weights import Bundle, save_bundle
from diffusion.classes import class_index
from diffusion.described import made
from diffusion.generate import Generator
from diffusion.mmdit import MMDiT, MMDiTConfig
from diffusion.process import GVP, Flow, Gaussian
from diffusion.weights import export_denoiser
from sensorium.generators import open_generator

IMAGENET = ("tench, Tinca tinca", "crane", "great white shark, white shark", "crane, lifting device", "coffee mug")


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("tench", 0),
        ("Tinca Tinca", 0),
        ("tench, Tinca tinca", 0),
        ("white-shark", 2),
        ("Coffee_Mug", 4),
        ("lifting device", 3),
        ("3", 3),
        (1, 1),
    ],
)
def test_classes_by_name(asked: str | int, index: int) -> None:
    assert class_index(asked, IMAGENET, 5) == index


@pytest.mark.parametrize(
    ("asked", "names", "said"),
    [
        ("crane", IMAGENET, "class 'crane' is 1 and 3: give the number"),
        ("cofee mug", IMAGENET, "the nearest are 'coffee mug'"),
        ("shark", IMAGENET, "the nearest are 'great white shark, white shark'"),
        ("xylophone", IMAGENET, "or a number from 0 to 4"),
        ("5", IMAGENET, "no class 5: there are 5, 0 to 4"),
        ("tench", (), "no names of classes"),
    ],
)
def test_classes_that_there_are_not(asked: str, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        class_index(asked, names, 5)


def test_from_python(tmp_path: Path) -> None:
    generator = sensorium.load(small_bundle(tmp_path / "model"), precision="float32")
    assert isinstance(generator, Generator)
    assert generator.labels == LABELS
    assert generator.size == (8, 8)
    told = []
    images = generator.generate("trouser", num=3, seed=4, watch=lambda first, state: told.append(state.number))
    assert [image.size for image in images] == [(8, 8)] * 3
    assert told == list(range(6))  # as many as the bundle says
    (again,) = generator.generate(1, seed=6, batch=1)
    assert abs(np.asarray(again).astype(int) - np.asarray(images[2]).astype(int)).max() <= 1
    pairs = generator.generate(["Trouser", "tench", "trouser"], num=2)
    assert len(pairs) == 4  # each class once
    kept = generator.generate("tench", init=images[0], mask=Image.new("L", (8, 8), 255), steps=3, guidance=1.0)
    assert kept[0].size == (8, 8)
    with pytest.raises(InputError, match="give init too"):
        generator.generate("tench", strength=0.5)
    with pytest.raises(InputError, match="no setting 'step': there are steps, guidance"):
        generator.generate("tench", step=5)
    with pytest.raises(InputError, match="a diffusion model has no language; it has precision, reuse, vae"):
        sensorium.load(tmp_path / "model", language="en")


def test_no_guidance_is_the_model_alone(tmp_path: Path) -> None:
    """A closed form: Euler's steps of the model's own velocity."""
    opened = open_generator(small_bundle(tmp_path / "model"))
    generator = opened.generator("float32")
    (drawn,) = generator.draw([2], [9], generator.with_settings(guidance=1.0, steps=4))
    x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(9))[None]
    with torch.no_grad():
        for step in range(4):
            x = x + opened.model(x, torch.tensor([step / 4]), generator.condition([2])) / 4
    expected = ((x + 1) * 127.5).round().clamp(0, 255)[0, 0]
    assert (drawn[..., 0].float() - expected).abs().max() <= 1


def test_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    """Classes, schedule and autoencoder are those of its folder, and the pictures those that diffusers draws."""
    shape = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "norm_num_groups": 8}
    transformer = DiTTransformer2DModel(
        **shape, sample_size=8, in_channels=4, out_channels=8, patch_size=2, num_embeds_ada_norm=1000
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    # published ones repeat the embeddings in every block
    first, second = transformer.transformer_blocks
    second.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.3,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=20, beta_schedule="scaled_linear", beta_start=0.0425, beta_end=0.6, clip_sample=False
    )
    theirs = DiTPipeline(transformer.eval(), vae.eval(), scheduler)
    theirs.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"  # published ones name the classes there
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": {"0": "a", "1": "b", "2": "c"}}))
    theirs.set_progress_bar_config(disable=True)

    generator = sensorium.load(tmp_path, precision="float32")
    assert generator.labels == ("a", "b", "c")
    assert (generator.process.steps, generator.process.variance) == (20, "learned")
    assert generator.size == (16, 16)
    images = generator.generate("c", num=2, seed=5, steps=20, guidance=3.0)
    for seed, image in enumerate(images, 5):
        noise = torch.Generator().manual_seed(seed)
        (expected,) = theirs([2], guidance_scale=3.0, generator=noise, num_inference_steps=20).images
        assert (image.mode, image.size) == ("RGB", (16, 16))
        assert abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max() <= 1
    start, everywhere = Image.new("RGB", (40, 40), "red"), Image.new("L", (40, 40), 255)
    assert generator.generate("c", init=start, mask=everywhere, steps=3)[0].size == (16, 16)


def test_the_file_of_its_authors(tmp_path: Path) -> None:
    """It says neither classes nor process: those are of the release, and the autoencoder is given."""
    model = small_dit(image=(8, 8), channels=4, dim=64, heads=1, classes=1000, out_channels=8)
    export_denoiser(model, tmp_path / "dit.safetensors", layout="facebook-dit")
    few = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    vae = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), **few)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="give the folder of its autoencoder by --vae"):
        open_generator(tmp_path / "dit.safetensors")
    generator = sensorium.load(tmp_path / "dit.safetensors", vae=str(tmp_path / "vae"), precision="float32")
    assert (generator.process.steps, generator.process.schedule, generator.process.variance) == (
        1000,
        "linear",
        "learned",
    )
    assert generator.settings.channels == 3
    assert class_index("coffee mug", generator.labels, 1000) == 504
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 900.0])
    told = generator.condition([1, 504])
    with torch.no_grad():
        torch.testing.assert_close(generator.model(x, t, told), model(x, t, told), atol=1e-4, rtol=1e-4)
    assert generator.generate("coffee mug", steps=2)[0].size == (16, 16)


def test_recipes() -> None:
    assert isinstance(made(GAUSSIAN), Gaussian)
    path = {"class_path": "diffusion.process.path.GVP"}
    flow = made({"class_path": "diffusion.process.flow.Flow", "init_args": {"path": path, "shift": 3.0}})
    assert isinstance(flow, Flow)
    assert isinstance(flow.path, GVP)
    assert flow.shift == 3.0


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"class_path": "subprocess.Popen", "init_args": {"args": "true"}}, "can't be made: expected a class_path in"),
        ({"class_path": "diffusion.process.flow.torch"}, "there is no diffusion.process.flow.torch"),
        ({"class_path": "diffusion.process.flaw.Flow"}, "made by a later version"),
        ({"class_path": "diffusion.process.Flow", "init_args": {"speed": 2}}, "can't be made of speed"),
        ({}, "can't be made"),
    ],
)
def test_recipes_that_are_not_ours(recipe: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(recipe)


def test_a_bundle_that_does_not_say_its_process(tmp_path: Path) -> None:
    model = small_dit()
    save_bundle(tmp_path / "model", model, Bundle("diffusion.DiT", asdict(model.config)))
    with pytest.raises(InputError, match="doesn't say what its model was trained on"):
        sensorium.load(tmp_path / "model")


def test_a_model_of_texts_needs_an_encoder(tmp_path: Path) -> None:
    config = MMDiTConfig(image=(8, 8), channels=4, depth=2, heads=2, head_dim=8, text_dim=16, pooled_dim=8, most=8)
    said = Bundle("diffusion.MMDiT", asdict(config), preprocessing={"latents": PIXELS}, notes={"process": FLOW})
    save_bundle(tmp_path / "model", MMDiT(config), said)
    with pytest.raises(InputError, match="no encoder of texts is known for it"):
        sensorium.load(tmp_path / "model")


def test_weights_have_a_fingerprint(tmp_path: Path) -> None:
    first, second = (
        open_generator(small_bundle(tmp_path / name, process)) for name, process in (("a", FLOW), ("b", GAUSSIAN))
    )
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        next(second.model.parameters()).view(-1)[0] += 1e-3
    assert first.fingerprint() != second.fingerprint()
