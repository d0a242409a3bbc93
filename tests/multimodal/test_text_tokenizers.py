"""Tokenizers against open_clip's and transformers', over the same texts and the same files."""

import json
import pickle
import random
from pathlib import Path

import ftfy
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from core.errors import InputError
from multimodal import clean
from multimodal.bpe import Bpe, clip_bpe, read_bpe, train_bpe
from multimodal.find_tokenizer import tokenizer_for
from multimodal.tokenizer import ClipTokenizer, SiglipTokenizer

WRITTEN = [
    "",
    " ",
    "a photo of a cat",
    "A Photo   of\ta\nCAT!",
    "it's, we're, I've, I'm, they'll, she'd, don't — ISN'T",
    "10,000 dollars & 3.14159 at 12:45",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &eacute;t&eacute;",
    "café naïve Ünïcödé İstanbul ǅ ß ẞ ſ 'ſ",
    "猫の写真 一张猫的照片 고양이 사진",
    "صورة قطة תמונה של חתול แมว हिन्दी",
    "🐈 a cat 🐈‍⬛ 👩‍👩‍👧‍👦 ❤️ 🇩🇪",
    "schÃ¶n dâ€™accord Â© 2020",
    "<start_of_text> in the text <END_OF_TEXT>",
    "<|startoftext|> other marks <|endoftext|>",
    "under_score snake_case __init__ @user #tag http://a.b/c?d=e&f=g",
    "“curly” ‘quotes’ … – — ﬁ ligature ｆｕｌｌ",
    "½ ² Ⅳ ٣ ४ 10⁻³",
    "a" * 300,
    "ab" * 500 + " end",
    "word " * 200,
    "\x1b[31mred\x1b[0m\x07\u200b zero​width \u00ad soft",
    "é é \u0301 combining",
    "!!! ??? ... ;;; (((a)))",
    "tab\tline\r\nline\u2028line\u00a0blank\u3000wide",
]


def _texts() -> list[str]:
    draw = random.Random(0)
    words = [*" ".join(WRITTEN).split(" "), "photo", "dog's", "red", "1999", "the"]
    mixed = [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(200)]
    ranges = [(32, 127), (128, 592), (0x370, 0x530), (0x3040, 0x3100), (0x1F300, 0x1F650)]
    odd = ["".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randint(1, 40))) for _ in range(200)]
    return WRITTEN + mixed + odd


TEXTS = _texts()


@pytest.fixture(scope="module")
def simple() -> SimpleTokenizer:
    return SimpleTokenizer()


def test_clip_equals_open_clip(simple: SimpleTokenizer) -> None:
    ours = ClipTokenizer()
    assert torch.equal(ours(TEXTS), simple(TEXTS))
    assert torch.equal(ClipTokenizer(16)(TEXTS), simple(TEXTS, 16))
    for text in TEXTS:
        assert ours.encode(text) == simple.encode(text)
    assert (ours.vocab, ours.start, ours.eot) == (simple.vocab_size, simple.sot_token_id, simple.eot_token_id)


@pytest.mark.parametrize("name", sorted(clean.CLEANERS))
def test_cleaning_equals_open_clip(name: str) -> None:
    ours, theirs = ClipTokenizer(clean=clean.CLEANERS[name]), SimpleTokenizer(clean=name)
    assert torch.equal(ours(TEXTS), theirs(TEXTS))


def test_printable_ascii_needs_no_repair() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        text = "".join(chr(draw.randrange(32, 127)) for _ in range(draw.randint(0, 40))).replace("&", "")
        assert ftfy.fix_text(text) == text


