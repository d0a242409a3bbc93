"""The losses of experts are Mixtral's and in the loss; questions of validation show nothing that training shows."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data.chats import Told
from core.data.idx import Idx
from core.nn import MixtureOfExperts
from multimodal.decoder import Decoder, DecoderConfig, Experts
from multimodal.tasks.language import LanguageModeling
from multimodal.tasks.questions import Questions

NAMES = list("abcdefghij")


def test_losses_of_experts_are_in_the_loss() -> None:
    """The losses of balance are those of transformers' Mixtral, block by block."""
    peer = pytest.importorskip("transformers.models.mixtral.modeling_mixtral").load_balancing_loss_func
    torch.manual_seed(0)
    config = DecoderConfig(vocab=30, context=16, dim=16, depth=2, heads=2, kv_heads=1, experts=Experts(4, 2, 24))
    model = Decoder(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    routed: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.router.register_forward_hook(lambda _, __, output: routed.append(output.detach().flatten(0, 1)))
    ids = torch.randint(30, (3, 9))
    task = LanguageModeling(model, balance=0.3, z=0.2)
    told: dict[str, float] = {}
    task.log = lambda name, value, **settings: told.update({name: float(value.detach())})  # type: ignore[method-assign, assignment]
    loss = task.training_step({"ids": ids[:, :-1], "targets": ids[:, 1:]}, 0)
    assert len(routed) == 2
    balance = torch.stack([peer((logits,), 4, 2) for logits in routed]).mean()
    z = torch.stack([logits.double().logsumexp(-1).square().mean() for logits in routed]).mean()
    with torch.no_grad():
        plain = F.cross_entropy(model(ids[:, :-1]).x.flatten(0, 1), ids[:, 1:].flatten())
    assert told == pytest.approx(
        {"train/loss": plain.item(), "train/balance": balance.item(), "train/z": z.item()}, rel=1e-5
    )
    assert loss.item() == pytest.approx((plain + 0.3 * balance + 0.2 * z).item(), rel=1e-5)


def write_numbered(folder: Path, count: int) -> None:
    """Images whose first four pixels are their number, for a class each in turn; no test set."""
    images = np.zeros((count, 4, 4), np.uint8)
    images[:, 0] = np.frombuffer(np.arange(count, dtype="<u4").tobytes(), np.uint8).reshape(count, 4)
    labels = (np.arange(count) % len(NAMES)).astype(np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"train-{name}-ubyte").write_bytes(head + array.tobytes())


def shown(chats: Sequence[Told]) -> tuple[set[int], set[tuple[int, ...]]]:
    """Numbers of the images, and combinations of classes of chats that show several."""
    found: set[int] = set()
    together: set[tuple[int, ...]] = set()
    for chat in chats:
        numbers = [int.from_bytes(np.asarray(picture)[0].tobytes(), "little") for picture in chat.pictures]
        found.update(numbers)
        if len(numbers) > 1:
            together.add(tuple(sorted(number % len(NAMES) for number in numbers)))
    return found, together


def test_validation_shows_nothing_of_training(tmp_path: Path) -> None:
    write_numbered(tmp_path, 300)
    questions = Questions(Idx(NAMES), NAMES, {"early": [0, 1, 2]}, count=3000, held=600, share=0.2)
    parts = {}
    for split in ("train", "val"):
        opened = questions.open(tmp_path, split)  # type: ignore[arg-type]
        assert opened is not None
        parts[split] = shown(opened.read(range(len(opened))))
    (train, combined), (val, held) = parts["train"], parts["val"]
    assert len(train) > 200
    assert len(val) > 50
    assert not train & val
    # of 55 pairs and 220 triples of ten classes most are met, and each on one side only
    assert len(combined | held) > 200
    assert held
    assert not combined & held
