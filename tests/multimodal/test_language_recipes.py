"""The recipes of language models, made small, run two steps on small data of all formats, and their results write."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tongues import (
    CONFIGS,
    EYE,
    IMAGE,
    NAMES,
    QUICK,
    SHAPE,
    VOCAB,
    chats,
    fit,
    logged,
    released,
    seen,
    small,
    write_lines,
    write_parquet,
)

import sensorium
from core.nn.nf4 import from_nf4, to_nf4
from core.weights import Bundle, from_plain, save_bundle
from multimodal.decoder_weights import load_decoder
from multimodal.two_towers import TwoTowers, TwoTowersConfig
from sensorium.cli import main

TWO = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.hold_out=0.25", "--data.batch_size=4"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published language model."""
    return released(tmp_path_factory.mktemp("base"))


def write(command: str, said: str, model: Path, capsys: Any, *more: str) -> str:
    """What a model writes by the command line, which is what `sensorium.load` writes."""
    capsys.readouterr()
    assert main([command, said, "-m", str(model), "-n", "5", *more]) == 0
    return str(capsys.readouterr().out)


def start(folder: Path) -> dict[str, torch.Tensor]:
    """A published model's weights by our names."""
    return load_decoder(folder)[0].state_dict()


def test_pretraining_on_texts_of_all_formats(tmp_path: Path, capsys: Any) -> None:
    texts = [" ".join(f"what is a {name} and a {other}?" for other in NAMES) for name in NAMES]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(texts[0])
    (tmp_path / "texts" / "b.md").write_text(texts[1])
    write_lines(tmp_path / "texts" / "c.jsonl", [{"text": text} for text in texts[2:4]])
    write_parquet(tmp_path / "texts" / "d.parquet", [{"text": text} for text in texts])
    options = [
        "-c",
        str(CONFIGS / "pretrain_smollm2.yaml"),
        "--data.root",
        str(tmp_path / "texts"),
        "--data.end=<|end|>",
    ]
    options += ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=1.0", "--data.context=16"]
    folder = fit(tmp_path / "runs", *options, *QUICK, *TWO, "--trainer.max_steps=2", *small("", SHAPE))
    found = logged(folder)
    assert len(found["train/loss"]) == 2
    assert found["val/perplexity"][-1] == pytest.approx(float(torch.tensor(found["val/loss"][-1]).exp()), rel=1e-5)
    trained = folder / "last.ckpt"
    said = write("complete", "what is a", trained, capsys)
    model = sensorium.load(trained)
    assert model.generate(["what is a"], max_new_tokens=5)[0].text + "\n" == said
    assert model.tokenizer.decode(model.tokenizer.stops[:1], special=True) == "<|end|>"
    assert main(["export", str(trained), "-o", str(tmp_path / "bundle")]) == 0
    assert write("complete", "what is a", tmp_path / "bundle", capsys) == said
    assert main(["export", str(trained), "-f", "huggingface", "-o", str(tmp_path / "model.safetensors")]) == 0


def test_fine_tuning_on_chats(base: Path, tmp_path: Path, capsys: Any) -> None:
    write_lines(tmp_path / "train.jsonl", chats())
    write_parquet(tmp_path / "val.parquet", chats(6))
    options = ["-c", str(CONFIGS / "chat_tune.yaml"), "--data.root", str(tmp_path), "--data.context=128"]
    folder = fit(tmp_path / "runs", *options, *QUICK, *TWO, *small("", SHAPE), f"--model.initial.source={base}")
    assert {"val/loss", "val/exact"} <= logged(folder).keys()
    said = write("chat", "what is it?", folder / "last.ckpt", capsys)
    found = sensorium.load(folder / "last.ckpt").chat([{"role": "user", "content": "what is it?"}], max_new_tokens=5)
    assert found.text + "\n" == said


