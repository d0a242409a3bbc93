"""The fast Whisper writes what the exact one writes, about as well, and the same in any company."""

import copy
import csv
from pathlib import Path

import pytest
import torch

from audio.decode import Decoder, Search
from audio.fast import chosen_precision, fast_whisper
from audio.mel import LogMel, fit_frames
from audio.tokenizer import Tokenizer
from audio.weights import load_whisper
from audio.wer import word_error_rate
from audio.whisper import Whisper, WhisperConfig
from core.data.audio import read_audio
from core.errors import InputError
from core.nn import Attention, CrossAttention
from core.nn.blocked import blocked
from core.nn.kernels import eager
from core.nn.mask import Causal, Sight
from core.nn.rowwise import Int8Linear, has_integers

SMALL = WhisperConfig(
    vocab=51864, audio_context=60, text_context=40, audio_dim=128, audio_heads=2, text_dim=128, text_heads=2
)
needs_integers = pytest.mark.skipif(not has_integers(), reason="PyTorch has no 8-bit layers for this processor")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair():
    """A small random model, exact and fast."""
    torch.manual_seed(0)
    exact = Whisper(SMALL).eval().requires_grad_(False)
    for parameter in exact.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return exact, fast_whisper(copy.deepcopy(exact), "int8")


def encoded(model, rows):
    torch.manual_seed(1)
    mel = torch.randn(rows, SMALL.mels, 2 * SMALL.audio_context)
    return model.encode(mel.to(next(model.parameters()).dtype))


@needs_integers
@torch.inference_mode()
def test_logits_equal_the_exact_ones_with_and_without_a_cache(pair):
    exact, quick = pair
    tokens = torch.randint(0, SMALL.vocab, (3, 9))
    reference = exact.decode(tokens, encoded(exact, 3)).x
    audio = encoded(quick, 3)
    whole = quick.decode(tokens, audio).x
    assert (whole - reference).norm() <= 0.05 * reference.norm()
    cache = quick.new_cache()
    parts = [quick.decode(part, audio, cache).x for part in tokens.split([4, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=0.02 * float(whole.abs().max()))
    cache.truncate(5)
    again = quick.decode(tokens[:, 5:6], audio, cache).x
    torch.testing.assert_close(again, parts[2], rtol=0, atol=0)


@needs_integers
@torch.inference_mode()
def test_a_window_is_decoded_as_alone(pair):
    _, quick = pair
    audio = encoded(quick, 5)
    torch.testing.assert_close(encoded(quick, 1), audio[:1], rtol=0.02, atol=0.02)
    tokens = torch.randint(0, SMALL.vocab, (5, 4))
    together, alone = quick.new_cache(), quick.new_cache()
    for part in tokens.split([2, 1, 1], dim=1):
        batch = quick.decode(part, audio, together).x
        single = quick.decode(part[3:4], audio[3:4], alone).x
        torch.testing.assert_close(batch[3:4], single, rtol=1e-3, atol=1e-3)
        assert torch.equal(batch[3].argmax(-1), single[0].argmax(-1))


@needs_integers
@torch.inference_mode()
def test_attention_weights_can_be_looked_at(pair):
    exact, quick = pair
    tokens, want = torch.randint(0, SMALL.vocab, (2, 6)), {1: {"cross": [1]}, 2: {"attn": True}}
    theirs = exact.decode(tokens, encoded(exact, 2), want=want).notes
    ours = quick.decode(tokens, encoded(quick, 2), want=want).notes
    assert ours.keys() == theirs.keys()
    for block, branch in ((1, "cross"), (2, "attn")):
        weights = ours[block][branch]["weights"]
        torch.testing.assert_close(weights, theirs[block][branch]["weights"], rtol=0, atol=0.1)


@torch.inference_mode()
def test_blocks_of_queries_equal_plain_attention():
    torch.manual_seed(0)
    for length, size, rule in ((1, 700, Causal()), (9, 300, None), (600, 300, None), (600, 600, Causal())):
        q, k, v = torch.randn(2, 3, length, 32), torch.randn(2, 3, size, 32), torch.randn(2, 3, size, 32)
        sight = Sight() if rule is None else Sight(rule)
        reference = eager(q.double(), k.double(), v.double(), sight).float()
        ours = blocked(q, k, v, sight)
        assert ours.dtype == q.dtype
        assert (ours - reference).norm() <= 0.01 * reference.norm()


@needs_integers
@torch.inference_mode()
def test_rows_of_integers_are_independent_of_their_company_to_the_bit():
    torch.manual_seed(0)
    layer, x = Int8Linear(torch.nn.Linear(512, 300)), torch.randn(40, 512)
    for rows in (1, 8, 40):
        assert torch.equal(layer(torch.cat([x[:rows], 1000 * x]))[:rows], layer(x[:rows]))


# float32 is the exact model, whose words are counted in test_batches
@pytest.mark.parametrize("precision", ["int8", pytest.param("float32", marks=pytest.mark.thorough)])
def test_words_are_heard_as_well(assets: Path, precision):
    if precision == "int8" and not has_integers():
        pytest.skip("PyTorch has no 8-bit layers for this processor")
    model = fast_whisper(load_whisper(assets / "weights" / "whisper-tiny.en")[0], precision)
    decoder = Decoder(model, Tokenizer.for_vocab(model.config.vocab))
    with (assets / "speech" / "ljspeech" / "transcripts.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row[0].startswith("LJ")]
    assert len(rows) == 16
    audio = []
    for row in rows:
        wave = read_audio(assets / "speech" / "ljspeech" / f"{Path(row[0]).stem}.wav", 16_000)
        audio.append(decoder.encode(fit_frames(LogMel(80)(wave, padding=480_000))[None]))
    said = [row[-1] for row in rows]
    heard = [result.text for some in torch.cat(audio).split(8) for result in decoder(some)]
    greedy = word_error_rate(said, heard)
    assert greedy <= 0.048
    if precision == "int8":
        assert [decoder(part)[0].text for part in audio[:4]] == heard[:4]
        beams = [decoder(part, search=Search(beams=5))[0].text for part in audio]
        assert word_error_rate(said, beams) <= greedy


def test_what_is_chosen_and_refused():
    assert chosen_precision("auto", CPU) in ("int8", "float32")
    assert chosen_precision("auto", torch.device("cuda")) == "float16"
    with pytest.raises(InputError, match="choose one of auto"):
        chosen_precision("fp8", CPU)
    with pytest.raises(InputError, match="for GPUs"):
        chosen_precision("float16", CPU)
    with pytest.raises(InputError, match="x86"):
        chosen_precision("int8", torch.device("cuda"))
    model = Whisper(SMALL)
    assert fast_whisper(model, "float32") is model
    assert any(isinstance(module, CrossAttention) for module in model.modules() if isinstance(module, Attention))
