"""Texts as what a denoiser is told: the tower's own answers, training that doesn't move it, and what doesn't fit."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from told_pictures import CLIP, ROOT, small_mmdit
from torch import Tensor

from core.errors import InputError
from core.train.cli import main
from core.train.rebuild import rebuild
from diffusion.condition import Text
from diffusion.dit import DiT, DiTConfig
from diffusion.latents import Pixels
from diffusion.process import Flow
from diffusion.tasks.diffuse import Diffuse
from diffusion.tasks.samples import subjects
from multimodal.load import load_towers
from multimodal.prompts import PromptEncoder, open_prompts
from multimodal.tasks.told import Told
from multimodal.text import TextConfig, TextTower
from multimodal.tokenizer import ClipTokenizer

CONFIG = ROOT / "configs" / "diffusion" / "mmdit_fashion_mnist.yaml"
TEXTS = ["a sneaker", "a photo of an ankle boot on a black background"]


def test_prompts_are_the_towers_own_answers() -> None:
    prompts = open_prompts(CLIP)
    towers, _ = load_towers(CLIP)
    said = prompts(TEXTS)
    ids = prompts.tokenizer(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(said.pooled, towers.encode_text(ids, normalize=False))
        whole = towers.text.features(ids).x
    assert said.lengths is not None
    for row, length in enumerate(said.lengths.tolist()):
        assert int(ids[row, length - 1]) == prompts.tokenizer.eot
        torch.testing.assert_close(said.states[row, :length], whole[row, :length])
    assert said.states.shape[1] == int(said.lengths.max())


def test_a_tower_that_sees_padding_hands_it_out() -> None:
    tower = TextTower(TextConfig(vocab=20, context=6, dim=16, depth=1, heads=2, causal=False, pool="last", embed=8))
    encoder = PromptEncoder(tower.eval())
    ids = torch.randint(0, 20, (3, 6))
    said = encoder(ids)
    assert said.lengths is None
    torch.testing.assert_close(said.states, tower.features(ids).x)
    torch.testing.assert_close(said.pooled, tower(ids))
    assert (encoder.text_dim, encoder.pooled_dim) == (16, 8)


def test_what_is_longer_in_the_batch_changes_nothing() -> None:
    prompts, model = open_prompts(CLIP), small_mmdit()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        both = model(x, t, prompts(TEXTS))
        alone = model(x[:1], t[:1], prompts(TEXTS[:1]))
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-5)


def task(drop: float = 0.0) -> Diffuse:
    made = Diffuse(small_mmdit(), Flow(), Pixels(channels=1), drop=drop, text=Told(str(CLIP)))
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made


def batch(rows: int) -> dict[str, Tensor]:
    ids = open_prompts(CLIP).tokenizer([TEXTS[row % 2] for row in range(rows)])
    return {"image": torch.rand(rows, 1, 8, 8) * 2 - 1, "text": ids, "index": torch.arange(rows)}


def test_the_loss_is_the_processs_and_does_not_reach_the_tower() -> None:
    learning, given = task().train(), batch(4)
    assert not learning.text.training  # type: ignore[union-attr]
    torch.manual_seed(3)
    loss = learning.training_step(given, 0)
    loss.backward()
    torch.manual_seed(3)
    s, noise = torch.rand(4)[:, None, None, None], torch.randn(4, 1, 8, 8)
    prompts = open_prompts(CLIP)
    with torch.no_grad():
        said = learning.model((1 - s) * given["image"] + s * noise, 1 - s.flatten(), prompts(TEXTS * 2))
    torch.testing.assert_close(loss, ((said - (given["image"] - noise)) ** 2).mean())
    assert all(weight.grad is None and not weight.requires_grad for weight in learning.text.parameters())  # type: ignore[union-attr]
    assert learning.model.text.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_a_share_of_the_texts_is_silence() -> None:
    learning, log = task(drop=0.25), []
    forward = learning.model.forward

    def told(x: Tensor, t: Tensor, condition: Text) -> Tensor:
        log.append(condition)
        return forward(x, t, condition)

    learning.model.forward = told
    with torch.no_grad():
        learning.training_step(batch(1000), 0)
        silent = log[0].pooled.abs().sum(1) == 0
        assert 0.2 < float(silent.double().mean()) < 0.3
        assert torch.equal(log[0].states.flatten(1).abs().sum(1) == 0, silent)
        learning._measure(batch(10), "val")
    assert (log[1].pooled.abs().sum(1) > 0).all()


class Data:
    """What a task asks of its data."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


