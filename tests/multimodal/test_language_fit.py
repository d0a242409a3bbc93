"""Language models by `sensorium fit`: resumed is not stopped, two processes are as one, bad input is told in a line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_contrastive_processes import curve, weights
from tongues import ASSET, IMAGE, NAMES, VOCAB, chats, seen, write_lines

from sensorium.cli import main

ROOT = Path(__file__).parents[2]
DECODER = {"vocab": VOCAB, "context": 128, "dim": 16, "depth": 2, "heads": 2, "kv_heads": 1, "hidden": 24}
EYE = {"image": [16, 16], "patch": 8, "dim": 16, "depth": 1, "heads": 2, "classes": 0}
EXPERTS = {"count": 4, "active": 2, "hidden": 16}
AT = {"filename": "at-{step}", "every_n_train_steps": 3, "save_top_k": -1}


def spec(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def decoder(**changes: Any) -> dict[str, Any]:
    return spec("multimodal.decoder.Decoder", config=DECODER | changes)


def seeing(**changes: Any) -> dict[str, Any]:
    eye = EYE | {"cls_token": False, "pool": "normed mean"}
    return spec(
        "multimodal.vlm.config.Projected", config={"eye": eye, "decoder": DECODER, "image_token": IMAGE} | changes
    )


def whole(count: int = 4) -> dict[str, Any]:
    return spec("multimodal.tasks.seeing.Whole", count=count, preprocess=spec("vision.augment.Preprocess", size=16))


def task(model: dict[str, Any], kind: str = "language.LanguageModeling", **more: Any) -> dict[str, Any]:
    return spec(f"multimodal.tasks.{kind}", model=model, optim={"lr": 0.01}, schedule={"warmup": 0.2}, **more)


def data(kind: str, root: Path, **more: Any) -> dict[str, Any]:
    usual = {
        "root": str(root),
        "tokenizer": str(ASSET),
        "context": 128,
        "batch_size": 4,
        "hold_out": 0.25,
        "workers": 0,
    }
    return spec(f"multimodal.tasks.{kind}", **usual | more)


def of_texts(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of experts, with an average."""
    (root / "texts.txt").write_text(" ".join(f"what is a {a} and a {b}?" for a in NAMES for b in NAMES))
    return task(decoder(experts=EXPERTS), ema=0.9), data("text_data.TextData", root, context=12, end="<|end|>")


