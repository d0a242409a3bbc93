"""Vision-language models against transformers: outputs, gradients, generation, weights both ways."""

from pathlib import Path

import pytest
import torch
import vlm_peers as peers
from safetensors.torch import load_file
from torch import Tensor

from core.nn import Ctx, Static, Tokens, padded_tokens
from multimodal.vlm.weights import export_vlm, is_vlm, load_vlm

IMAGE = peers.IMAGE


def pixels(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 47, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompt(*runs: int) -> Tensor:
    """One row of words with runs of image tokens between them."""
    row = text(3)
    for seed, run in enumerate(runs, 1):
        row += [IMAGE] * run + text(4, seed)
    return torch.tensor([row])


def compare(theirs, ours, ids: Tensor, images: Tensor, **given) -> None:
    """Outputs, and the norm of all gradients; those of a few weights are compared one by one."""
    target = torch.randn(*ids.shape, 50, generator=torch.Generator().manual_seed(9))
    expected = theirs(input_ids=ids, **given).logits
    found = ours(ids, images=images).x
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (expected * target).sum().backward()
    (found * target).sum().backward()
    grads = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    total = sum(g.double().square().sum() for g in grads.values())
    wanted = sum(p.grad.double().square().sum() for p in theirs.parameters() if p.grad is not None)
    torch.testing.assert_close(total, wanted, rtol=1e-4, atol=0)


def check_gradient(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_feature_layer": [-2, 1], "vision_feature_select_strategy": "full"},
        {"vision_feature_layer": -1, "multimodal_projector_bias": False, "tie_word_embeddings": True},
    ],
)
def test_llava(tmp_path: Path, changes: dict) -> None:
    theirs = peers.llava(**changes)
    ours, origin = peers.ours(theirs, tmp_path)
    assert is_vlm(tmp_path)
    count = ours.tokens_of_a_picture
    assert count == 17 if changes.get("vision_feature_select_strategy") else 16
    ids, images = prompt(count, count), pixels(2)
    compare(theirs, ours, ids, images, pixel_values=images)
    mine, other = (
        ours.eye.tower.patch.proj.weight.grad,
        theirs.model.vision_tower.embeddings.patch_embedding.weight.grad,
    )
    check_gradient(mine.flatten(), other.flatten())
    check_gradient(ours.projector.fc1.weight.grad, theirs.model.multi_modal_projector.linear_1.weight.grad)
    back(ours, origin, tmp_path)


@pytest.mark.parametrize(("smol", "changes"), [(False, {}), (True, {"tie_word_embeddings": True})])
def test_idefics3(tmp_path: Path, smol: bool, changes: dict) -> None:
    theirs = peers.idefics3(smol, **changes)
    ours, origin = peers.ours(theirs, tmp_path)
    assert ours.tokens_of_a_picture == 4
    ids, images = prompt(4, 8), pixels(3)
    compare(theirs, ours, ids, images, pixel_values=images[None])
    check_gradient(ours.projector.proj.weight.grad, theirs.model.connector.modality_projection.proj.weight.grad)
    back(ours, origin, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{}, {"alpha_type": "vector", "qk_layer_norms": False, "use_resampler": False}, {"cross_layer_interval": 1}],
)
def test_idefics(tmp_path: Path, changes: dict) -> None:
    theirs = peers.idefics(**changes)
    ours, origin = peers.ours(theirs, tmp_path)
    ids, images = prompt(1, 1), pixels(2)
    compare(theirs, ours, ids, images, pixel_values=images[None], image_attention_mask=looks(ids))
    mine, other = ours.eye.tower.patch.proj.weight.grad, theirs.model.vision_model.embeddings.patch_embedding.weight
    check_gradient(mine.flatten(), other.grad.flatten())
    gate = ours.decoder.blocks[0].cross.post.alpha.grad
    check_gradient(gate, theirs.model.gated_cross_attn_layers[0].alpha_cross_attn.grad.flatten())
    back(ours, origin, tmp_path)


def looks(ids: Tensor) -> Tensor:
    """The image mask of transformers' Idefics processor: each token looks at the latest picture before it."""
    number = (ids == IMAGE).cumsum(1)
    return (number[..., None] == torch.arange(1, int(number.max()) + 1)).long()


def back(ours, origin, folder: Path) -> None:
    """The weights leave as they came, byte for byte."""
    export_vlm(ours, folder / "out.safetensors", origin.source)
    came, left = load_file(folder / "model.safetensors"), load_file(folder / "out.safetensors")
    assert came.keys() == left.keys()
    for name, tensor in came.items():
        assert tensor.dtype == left[name].dtype
        assert torch.equal(tensor, left[name]), name