def test_clip_equals_transformers() -> None:
    from transformers import CLIPTokenizer

    bpe = clip_bpe()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    theirs = CLIPTokenizer(vocab={names.get(t, t): i for t, i in bpe.ids.items()}, merges=list(bpe.merges))
    # transformers repairs and unescapes nothing, and its marks are spelled otherwise
    alike = [text for text in TEXTS if clean.whitespace(text) == " ".join(text.split()) and "<" not in text]
    alike = [text for text in alike if text.isascii() or text in WRITTEN]
    assert len(alike) > 20
    found = theirs(alike, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    assert torch.equal(ClipTokenizer(pad=bpe.stop)(alike), found)


def test_clip_rows_keep_their_stop_token_and_name_what_was_cut() -> None:
    ours = ClipTokenizer(8)
    rows = ours(["a cat", "one two three four five six", "one two three four five six seven"])
    assert rows.dtype == torch.int64
    assert rows[:, -1].tolist() == [0, ours.eot, ours.eot]
    assert ours.too_long(["a cat", "one two three four five six", "one two three four five six seven"]) == [2]
    assert torch.equal(ours("a cat"), ours(["a cat"]))
    assert ours([]).shape == (0, 8)


def test_clip_decodes(simple: SimpleTokenizer) -> None:
    ours = ClipTokenizer()
    for text in TEXTS:
        ids = simple.encode(text)
        if ours.start not in ids and ours.eot not in ids and "</w>" not in text:
            assert ours.decode(ids) == simple.decode(ids).strip()
    assert ours.decode(ours(["A cat, 猫 & a dog"])[0]) == "a cat , 猫 & a dog"


def test_clip_travels_to_workers() -> None:
    ours = ClipTokenizer()
    assert torch.equal(pickle.loads(pickle.dumps(ours))(TEXTS[:30]), ours(TEXTS[:30]))


def test_small_vocabulary(tmp_path: Path) -> None:
    texts = [f"a photo of a {color} {thing}" for color in ("red", "blue") for thing in ("shirt", "sneaker", "bag")]
    bpe = train_bpe(texts, 560)
    assert 514 < len(bpe) <= 560
    ours = ClipTokenizer(16, bpe=bpe)
    assert (ours.start, ours.eot) == (len(bpe) - 2, len(bpe) - 1)  # the stop token has the highest id: argmax finds it
    assert [ours.decode(row) for row in ours(texts)] == texts
    assert ours.decode(ours(["a Zebra 🦓"])[0]) == "a zebra 🦓"
    bpe.save(tmp_path / "merges.txt")
    again = ClipTokenizer.from_file(tmp_path / "merges.txt", 16)
    assert torch.equal(again(texts), ours(texts))
    assert torch.equal(tokenizer_for(tmp_path, vocab=len(bpe), context=16)(texts), ours(texts))


def test_small_vocabulary_equals_open_clips_code(tmp_path: Path, simple: SimpleTokenizer) -> None:
    """The first thousand of CLIP's merges, read by open_clip from a file of its own."""
    import gzip

    few = clip_bpe().merges[:1000]
    lines = ["#", *(" ".join(pair) for pair in few)]
    path = tmp_path / "few.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    theirs = SimpleTokenizer(bpe_path=str(path))
    assert torch.equal(ClipTokenizer(bpe=Bpe(few))(TEXTS), theirs(TEXTS))


@pytest.mark.parametrize("line", ["a", "a b c", "zz q", "a \n"])
def test_damaged_merges_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "merges.txt").write_text(f"#version\nt h\n{line}\n")
    with pytest.raises(InputError, match=r"line 3: expected two symbols"):
        read_bpe(tmp_path / "merges.txt")