def of_chats(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """With answers of several numbers and lengths, in batches of as many tokens."""
    write_lines(root / "train.jsonl", chats())
    return task(decoder()), data("chat_data.ChatData", root, batch_tokens=400, batch_multiple=2)


def of_pictures(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """None, one or two in a chat."""
    write_lines(root / "train.jsonl", seen(root, 20))
    return task(seeing()), data("chat_data.ChatData", root, pictures=whole())


def of_crops(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pictures in crops."""
    write_lines(root / "train.jsonl", seen(root, 12))
    crops = spec("multimodal.tasks.seeing.Cropped", side=16, longest=32, count=1)
    return task(seeing(projector="shuffle")), data(
        "chat_data.ChatData", root, pictures=crops, context=600, batch_size=2
    )


def of_preferences(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """By adapters that drop out."""
    rows = [{"prompt": "what is it?", "chosen": f"a {name}", "rejected": f"no {name}"} for name in NAMES * 4]
    write_lines(root / "train.jsonl", rows)
    adapt = spec("core.train.adapt.LoRA", rank=2, dropout=0.3, targets=["q.proj", "fn.up"])
    return task(decoder(), "preferences.Preferences", adapt=adapt), data("preferences.PreferenceData", root)


def of_preferences_about_pictures(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """With a frozen copy."""
    shows = [row["image"] for row in seen(root, 20, without=False)]
    rows: list[dict[str, Any]] = [
        {"image": image, "prompt": "<image>" * (1 if isinstance(image, str) else len(image)) + "what is it?"}
        | {"chosen": "a bag", "rejected": "no coat"}
        for image in shows
    ]
    write_lines(root / "train.jsonl", rows)
    return task(seeing(), "preferences.Preferences"), data("preferences.PreferenceData", root, pictures=whole())


def made_up(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows to copy."""
    copying = spec("multimodal.tasks.made_data.Copy", vocab=20, length=9)
    rows = spec("multimodal.tasks.made_data.MadeData", make=copying, count=20, held=8, batch_size=4)
    return task(decoder(vocab=20)), rows


def options(folder: Path, made: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    """The command line of a training in a folder."""
    trainer: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "log_every_n_steps": 1}
    trainer |= {"enable_model_summary": False, "callbacks": [spec("lightning.pytorch.callbacks.ModelCheckpoint", **AT)]}
    said = {"runs": str(folder / "runs"), "trainer": trainer, "model": made[0], "data": made[1]}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(said))
    return ["fit", "-c", str(path)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "kind", [of_texts, of_chats, of_pictures, of_crops, of_preferences, of_preferences_about_pictures, made_up]
)
def test_resumed_is_not_stopped(kind: Any, root: Path, tmp_path: Path) -> None:
    given = options(tmp_path, kind(root))
    assert main([*given, "--name", "whole"]) == 0
    one = tmp_path / "runs" / "whole" / "version_0"
    assert main(["fit", "--ckpt_path", str(next(one.rglob("at-step=3.ckpt"))), "--name", "resumed"]) == 0
    other = tmp_path / "runs" / "resumed" / "version_0"
    rows = curve(one, 3)
    assert len(rows) > 3
    assert curve(other, 3) == rows
    logged = {name for row in rows for name in row}
    assert {"train/loss", "val/loss"} <= logged
    assert ({"train/balance", "train/z"} <= logged) == (kind is of_texts)
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [of_chats, of_pictures])
def test_two_processes_learn_what_one_does(kind: Any, root: Path, tmp_path: Path) -> None:
    given = options(tmp_path, kind(root))
    assert main([*given, "--name", "one"]) == 0
    pair = [*given, "--name", "two", "--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "sensorium", *pair], env=environment, cwd=ROOT, check=True, timeout=300)
    one, two = (tmp_path / "runs" / name / "version_0" for name in ("one", "two"))
    assert len(curve(one)) == len(curve(two)) > 8
    for alone, shared in zip(curve(one), curve(two), strict=True):
        assert shared == pytest.approx(alone, rel=1e-4, abs=1e-5)
    expected = weights(one)
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_cannot_be_read_is_listed(root: Path, tmp_path: Path) -> None:
    """A chat without an answer, one that is too long, one with a picture: the others are trained on."""
    asked = {"role": "user", "content": "what is it?"}
    rows: list[dict[str, Any]] = [*chats(12), {"messages": [asked]}]
    rows += [{"messages": [asked, {"role": "assistant", "content": "a bag " * 200}]}, *seen(root, 1)]
    write_lines(root / "train.jsonl", rows)
    write_lines(root / "val.jsonl", chats(4))
    given = options(tmp_path, (task(decoder()), data("chat_data.ChatData", root, batch_size=15)))
    assert main(given) == 0
    listed = (tmp_path / "runs" / "small" / "version_0" / "bad_chats.txt").read_text().splitlines()
    found = {line.partition("\t")[0]: line for line in listed}
    assert found.keys() == {"train.jsonl: line 13", "train.jsonl: line 14", "train.jsonl: line 15"}
    for line, word in (("13", "nobody answers"), ("14", "the context is 128"), ("15", "`pictures`")):
        assert word in found[f"train.jsonl: line {line}"]


def of_a_large_tokenizer(root: Path) -> Any:
    return task(decoder(vocab=100)), of_chats(root)[1]


def of_another_image_token(root: Path) -> Any:
    return task(seeing(image_token=7)), of_pictures(root)[1]


def of_pictures_for_the_blind(root: Path) -> Any:
    return task(decoder()), of_pictures(root)[1]


def of_pictures_unannounced(root: Path) -> Any:
    write_lines(root / "train.jsonl", seen(root, 8, without=False))
    return task(decoder()), data("chat_data.ChatData", root)


def of_an_empty_text(root: Path) -> Any:
    (root / "texts.txt").write_text("")
    return task(decoder()), data("text_data.TextData", root, end="<|end|>")


def of_texts_without_an_end(root: Path) -> Any:
    (root / "texts.txt").write_text("a bag")
    return task(decoder()), data("text_data.TextData", root)


def of_another_column(root: Path) -> Any:
    write_lines(root / "texts.jsonl", [{"words": "a bag"}])
    return task(decoder()), data("text_data.TextData", root, end="<|end|>")


def of_better_answers_only(root: Path) -> Any:
    write_lines(root / "train.jsonl", [{"prompt": "what is it?", "chosen": "a bag"}] * 8)
    return task(decoder(), "preferences.Preferences"), data("preferences.PreferenceData", root)


def of_preferences_without_a_chat(root: Path) -> Any:
    write_lines(root / "train.jsonl", [{"prompt": "what is it?", "rejected": "a bag"}] * 8)
    return task(decoder(), "preferences.Preferences"), data("preferences.PreferenceData", root)


def of_no_json(root: Path) -> Any:
    (root / "train.jsonl").write_text("what is it? a bag\n")
    return task(decoder()), data("chat_data.ChatData", root)


def of_no_folder(root: Path) -> Any:
    return task(decoder()), data("chat_data.ChatData", root / "nowhere")


def of_a_model_of_another_shape(root: Path) -> Any:
    config = {"model_type": "llama", "vocab_size": 9}
    (root / "config.json").write_text(json.dumps(config))
    initial = spec("multimodal.tasks.initial.Released", source=str(root))
    return task(decoder(), initial=initial), of_chats(root)[1]


def of_parts_that_are_not_there(root: Path) -> Any:
    initial = spec("multimodal.tasks.initial.Parts", decoder=str(root))
    return task(decoder(), initial=initial), of_chats(root)[1]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (of_a_large_tokenizer, "give it vocab 391 or more"),
        (of_another_image_token, "the model's 7: give both the same"),
        (of_pictures_for_the_blind, "a Decoder can't see"),
        (of_pictures_unannounced, "give it `pictures`"),
        (of_an_empty_text, "tokens are fewer than a row"),
        (of_texts_without_an_end, "--data.end"),
        (of_another_column, "--data.column"),
        (of_better_answers_only, "expected an answer in chosen, and one in rejected"),
        (of_preferences_without_a_chat, "has no chat"),
        (of_no_json, "line 1 is not JSON"),
        (of_no_folder, "no such file or folder"),
        (of_a_model_of_another_shape, "lacks hidden_size"),
        (of_parts_that_are_not_there, "has no eye"),
    ],
)
def test_bad_input_is_told_in_one_line(made: Any, words: str, root: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([*options(tmp_path, made(root)), "--trainer.max_epochs=1"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list((tmp_path / "runs").rglob("*.ckpt"))