def test_what_does_not_fit(tmp_path: Path) -> None:
    prompts, told, model = open_prompts(CLIP), Told(str(CLIP)), small_mmdit()
    told.check(model, Data(prompts.tokenizer))
    with pytest.raises(InputError, match="text_dim is 96, the model's 32: change the model's config"):
        told.check(small_mmdit(text_dim=32), Data(prompts.tokenizer))
    with pytest.raises(InputError, match="the data has no texts"):
        told.check(model, object())
    with pytest.raises(InputError, match="context 77 of the data: the text tower reads 24"):
        told.check(model, Data(ClipTokenizer()))
    with pytest.raises(InputError, match="isn't that of the text tower"):
        told.check(model, Data(ClipTokenizer(20)))
    with pytest.raises(InputError, match="MMDiT is told texts: say by text what encodes them"):
        Diffuse(model, Flow())
    with pytest.raises(InputError, match="DiT is told classes: leave text out"):
        Diffuse(DiT(DiTConfig(image=(8, 8), channels=1, patch=4, dim=16, depth=1, heads=2)), Flow(), text=told)
    with pytest.raises(InputError, match="nothing"):
        open_prompts(tmp_path / "nothing")
    with pytest.raises(InputError, match="the prompt ' ' is empty"):
        prompts(["a coat", " "])
    with pytest.raises(InputError, match="the model reads 24: shorten it"):
        prompts(["a very long text " * 20])
    with pytest.raises(InputError, match="a model that is told no texts"):
        subjects(Diffuse(DiT(DiTConfig(image=(8, 8), channels=1, patch=4, dim=16, depth=1, heads=2)), Flow()), ["a"])
    with pytest.raises(InputError, match="names no classes: give prompts"):
        subjects(task())


def test_the_recipe_trains_measures_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on after one epoch ends with the weights of one that wasn't stopped."""
    monkeypatch.chdir(ROOT)
    config = "--model.model.init_args.config"
    each = "{filename: 'end-{epoch}', every_n_epochs: 1, save_top_k: -1}"
    kept = f"{{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {each}}}"
    options = {
        "--data.batch_size": "16", "--trainer.max_epochs": "2", "--trainer.limit_train_batches": "2",
        "--trainer.limit_val_batches": "1", "--trainer.accelerator": "cpu", "--trainer.precision": "32-true",
        "--trainer.callbacks": f"[{kept}]", f"{config}.head_dim": "16", f"{config}.depth": "2",
    }  # fmt: skip
    fit = ["fit", "-c", str(CONFIG), "--runs", str(tmp_path), *itertools.chain(*options.items())]
    main([*fit, "--name", "whole"])
    (stopped,) = (tmp_path / "whole").rglob("end-epoch=0.ckpt")
    main([*fit, "--name", "parts", "--ckpt_path", str(stopped)])
    ends = [tmp_path / name / "version_0" / "last.ckpt" for name in ("whole", "parts")]
    said, resumed = (torch.load(path, weights_only=True)["state_dict"] for path in ends)
    assert all(torch.equal(said[name], weight) for name, weight in resumed.items())
    again = rebuild(ends[0])
    assert isinstance(again, Diffuse)
    assert again.class_names[7] == "Sneaker"
    tower = load_towers(CLIP)[0].text.state_dict()
    for name, weight in tower.items():
        assert torch.equal(said[f"text.model.tower.{name}"], weight)