@pytest.mark.parametrize("name", ["chat_lora", "chat_qlora"])
def test_adapters_of_chats_then_preferences(name: str, base: Path, tmp_path: Path, capsys: Any) -> None:
    write_parquet(tmp_path / "train-00000.parquet", chats())
    options = ["-c", str(CONFIGS / f"{name}.yaml"), "--data.root", str(tmp_path), "--data.context=128"]
    options += ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=1.0", "--trainer.max_steps=2"]
    shape = small("", SHAPE | {"tied": "true"})
    folder = fit(tmp_path / "runs", *options, *QUICK, *TWO, *shape, f"--model.initial.source={base}")
    weights = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    before = start(base)
    frozen = [part for part in weights if part.removeprefix("model.") in before]
    assert frozen
    assert all(torch.equal(weights[part], before[part.removeprefix("model.")]) for part in frozen)
    assert any("lora_B" in part and bool(weights[part].any()) for part in weights)
    # merged: what the layer was, rounded to four bits or not, and the product of the adapters
    q, rank = "blocks.0.attn.fn.q.proj.", {"chat_lora": 16, "chat_qlora": 64}[name]
    was = before[q + "weight"]
    if name == "chat_qlora":
        codes, scales = to_nf4(was)
        was = from_nf4(codes, scales, was.shape, torch.float32)
    a, b = (weights[f"model.{q}lora_{side}.default.weight"] for side in "AB")
    model = sensorium.load(folder / "last.ckpt", precision="float32")
    torch.testing.assert_close(model.decoder.state_dict()[q + "weight"], was + 16 / rank * b @ a, rtol=1e-5, atol=1e-6)
    write("chat", "what is it?", folder / "last.ckpt", capsys)

    pairs = tmp_path / "pairs"
    pairs.mkdir()
    rows: list[dict[str, Any]] = [
        {"prompt": f"what is it {n}?", "chosen": f"a {NAMES[n % 5]}", "rejected": f"no {'no ' * (n % 3)}"}
        for n in range(12)
    ]
    told = {"role": "user", "content": "what is it?"}  # as UltraFeedback has them: the whole chat, and the prompt
    rows += [
        {"prompt": "what is it?", "chosen": [told, {"role": "assistant", "content": "a bag"}],
         "rejected": [told, {"role": "assistant", "content": "none of these"}]}
    ] * 6  # fmt: skip
    write_lines(pairs / "train.jsonl", rows)
    options = ["-c", str(CONFIGS / "dpo.yaml"), "--data.root", str(pairs), "--data.context=128", *QUICK, *TWO, *shape]
    options += [f"--model.initial.source={folder / 'last.ckpt'}", *(["--model.adapt=null"] if "q" in name else [])]
    preferred = fit(tmp_path / "runs", *options)
    found = logged(preferred)
    # at first the model is what it began as, and its loss that of a coin (equation 7 with a margin of 0)
    assert found["train/loss"][0] == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-5)
    assert {"val/loss", "val/accuracy", "val/margin"} <= found.keys()
    held = torch.load(preferred / "last.ckpt", weights_only=True)["state_dict"]
    assert any(part.startswith("reference.") for part in held) == ("q" in name)
    write("chat", "what is it?", preferred / "last.ckpt", capsys)


def test_llavas_two_stages(base: Path, tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    write_lines(tmp_path / "train.jsonl", seen(tmp_path))
    eye = {"patch": 8, "dim": 16, "depth": 2, "heads": 2, "image": [32, 32], "classes": 0, "patch_bias": False}
    eye |= {"pre_norm": True, "eps": 1e-5, "mlp": "quick gelu"}
    towers = {"image": eye, "text": {"context": 8, "dim": 16, "depth": 1, "heads": 2, "embed": 16}}
    clip = TwoTowers(from_plain(TwoTowersConfig, towers))
    save_bundle(tmp_path / "clip", clip, Bundle("multimodal.TwoTowers", towers))
    shape = [*small("decoder.", SHAPE | {"vocab": VOCAB + 2}), *small("eye.", EYE), *small("", {"image_token": IMAGE})]
    picture = "--data.init_args.pictures.init_args"
    options = ["--data.root", str(tmp_path), "--data.context=128", *QUICK, *TWO, *shape]
    options += [f"{picture}.count=4", f"{picture}.preprocess.init_args.size=16"]

    begin = [f"--model.initial.decoder={base}", f"--model.initial.eye={tmp_path / 'clip'}"]
    aligned = fit(tmp_path / "runs", "-c", str(CONFIGS / "llava_align.yaml"), *options, *begin)
    weights = torch.load(aligned / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in start(base).items():
        assert torch.equal(weights[f"model.decoder.{name}"][: len(tensor)], tensor), name
    rows = weights["model.decoder.tokens.weight"]
    torch.testing.assert_close(rows[VOCAB:], rows[:VOCAB].mean(0).expand(2, -1))
    for name, tensor in clip.image.state_dict().items():
        if name != "positions.table":  # those are resized
            assert torch.equal(weights[f"model.eye.tower.{name}"], tensor), name

    begin = [f"--model.initial.source={aligned / 'last.ckpt'}"]
    tuned = fit(tmp_path / "runs", "-c", str(CONFIGS / "llava_tune.yaml"), *options, *begin)
    after = torch.load(tuned / "last.ckpt", weights_only=True)["state_dict"]
    changed = {name.split(".")[1] for name in after if not torch.equal(after[name], weights[name])}
    assert changed == {"projector", "decoder"}
    image = str(tmp_path / "0_0.png")
    said = write("chat", "what is it?", tuned / "last.ckpt", capsys, "-i", image)
    assert main(["export", str(tuned / "last.ckpt"), "-o", str(tmp_path / "bundle")]) == 0
    assert write("chat", "what is it?", tmp_path / "bundle", capsys, "-i", image) == said
