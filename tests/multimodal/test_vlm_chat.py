"""Chats about pictures: what a person calls, the commands, and what is said of bad input."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import vlm_peers as peers
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

import sensorium
from core.errors import InputError
from core.nn import Ctx
from multimodal.decoder import DecoderConfig
from multimodal.vlm.chat import VisionLanguage
from multimodal.vlm.media import frames_of, image_of
from sensorium.cli import main
from sensorium.sights import write_sight_bundle
from vision.vit import ViTConfig

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} {% for p in m.content %}{% if p.type == 'image' %}<image>"
    "{% else %} {{ p.text }}{% endif %}{% endfor %} ;{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
)
WORDS = [
    "<s>",
    "</s>",
    "user",
    "assistant",
    "system",
    ";",
    "what",
    "is",
    "it",
    "and",
    "this",
    "?",
    "<end_of_utterance>",
]
SPECIAL = ["<fake_token_around_image>", "<global-img>"]
SPECIAL += [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]


def write_tokenizer(folder: Path, image: int, template: str | None = TEMPLATE) -> None:
    words = ["<unk>", *WORDS[:2], *WORDS[2:], *SPECIAL]
    words += [f"w{number}" for number in range(image - len(words))] + ["<image>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "</s>", "<image>", *SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"bos_token": "<s>", "eos_token": "</s>"} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def folder_of(path: Path, kind: str, template: str | None = TEMPLATE) -> Path:
    torch.manual_seed(0)
    theirs = getattr(peers, kind)()
    theirs.save_pretrained(path)
    (path / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(path, peers.IMAGE, template)
    if kind == "idefics3":
        said = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
        (path / "preprocessor_config.json").write_text(json.dumps(said))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {k: folder_of(tmp_path_factory.mktemp(k), k) for k in ("llava", "idefics3", "idefics")}


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(np.uint8))


def asked(*images, text: str = "what is it ?") -> list[dict]:
    shown = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("kind", ["llava", "idefics3", "idefics"])
def test_chat_is_the_models_own_greedy_text(folders: dict[str, Path], kind: str) -> None:
    model = VisionLanguage.load(folders[kind])
    messages = asked(picture(1, (30, 17)), picture(2))
    found = model.chat(messages, max_new_tokens=8)
    tokens, pixels = model._seen(messages)
    ids, expected = torch.tensor([tokens]), []
    with torch.inference_mode():
        features = model.model.features(torch.cat(pixels))
        for _ in range(len(found.tokens)):
            if kind == "idefics":
                ctx = Ctx(memory=model.model.memory(torch.tensor([tokens]), features))
                logits = model.model(ids, ctx).x
            else:
                x = model.model.embed(torch.tensor([tokens]), features)
                rest = model.model.decoder.embed(ids[:, len(tokens) :])
                logits = model.model(torch.cat([x, rest], 1)).x
            expected.append(int(logits[0, -1].argmax()))
            ids = torch.cat([ids, torch.tensor([[expected[-1]]])], 1)
    assert found.tokens == expected
    assert "".join(model.stream(messages, max_new_tokens=8)) == found.text
    # both are enlarged to 2 x 2 crops and a whole of 4 tokens each
    assert tokens.count(peers.IMAGE) == {"llava": 2 * 16, "idefics3": 2 * 5 * 4, "idefics": 2}[kind]


@pytest.mark.parametrize("kind", ["llava", "idefics3", "idefics"])
def test_tokens_and_pixels_of_transformers_processors(folders: dict[str, Path], kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    from importlib import import_module

    images = [picture(1, (30, 17)), picture(2, (20, 50))]
    model = VisionLanguage.load(folders[kind])
    tokens, pixels = model._seen(asked(*images, text="what is it ?"))
    words = transformers.PreTrainedTokenizerFast.from_pretrained(folders[kind])
    text = words.apply_chat_template(asked(*images, text="what is it ?"), add_generation_prompt=True, tokenize=False)
    pil = import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    if kind == "llava":
        prepare = pil.LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        make = transformers.LlavaProcessor(prepare, words, 4, "default", num_additional_image_tokens=1)
        theirs = make(images=images, text=text, add_special_tokens=False, return_tensors="pt")
        seen = theirs["pixel_values"]
    elif kind == "idefics3":
        prepare = pil.Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
        words.add_special_tokens({"additional_special_tokens": ["<end_of_utterance>"]})
        make = transformers.Idefics3Processor(prepare, words, image_seq_len=4)
        theirs = make(images=[images], text=[text], add_special_tokens=False, return_tensors="pt")
        seen = theirs["pixel_values"][0]
    else:
        prepare, words.pad_token = pil.IdeficsImageProcessorPil(image_size=16), "</s>"
        make = transformers.IdeficsProcessor(prepare, words, add_end_of_utterance_token=False)
        theirs = make(text=["user", *images, "what is it ? ; assistant"], return_tensors="pt")
        seen = theirs["pixel_values"][0]
    assert theirs["input_ids"][0].tolist() == tokens
    torch.testing.assert_close(torch.cat(pixels), seen.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llava", "idefics3", "idefics"])
def test_together_as_alone(folders: dict[str, Path], kind: str) -> None:
    model = VisionLanguage.load(folders[kind])
    chats = [
        asked(picture(1)),
        [{"role": "user", "content": "what is it and what is this ?"}],
        asked(picture(2), picture(3, (40, 20)), text="and this ?"),
    ]
    together = model.chats(chats, max_new_tokens=6)
    for chat, found in zip(chats, together, strict=True):
        assert model.chat(chat, max_new_tokens=6).tokens == found.tokens
    beams = model.chats(chats, max_new_tokens=4, beams=3)
    for chat, found in zip(chats, beams, strict=True):
        assert model.chat(chat, max_new_tokens=4, beams=3).tokens == found.tokens


def test_captions_and_load(folders: dict[str, Path]) -> None:
    model = sensorium.load(folders["llava"])
    captions = model.caption([picture(1), picture(2)], "what is this ?", max_new_tokens=5)
    assert captions[1].tokens == model.chat(asked(picture(2), text="what is this ?"), max_new_tokens=5).tokens


@pytest.mark.parametrize("kind", ["llava", "idefics3", "idefics"])
def test_bundle(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    model = VisionLanguage.load(folders[kind])
    write_sight_bundle(model, tmp_path / "mine")
    again = sensorium.load(tmp_path / "mine")
    messages = asked(picture(1, (30, 17)))
    assert again.chat(messages, max_new_tokens=6) == model.chat(messages, max_new_tokens=6)
    assert again.showing == model.showing


@pytest.mark.parametrize("kind", ["llava", "idefics"])
def test_command_export(folders: dict[str, Path], tmp_path: Path, capsys, kind: str) -> None:
    place = folders[kind]
    assert main(["export", str(place), "-o", str(tmp_path / "mine")]) == 0
    assert main(["export", str(tmp_path / "mine"), "-f", "huggingface", "-o", str(tmp_path / "out.safetensors")]) == 0
    assert capsys.readouterr().out.count("logits differ by 0.0e+00") == 2
    came, left = load_file(place / "model.safetensors"), load_file(tmp_path / "out.safetensors")
    assert came.keys() == left.keys()
    assert all(torch.equal(tensor, left[name]) for name, tensor in came.items())


def test_pictures_of_all_kinds(tmp_path: Path) -> None:
    image = picture(5)
    image.save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    array = np.array(image)
    url = "data:image/png;base64," + base64.b64encode(raw).decode()
    floats = torch.from_numpy(array).permute(2, 0, 1) / 255
    for source in (
        image,
        raw,
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        url,
        array,
        torch.from_numpy(array),
        floats,
    ):
        assert np.array_equal(np.asarray(image_of(source)), array)


def test_films(folders: dict[str, Path], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgr0"
        for number in range(10):
            values = np.full((16, 16, 3), number * 20, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")):
                film.mux(packet)
        for packet in stream.encode():
            film.mux(packet)
    frames = frames_of(path, 5)
    assert [np.asarray(frame)[0, 0, 0] for frame in frames] == [0, 40, 80, 120, 160]
    assert len(frames_of(path, 50)) == 10
    model = VisionLanguage.load(folders["llava"])
    ask = {"type": "text", "text": "what is it ?"}
    shown = [{"role": "user", "content": [{"type": "video", "video": str(path), "frames": 5}, ask]}]
    assert model.chat(shown, max_new_tokens=4) == model.chat(asked(*frames), max_new_tokens=4)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a film that can be read"):
        frames_of(tmp_path / "bad.mp4", 5)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            asked(picture(1), text="what <image> is it"),
            "has 2 <image> but there is 1 image: number 2, after .* has none",
        ),
        ([{"role": "nobody", "content": "what"}], "has the role 'nobody'"),
        ([{"role": "user", "content": ""}], "is empty"),
        (asked("missing.png"), "missing.png: no such file"),
        (asked("https://example.org/a.png"), "nothing is downloaded unasked"),
        (asked("data:image/png,abc"), "not in base64"),
        (asked(5), "part 1 of message 1 is a int"),
        (asked(torch.zeros(4, 4)), r"is an array \(4, 4\) of float32"),
        ([{"role": "user", "content": [{"type": "image"}]}], "has no image"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}], "no ear"),
        (asked(*[picture(1)] * 20), "more than the context of 256"),
    ],
)
def test_bad_chats(folders: dict[str, Path], messages: list[dict], words: str) -> None:
    model = VisionLanguage.load(folders["llava"])
    for call in (model.chat, model.stream):
        with pytest.raises(InputError, match=words) as caught:
            call(messages)
        assert "\n" not in str(caught.value)


def test_fewer_places_than_pictures(folders: dict[str, Path]) -> None:
    from multimodal.chat_template import ChatTemplate

    model = VisionLanguage.load(folders["llava"])
    model.template = ChatTemplate("{{ messages[0].role }}<image>")
    with pytest.raises(InputError, match="there are 2 images but the text has 1 <image>: image 2 has no place"):
        model.chat(asked(picture(1), picture(2)))
    model.template = None
    with pytest.raises(InputError, match="no chat template"):
        model.chat(asked(picture(1)))


def test_command_chat(folders: dict[str, Path], tmp_path: Path, capsys, monkeypatch) -> None:
    picture(1).save(tmp_path / "a.png")
    base = ["chat", "-m", str(folders["llava"]), "--image", str(tmp_path / "a.png"), "-n", "5"]
    assert main([*base, "what is it ?"]) == 0
    expected = VisionLanguage.load(folders["llava"]).chat(asked(picture(1)), max_new_tokens=5).text
    assert capsys.readouterr().out == expected + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("what is it ?\n\nand this ?\n"))
    assert main(base) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == expected
    assert len(lines) == 2
    for arguments, words in [
        ([*base, " "], "the question is empty"),
        (["chat", "-i", str(tmp_path / "b.png"), "what"], "b.png: no such file"),
        (["chat", "-m", str(tmp_path), "what"], "holds no vision-language model"),
        (["chat", "-m", "nothing", "what"], "unknown model 'nothing'"),
    ]:
        assert main(arguments) == 2
        found = capsys.readouterr().err
        assert words in found
        assert found.count("\n") == 1


def test_command_caption(folders: dict[str, Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(3):
        picture(seed).save(tmp_path / "in" / f"{seed}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    model = VisionLanguage.load(folders["llava"])
    expected = [c.text for c in model.caption([picture(s) for s in range(3)], "what is it ?", max_new_tokens=4)]
    out = tmp_path / "out.jsonl"
    base = ["caption", str(tmp_path / "in"), "-m", str(folders["llava"]), "-p", "what is it ?", "-n", "4", "-b", "2"]
    assert main([*base, "-o", str(out)]) == 1
    assert "bad.png" in capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["caption"] for row in rows] == [" ".join(text.split()) for text in expected]
    whole = out.read_text()
    out.write_text(whole[: whole.rindex("{") + 9])  # interrupted within the last line
    (tmp_path / "in" / "bad.png").unlink()
    assert main([*base, "-o", str(out)]) == 0
    assert out.read_text() == whole
    assert "2 of them from before" in capsys.readouterr().out
    assert main([*base, "-f", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "image,caption"
    out.write_text("something else\n")
    assert main([*base, "-o", str(out)]) == 2
    assert "holds no captions in jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["Whole", "Cropped"])
def test_pictures_of_a_recipe(kind: str) -> None:
    """A checkpoint's pictures are shown as they were in its training."""
    from core.data.order import keys
    from multimodal.tasks import seeing
    from multimodal.vlm.config import Projected, ProjectedConfig
    from sensorium.sights import _showing
    from vision.augment import Small

    model = Projected(
        ProjectedConfig(
            ViTConfig(
                image=(28, 28), patch=14, dim=8, depth=1, heads=1, classes=0, cls_token=False, pool="normed mean"
            ),
            DecoderConfig(vocab=20, context=16, dim=8, depth=1, heads=1, kv_heads=1, hidden=8),
            image_token=5,
            projector="shuffle",
        )
    )
    small = {"class_path": "vision.augment.Small", "init_args": {"mean": [0.3], "std": [0.4]}}
    init = {"count": 1, "preprocess": small} if kind == "Whole" else {"side": 28, "longest": 56, "count": 1}
    trained = seeing.Whole(Small([0.3], [0.4]), 1) if kind == "Whole" else seeing.Cropped(28, 56, 1)
    found = _showing(model, {"class_path": f"multimodal.tasks.seeing.{kind}", "init_args": init})
    image = picture(3, (28, 28)).convert("L" if kind == "Whole" else "RGB")
    expected = trained([np.asarray(image) if kind == "Whole" else image], keys(0, 0, np.arange(1)), False)
    torch.testing.assert_close(found.picture(image).pixels, expected, rtol=0, atol=1e-5)
    assert found.words == trained.words
    assert type(found)._of_plain(found.plain()) == found
