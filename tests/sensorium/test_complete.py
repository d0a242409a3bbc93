"""``sensorium complete`` and `sensorium.load` with a language model."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import sensorium
from sensorium.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "multimodal"))

from decoder_peers import reference, tokenizer_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    place = tmp_path_factory.mktemp("model")
    reference("llama", std=0.4, vocab_size=320).save_pretrained(place)
    tokenizer_files(place)
    return place


def test_texts(folder: Path, capsys: Any) -> None:
    model = sensorium.load(folder, precision="float32")
    wanted = model.generate(["the cat"], max_new_tokens=12)[0]
    given = ["complete", "the cat", "-m", str(folder), "-n", "12"]
    for more in ([], ["--precision", "float32"], ["--draft", str(folder)]):
        assert main([*given, *more]) == 0
        assert capsys.readouterr().out == wanted.text + "\n"
    assert main([*given, "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"text": wanted.text, "tokens": wanted.tokens, "finish": "length"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-m", "{folder}", "--beams", "2", "-t", "1"], "temperature"),
        (["-m", "{folder}", "-n", "5000"], "context of 128"),
        (["-m", "{folder}", "--top-p", "3"], "p must be"),
        (["-m", "no/where/at/all"], "no file, folder or model"),
        ([], "--model"),
    ],
)
def test_what_cannot_be(folder: Path, more: list[str], words: str, capsys: Any) -> None:
    assert main(["complete", "the cat", *(part.format(folder=folder) for part in more)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_other_models_are_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert main(["complete", "the cat", "-m", str(tmp_path)]) == 2
    assert "no language model" in capsys.readouterr().err


def test_a_chat_without_pictures(folder: Path, tmp_path: Path, capsys: Any) -> None:
    wanted = sensorium.load(folder).chat([{"role": "user", "content": "a cat?"}], max_new_tokens=9)
    assert main(["chat", "a cat?", "-m", str(folder), "-n", "9"]) == 0
    assert capsys.readouterr().out == wanted.text + "\n"
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    assert main(["chat", "a cat?", "-m", str(folder), "-i", str(picture)]) == 2
    assert "reads text only" in capsys.readouterr().err


def test_a_bundle_knows_what_ends_a_text(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    (place / "generation_config.json").unlink(missing_ok=True)
    (place / "tokenizer_config.json").unlink()
    assert main(["export", str(place), "-o", str(tmp_path / "bundle")]) == 0
    stops = sensorium.load(tmp_path / "bundle").tokenizer.stops
    assert stops == sensorium.load(place).tokenizer.stops != ()


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    bundle, file = tmp_path / "bundle", tmp_path / "model.safetensors"
    assert main(["export", str(folder), "-o", str(bundle)]) == 0
    assert main(["export", str(bundle), "-f", "huggingface", "-o", str(file)]) == 0
    assert file.read_bytes() == (folder / "model.safetensors").read_bytes()
    say: list[dict[str, Any]] = [{"role": "user", "content": "a cat?"}]
    model = sensorium.load(bundle)
    assert model.chat(say, max_new_tokens=9) == sensorium.load(folder).chat(say, max_new_tokens=9)
    assert main(["export", str(folder), "-f", "timm", "-o", str(tmp_path / "x.safetensors")]) == 2
