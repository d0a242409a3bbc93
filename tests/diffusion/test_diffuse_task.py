"""The task: its loss is the process's, conditions are dropped, validation repeats itself, the recipes run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from core.errors import InputError
from core.train.adapt import LoRA
from core.train.arguments import restrict_imports
from core.train.cli import main
from core.train.rebuild import rebuild
from core.train.task import Task
from core.train.teacher import Frozen
from core.weights import Bundle, save_bundle
from diffusion.condition import Labels
from diffusion.dit import DiT, DiTConfig
from diffusion.latents import Pixels
from diffusion.process import Flow, Gaussian
from diffusion.tasks.diffuse import Diffuse
from diffusion.tasks.initial import Pretrained
from diffusion.tasks.repa import Repa

CONFIGS = Path(__file__).parents[2] / "configs" / "diffusion"
SMALL = DiTConfig(image=(8, 8), channels=1, patch=4, dim=16, depth=2, heads=2, classes=3)


def batch(rows: int = 4) -> dict[str, Tensor]:
    images = torch.rand(rows, 1, 8, 8) * 2 - 1
    return {"image": images, "label": torch.arange(rows) % 3, "index": torch.arange(rows)}


def told(model: DiT, log: list[Tensor]) -> None:
    """Write down the classes that a model is told."""
    model.label.register_forward_pre_hook(lambda module, given: log.append(given[0].index.clone()))  # type: ignore[union-attr]


def quiet(task: Diffuse) -> Diffuse:
    """A task without a trainer."""
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    task.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return task


def test_the_loss_is_that_of_the_process_on_normalised_pixels() -> None:
    task = quiet(Diffuse(DiT(SMALL), Flow(), Pixels(mean=-0.5, std=0.5, channels=1), drop=0.0))
    nn.init.normal_(task.model.head.proj.weight)  # a new model says zero
    given = batch()
    torch.manual_seed(3)
    loss = task.training_step(given, 0)
    torch.manual_seed(3)
    s, noise = torch.rand(4)[:, None, None, None], torch.randn(4, 1, 8, 8)
    x0 = (given["image"] + 0.5) / 0.5
    said = task.model((1 - s) * x0 + s * noise, 1 - s.flatten(), Labels(given["label"]))
    torch.testing.assert_close(loss, ((said - (x0 - noise)) ** 2).mean())


def test_a_share_of_the_conditions_is_dropped() -> None:
    log: list[Tensor] = []
    task = quiet(Diffuse(DiT(SMALL), Flow(), Pixels(channels=1), drop=0.25))
    told(task.model, log)  # type: ignore[arg-type]
    given = batch(4000)
    task.training_step(given, 0)
    silent = log[0] == 3
    assert 0.22 < float(silent.double().mean()) < 0.28
    assert torch.equal(log[0][~silent], given["label"][~silent])
    task._measure(given, "val")
    assert torch.equal(log[1], given["label"])


def test_validation_is_free_of_the_random_state_and_of_the_batch() -> None:
    task = quiet(Diffuse(DiT(SMALL), Gaussian(), Pixels(channels=1)))
    given = batch(6)
    state = torch.get_rng_state()
    task.validation_step(given, 0)
    whole = task.means["val"].compute()
    assert torch.equal(torch.get_rng_state(), state)
    task.means["val"].reset()
    torch.randn(7)
    for rows in (slice(0, 4), slice(4, 6)):
        task.validation_step({name: value[rows] for name, value in given.items()}, 0)
    torch.testing.assert_close(task.means["val"].compute(), whole)


class Patches(Frozen[Any]):
    """An encoder whose features are the pixels of each patch of 4 x 4."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.unfold(images, 4, stride=4).mT


def test_repa_is_one_minus_the_cosine_and_teaches_the_first_blocks() -> None:
    repa = Repa(Patches(nn.Identity()), dim=16, width=16, depth=1, weight=2.0, hidden=8, mean=(0.5,), std=(0.5,))
    task = quiet(Diffuse(DiT(SMALL), Flow(), Pixels(channels=1), drop=0.0, repa=repa))
    given = batch()
    hidden = torch.randn(4, 4, 16)
    mine, theirs = repa.projection(hidden), nn.functional.unfold(given["image"], 4, stride=4).mT
    cosine = (mine * theirs).sum(-1) / mine.norm(dim=-1) / theirs.norm(dim=-1)
    torch.testing.assert_close(repa({0: {"hidden": hidden}}, given), 1 - cosine.mean(1))
    task.training_step(given, 0).backward()
    assert task.model.patch.proj.weight.grad.abs().sum() > 0  # a new model's head alone would give it nothing
    with pytest.raises(InputError, match="needs pictures"):
        repa({}, {"moments": given["image"]})
    with pytest.raises(InputError, match="set side and width"):
        repa({0: {"hidden": torch.randn(4, 9, 16)}}, given)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_makes_its_task(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# sensorium fit -c configs/diffusion/{path.name}")
    restrict_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    content = yaml.safe_load(text)["model"]
    content["init_args"].pop("latents", None)  # an autoencoder that isn't here
    with torch.device("meta"):
        task = parser.instantiate_classes(parser.parse_object({"model": content})).model
    assert isinstance(task, Diffuse)


@pytest.mark.parametrize("name", ["sit_fashion_mnist", "dit_fashion_mnist"])
def test_the_small_recipes_train(name: str, tmp_path: Path) -> None:
    config = "--model.model.init_args.config"
    main(
        [
            "fit", "-c", str(CONFIGS / f"{name}.yaml"), "--runs", str(tmp_path), "--data.batch_size", "16",
            "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu",
            "--trainer.callbacks", "[]", f"{config}.dim", "32", f"{config}.depth", "1", f"{config}.heads", "2",
        ]
    )  # fmt: skip
    task = rebuild(next(tmp_path.rglob("last.ckpt")))
    assert isinstance(task, Diffuse)
    assert task.class_names[7] == "Sneaker"


def test_lora_begins_with_a_checkpoint_and_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    start = DiT(SMALL)
    nn.init.normal_(start.head.proj.weight)
    save_bundle(tmp_path / "start", start, Bundle("diffusion.DiT", asdict(SMALL)))
    model = DiT(replace(SMALL, classes=5))
    table = model.label.table.weight.clone()  # type: ignore[union-attr]
    Pretrained(str(tmp_path / "start"))(model)
    assert torch.equal(model.head.proj.weight, start.head.proj.weight)
    assert torch.equal(model.label.table.weight, table)  # type: ignore[union-attr]
    LoRA(rank=2, also=("head", "label"))(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "label.table.weight" in trained
    assert "patch.proj.weight" not in trained
    with pytest.raises(InputError, match=r"the DiT in .* has another shape than the model"):
        Pretrained(str(tmp_path / "start"))(DiT(replace(SMALL, depth=1)))


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="drop 1"):
        Diffuse(DiT(SMALL), Flow(), drop=1.0)