def test_vocabulary_too_small() -> None:
    with pytest.raises(InputError, match="514"):
        train_bpe(["a"], 100)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of SigLIP's kind: unigrams over T5's normaliser, saved as timm saves it."""
    from transformers import T5TokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([text.lower() for text in TEXTS if text.isascii()], trainer)
    folder = tmp_path_factory.mktemp("siglip")
    vocab = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["vocab"]]
    theirs = T5TokenizerFast(vocab=vocab, extra_ids=0, pad_token="</s>")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of SigLIP 2's kind: Gemma's byte pairs, which fall back to bytes."""
    from transformers import Siglip2Tokenizer

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator([text.lower()[:200] for text in TEXTS if text.isascii()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    folder = tmp_path_factory.mktemp("siglip2")
    merges = [tuple(pair) for pair in model["merges"]]
    theirs = Siglip2Tokenizer(vocab=model["vocab"], merges=merges, padding_side="right", add_eos_token=True)
    theirs.save_pretrained(folder)
    return folder


def test_siglip_equals_open_clip(first: Path) -> None:
    theirs = HFTokenizer(str(first), context_length=64, clean="canonicalize")
    ours = SiglipTokenizer.from_folder(first, 64, clean.canonicalize)
    assert ours.pad == ours.eot == 1
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    assert (ours(["word " * 200])[0, -1], ours([""])[0].tolist()) == (1, [1] * 64)


def test_siglip_decodes(first: Path) -> None:
    ours = SiglipTokenizer.from_folder(first)
    assert ours.decode(ours(["A photo,  of the CAT!"])[0]) == "a photo of the cat"
    assert ours.too_long(["a photo", "word " * 200]) == [1]


def test_siglip2_equals_transformers(second: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(second)
    ours = tokenizer_for(second)
    assert (ours.pad, ours.eot, ours.context) == (0, 1, 64)
    found = theirs(TEXTS, padding="max_length", truncation=True, max_length=64, return_tensors="pt").input_ids
    assert torch.equal(ours(TEXTS), found)


def test_siglip2_equals_open_clip(second: Path) -> None:
    theirs = HFTokenizer(str(second), context_length=64, clean="canonicalize")
    assert torch.equal(SiglipTokenizer.from_folder(second, 64, clean.canonicalize)(TEXTS), theirs(TEXTS))


def _folder(path: Path, **files: object) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / f"{name}.json").write_text(json.dumps(data))
    return path


def test_a_folder_tells_its_tokenizer(tmp_path: Path, first: Path) -> None:
    coca = {"model_cfg": {"text_cfg": {"context_length": 76, "vocab_size": 49408}}}
    found = tokenizer_for(_folder(tmp_path / "coca", open_clip_config=coca))
    assert isinstance(found, ClipTokenizer)
    assert (found.context, found.pad) == (76, 0)
    hub = _folder(tmp_path / "hub", tokenizer_config={"tokenizer_class": "CLIPTokenizerFast", "model_max_length": 77})
    assert (tokenizer_for(hub).context, tokenizer_for(hub).pad) == (77, 49407)
    siglip = _folder(
        tmp_path / "siglip",
        open_clip_config={
            "model_cfg": {
                "text_cfg": {
                    "context_length": 64,
                    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
                    "tokenizer_kwargs": {"clean": "canonicalize"},
                }
            }
        },
    )
    (siglip / "tokenizer.json").write_text((first / "tokenizer.json").read_text())
    assert torch.equal(tokenizer_for(siglip)(TEXTS), SiglipTokenizer.from_folder(first, 64, clean.canonicalize)(TEXTS))
    assert isinstance(tokenizer_for(tmp_path / "ViT-B-32.pt", vocab=49408), ClipTokenizer)


def test_an_unknown_tokenizer_is_one_line(tmp_path: Path) -> None:
    empty = _folder(tmp_path / "empty")
    other = _folder(tmp_path / "other", tokenizer_config={"tokenizer_class": "BertTokenizer"})
    bare = _folder(tmp_path / "bare", tokenizer_config={"tokenizer_class": "SiglipTokenizer"})
    damaged = _folder(tmp_path / "damaged", tokenizer_config={"tokenizer_class": "SiglipTokenizer"}, tokenizer={"a": 1})
    roberta = {"model_cfg": {"text_cfg": {"hf_tokenizer_name": "roberta-base"}}}
    for folder, says in [
        (empty, "no tokenizer for"),
        (other, "BertTokenizer"),
        (bare, "spiece.model"),
        (damaged, "is no tokenizer"),
        (_folder(tmp_path / "roberta", open_clip_config=roberta), "roberta-base"),
    ]:
        with pytest.raises(InputError, match=says) as caught:
            tokenizer_for(folder)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    hub = _folder(tmp_path / "hub", tokenizer_config={"tokenizer_class": "CLIPTokenizer"})
    with pytest.raises(InputError, match="don't fit"):
        tokenizer_for(hub, vocab=1000)


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ``spiece.model`` only, as in google/siglip-base-patch16-224."""
    import io

    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("spiece")
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([clean.plain(text) for text in TEXTS if text.isascii()]),
        model_writer=made,
        vocab_size=500,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer"}))
    return folder


def test_spiece_equals_transformers(spiece: Path) -> None:
    from transformers import SiglipTokenizer as Theirs

    theirs = Theirs(str(spiece / "spiece.model"))
    ours = tokenizer_for(spiece)
    assert ours.pad == ours.eot == 1
    # "999" is 99 9 or 9 99, equally likely: which one wins is not written anywhere
    texts = [text for text in TEXTS if not any(run in clean.plain(text) for run in ("aaa", "abab", "999"))]
    assert len(texts) > 300
    found = theirs(texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt").input_ids
    assert torch.equal(ours(texts), found)


def test_spiece_equals_sentencepiece(spiece: Path) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    ours = SiglipTokenizer.from_folder(spiece)
    for text in TEXTS:
        found, expected = ours.encode(text), theirs.encode(clean.plain(text))
        tied = any(run in clean.plain(text) for run in ("aaa", "abab", "999"))
        assert sorted(found) == sorted(expected) if tied else found == expected


@pytest.mark.parametrize("content", [b"", b"\x0a\xff", b"hello, world", bytes(100), b"\x80" * 40])
def test_a_damaged_spiece_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(InputError, match=r"spiece\.model"):
        SiglipTokenizer.from_folder(tmp_path)