@pytest.mark.parametrize("layout", ["hub", "memory"])
def test_other_names_of_llava(tmp_path: Path, layout: str) -> None:
    from safetensors.torch import save_file

    theirs = peers.llava()
    ours, _ = peers.ours(theirs, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    if layout == "hub":
        renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): t for name, t in tensors.items()}
        renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    else:
        renamed = {name: t.contiguous().clone() for name, t in theirs.state_dict().items()}
    save_file(renamed, path)
    again, origin = load_vlm(tmp_path)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    back(again, origin, tmp_path)


def greedy(ours, ids: Tensor, images: Tensor | None, count: int, make=None) -> list[int]:
    cache = ours.cache() if make is None else ours.cache(make)
    fed, found = ids, []
    with torch.inference_mode():
        for _ in range(count):
            logits = ours(fed, Ctx(cache=cache), images=images if fed is ids else None).x
            fed = logits[:, -1:].argmax(-1)
            found.append(int(fed))
    return found


@pytest.mark.parametrize("kind", ["llava", "idefics3", "idefics"])
def test_greedy_generation(tmp_path: Path, kind: str) -> None:
    theirs = getattr(peers, kind)()
    ours, _ = peers.ours(theirs, tmp_path)
    count = {"llava": 16, "idefics3": 4, "idefics": 1}[kind]
    ids, images = prompt(count, count), pixels(2)
    expected, row = [], ids
    with torch.inference_mode():
        for _ in range(64):  # without a cache: transformers' own for Idefics has changed often
            given = {"pixel_values": images if kind == "llava" else images[None]}
            if kind == "idefics":
                given["image_attention_mask"] = looks(ids)[:, -1:].expand(-1, row.shape[1], -1).clone()
                given["image_attention_mask"][:, : ids.shape[1]] = looks(ids)
            logits = theirs(input_ids=row, use_cache=False, **given).logits[:, -1]
            logits[:, IMAGE] = -1e9  # transformers would look for its picture
            expected.append(int(logits.argmax(-1)))
            row = torch.cat([row, logits.argmax(-1, keepdim=True)], 1)
    with torch.no_grad():
        head = ours.decoder.head
        found = greedy(Without(ours), ids, images, 64)
        static = greedy(Without(ours), ids, images, 64, lambda: Static(200))
    assert head is not None
    assert found == expected == static


class Without:
    """A model that never says the image token."""

    def __init__(self, model) -> None:
        self.model, self.cache = model, model.cache

    def __call__(self, x: Tensor, ctx: Ctx, images: Tensor | None = None):
        out = self.model(x, ctx, images=images)
        out.x[..., IMAGE] = -1e9
        return out


@pytest.mark.parametrize("kind", ["llava", "idefics"])
def test_padded_and_alone(tmp_path: Path, kind: str) -> None:
    ours, _ = peers.ours(getattr(peers, kind)(), tmp_path)
    count = {"llava": 16, "idefics": 1}[kind]
    rows, images = [prompt(count, count)[0], prompt(count)[0]], pixels(3)
    with torch.no_grad():
        alone = [ours(rows[0][None], images=images[:2]).x[0], ours(rows[1][None], images=images[2:]).x[0]]
        lengths = torch.tensor([len(row) for row in rows])
        for left in (False, True):
            size = int(lengths.max())
            pads = [torch.zeros(size - len(row), dtype=torch.long) for row in rows]
            ids = torch.stack([torch.cat([p, r] if left else [r, p]) for p, r in zip(pads, rows, strict=True)])
            found = ours(ids, Ctx(padded_tokens(lengths, size, left=left)), images=images).x
            for row, expected in zip(found, alone, strict=True):
                mine = row[size - len(expected) :] if left else row[: len(expected)]
                torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llava", "idefics"])
def test_packed_and_alone(tmp_path: Path, kind: str) -> None:
    ours, _ = peers.ours(getattr(peers, kind)(), tmp_path)
    count = {"llava": 16, "idefics": 1}[kind]
    rows = [prompt(count, count)[0], torch.tensor(text(5, 7)), prompt(count)[0]]
    images = pixels(3)
    parts = (images[:2], None, images[2:])
    segment = torch.cat([torch.full((len(row),), number) for number, row in enumerate(rows)])[None]
    index = torch.cat([torch.arange(len(row)) for row in rows])[None]
    with torch.no_grad():
        alone = torch.cat([ours(row[None], images=some).x[0] for row, some in zip(rows, parts, strict=True)])
        packed = ours(torch.cat(rows)[None], Ctx(Tokens(index, segment)), images=images).x[0]
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
