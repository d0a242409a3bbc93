"""Training of language models: packed chats are as separate rows, DPO is the paper's, frozen parts stay."""

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from tongues import ASSET, NAMES, chats, write_lines
from torch import nn

from core.nn import Ctx
from core.nn.nf4 import NF4Linear
from core.train.adapt import LoRA, Only, without_adapters
from core.train.qlora import QLoRA
from multimodal.chat_rows import IGNORED, ChatWriter, Row, packed, read_tokenizer
from multimodal.chat_template import ChatTemplate
from multimodal.decoder import Decoder, DecoderConfig
from multimodal.tasks.chat_data import ChatData, EncodedChats
from multimodal.tasks.language import LanguageModeling, answered, hits
from multimodal.tasks.preferences import PreferenceData, answer_log_probs, dpo_losses
from multimodal.vlm.gated import GatedConfig, GatedVisionLanguageModel

ASSETS = Path(__file__).parents[2] / "assets"
SHAPE = DecoderConfig(vocab=384, context=64, dim=16, depth=2, heads=2, kv_heads=1, hidden=32)


def model(positions: Literal["rope", "learned"] = "rope") -> Decoder:
    torch.manual_seed(0)
    found = Decoder(replace(SHAPE, positions=positions)).double()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


def rows() -> list[Row]:
    make = torch.Generator().manual_seed(1)
    lengths = (9, 5, 9, 14)
    ids = [torch.randint(0, 384, (n,), generator=make).tolist() for n in lengths]
    return [Row(each, [-1] * (len(each) - 3) + [0] * 3) for each in ids]


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_packed_chats_are_as_separate_rows(positions: Literal["rope", "learned"]) -> None:
    whole, apart = model(positions), model(positions)
    task = LanguageModeling(whole)
    task.log = lambda *args, **settings: None  # type: ignore[method-assign, assignment]
    loss = task.training_step(packed(rows()), 0)
    loss.backward()
    total = torch.zeros((), dtype=torch.float64)
    for row in rows():
        ids = torch.tensor(row.ids)[None]
        logits = apart(ids[:, :-1]).x
        total = total + F.cross_entropy(logits[0, -3:], ids[0, -3:], reduction="sum")
    expected = total / (3 * len(rows()))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)  # the loss itself is at least float32
    for (name, one), other in zip(whole.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_padding_is_no_picture() -> None:
    shown = Row([1, 5, 60, 60, 7, 8], [-1, -1, 0, 0, 0, 0])  # an answer that begins with a picture
    assert int((packed([shown])["ids"] == 60).sum()) == 2


@pytest.mark.parametrize(("kind", "budget"), [(ChatData, 320), (PreferenceData, 128)])
def test_batches_of_tokens_count_the_padding(kind: type[ChatData], budget: int, tmp_path: Path) -> None:
    pairs = [{"prompt": "what is it?", "chosen": f"a {name}", "rejected": "no"} for name in NAMES * 40]
    write_lines(tmp_path / "train.jsonl", chats(80) if kind is ChatData else pairs)
    data = kind(str(tmp_path), str(ASSET), batch_tokens=budget, hold_out=0.2)
    sizes = []
    for batch in islice(data.train_dataloader(), 8):
        segment = batch["tokens"].segment[batch["tokens"].index >= 0]
        lengths = segment.unique(return_counts=True)[1]
        assert 16 * int(lengths.div(16).ceil().sum()) <= budget
        sizes.append(len(lengths))
    assert max(sizes) > 2  # more than one chat, or pair


def test_chats_are_written_once(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", chats())
    data = ChatData(str(tmp_path), str(ASSET), hold_out=0.2)
    encoded = data._read("train")
    assert isinstance(encoded, EncodedChats)
    expected = encoded.read([3, 5])
    restored = pickle.loads(pickle.dumps(encoded))
    encoded.writer = None  # type: ignore[assignment]
    assert encoded.read([5, 3]) == expected[::-1]
    assert not restored._kept  # no process is sent what it can write
    assert restored.read([3, 5]) == expected


def test_packed_chats_look_at_their_own_pictures() -> None:
    torch.manual_seed(0)
    gates = GatedConfig(every=1, memory_dim=16, qk_norm=False)
    tongue = GatedVisionLanguageModel(
        nn.Identity(), nn.Identity(), Decoder(SHAPE), image_token=383, gates=gates
    ).double()
    for parameter in tongue.parameters():
        nn.init.normal_(parameter, std=0.3)
    seeing = [Row([383, *row.ids], [-1, *row.answers]) for row in rows()]
    images = torch.randn(len(seeing), 3, 16, dtype=torch.float64)
    batch = packed(seeing)
    with torch.no_grad():
        whole = tongue(batch["ids"], Ctx(batch["tokens"]), images).x[0]
        found = whole.split(list(batch["tokens"].lengths))
        for row, seen, image in zip(seeing, found, images, strict=True):
            alone = tongue(torch.tensor(row.ids)[None, :-1], images=image[None]).x[0]
            torch.testing.assert_close(seen[: len(row)], alone)


def test_exact_is_what_greedy_decoding_writes() -> None:
    tongue = model().eval()
    start = torch.tensor([[7, 8, 9]])
    ids = start
    for _ in range(5):
        ids = torch.cat([ids, tongue(ids).x[:, -1:].argmax(-1)], 1)
    right = Row(ids[0].tolist(), [-1] * 3 + [0] * 5)
    wrong = Row([*right.ids[:-1], (right.ids[-1] + 1) % 384], right.answers)
    batch = packed([right, wrong])
    with torch.no_grad():
        states = tongue.states(batch["ids"], Ctx(batch["tokens"])).x
    counted = batch["targets"] != IGNORED
    assert answered(hits(states, tongue.output, batch["targets"]), batch["answers"][counted]).tolist() == [True, False]


def test_dpo_is_the_papers() -> None:
    make = torch.Generator().manual_seed(2)
    new, old = torch.randn(2, 5, 2, generator=make, dtype=torch.float64)
    beta = 0.3
    ratio = new - old
    expected = -torch.log(1 / (1 + torch.exp(-beta * (ratio[:, 0] - ratio[:, 1]))))  # equation 7
    torch.testing.assert_close(dpo_losses(new[:, 0], new[:, 1], old[:, 0], old[:, 1], beta), expected)
    tongue = model()
    found = answer_log_probs(tongue, {**packed(rows()), "pairs": 2})
    for value, row in zip(found, rows(), strict=True):
        ids = torch.tensor(row.ids)[None]
        each = tongue(ids[:, :-1]).x.log_softmax(-1)[0, -3:].gather(1, ids[0, -3:, None])
        torch.testing.assert_close(value, each.sum(), rtol=1e-9, atol=1e-9)


def test_answers_are_found_in_the_text() -> None:
    template = ChatTemplate.load(ASSETS / "fashion_mnist_chat")
    assert template is not None
    writer = ChatWriter(read_tokenizer(ASSETS / "fashion_mnist_chat"), template)
    said = ["what is it?", "a bag", "is it footwear?", "no"]
    roles = ["user", "assistant"] * 2
    row = writer([{"role": role, "content": text} for role, text in zip(roles, said, strict=True)])
    spoken = [
        writer.tokenizer.decode([t for t, a in zip(row.ids, row.answers, strict=True) if a == number]).strip()
        for number in range(2)
    ]
    assert spoken == ["a bag", "no"]


@pytest.mark.parametrize("kind", [LoRA, QLoRA])
def test_adapters(kind: type[LoRA]) -> None:
    tongue = model().float()
    ids = torch.arange(6)[None]
    adapt = kind(rank=2, targets=("q.proj", "fn.up"), also=(), parts=("blocks",))
    adapt(tongue)
    trained = {name for name, p in tongue.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    before = tongue(ids).x
    for name, parameter in tongue.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data)
    after = tongue(ids).x
    assert not torch.allclose(before, after)
    with without_adapters(tongue):
        torch.testing.assert_close(tongue(ids).x, before)
    adapt.merge(tongue)
    torch.testing.assert_close(tongue(ids).x, after, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, NF4Linear) for module in tongue.modules())


def test_four_bits_pass_gradients_on() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 8)
    layer = NF4Linear(linear)
    plain = layer.plain()
    assert (plain.weight - linear.weight).abs().max() < 0.16 * linear.weight.abs().max()
    x, y = torch.randn(3, 64, requires_grad=True), torch.randn(3, 64)
    layer(x).square().sum().backward()
    y = x.detach().clone().requires_grad_()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_only_some_parts_are_trained() -> None:
    tongue = model()
    Only(["norm"])(tongue)
    assert {name for name, p in tongue.named_parameters() if p.requires_grad} == {"norm.weight"}
