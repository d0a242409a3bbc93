"""What a Perceiver does beyond what transformers has: several readings, looking inside, hiding, errors, recipes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from core.errors import InputError
from core.nn import Ctx, FourierPositions, Memory, Tokens, from_border_to_border, points_of
from core.train.cli import main
from core.train.rebuild import rebuild
from multimodal.perceiver import (
    ByteTokenizer,
    ClassOutput,
    DenseOutput,
    Fourier,
    Learned,
    Part,
    Perceiver,
    PerceiverConfig,
    SeveralInput,
    SignalInput,
    TextInput,
    TextOutput,
)
from multimodal.perceiver.names import hugging_face
from multimodal.tasks.classify import PerceiverClassify

ROOT = Path(__file__).parents[2]
SMALL = PerceiverConfig(
    SignalInput(2, (1, 1), None, Fourier(3, (4, 4))), ClassOutput(3), latents=4, dim=16, depth=1, heads=2, read_heads=2,
    qk_dim=16, v_dim=16,
)  # fmt: skip


def test_a_part_is_one_input() -> None:
    with pytest.raises(ValueError, match="not several"):
        Part(SeveralInput(image=Part(SignalInput())))


def randomised(config: PerceiverConfig, recompute: bool = False) -> Perceiver:
    torch.manual_seed(0)
    model = Perceiver(config, recompute=recompute).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def test_fourier_positions_equal_their_formula() -> None:
    found = FourierPositions(4, (5, 9))(from_border_to_border((5, 9)))
    assert found.shape == (45, 18)
    y, x = -1 + 2 * 3 / 4, -1 + 2 * 7 / 8  # row 3 of 5, column 7 of 9
    frequencies = [np.linspace(1, n / 2, 4) for n in (5, 9)]
    angles = np.pi * np.concatenate([frequencies[0] * y, frequencies[1] * x])
    wanted = torch.tensor([y, x, *np.sin(angles), *np.cos(angles)]).float()
    torch.testing.assert_close(found[3 * 9 + 7], wanted, atol=1e-5, rtol=1e-5)
    places = points_of(torch.tensor([0, 31, 44]), (5, 9))
    torch.testing.assert_close(places, torch.tensor([[-1, -1], [2 * 3 / 5 - 1, 2 * 4 / 9 - 1], [0.6, 7 / 9]]))


@pytest.mark.parametrize("shared", [True, False])
def test_reading_again_is_a_second_stage_with_or_without_weights_of_its_own(shared: bool) -> None:
    config = replace(SMALL, reads=3, rounds=2, shared=shared)
    model, x = randomised(config), torch.randn(2, 2, 4, 4).double()
    once = len(list(Perceiver(SMALL).stages.parameters()))
    assert len(list(model.stages.parameters())) == once * (2 if shared else 3)
    given = model.input(x)
    stages = [model.stages[0], model.stages[1]]
    stages += [*model.stages[2].stack] * 2 if shared else list(model.stages[2:])
    ctx = Ctx(memory=Memory(given.x))
    latents = model.latents.expand(2, -1, -1)
    with torch.no_grad():
        for read, process in zip(stages[::2], stages[1::2], strict=True):
            latents = read(latents, ctx).x
            for _ in range(2):
                latents = process.stack(latents).x
        torch.testing.assert_close(model.features(x).x, latents, atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match="several times"):
        hugging_face(config)


def test_recomputing_changes_nothing_and_what_latents_look_at_can_be_seen() -> None:
    x = torch.randn(2, 2, 4, 4).double()
    grads = []
    for recompute in (False, True):
        model = randomised(SMALL, recompute)
        model(x).square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    notes = model.features(x, want={0: {"cross": True}, 1: {0: {0: {"attn": [1]}}}}).notes
    assert notes[0]["cross"]["weights"].shape == (2, 2, 4, 16)
    torch.testing.assert_close(notes[0]["cross"]["weights"].sum(-1), torch.ones(2, 2, 4).double())
    assert notes[1][0][0]["attn"]["weights"].shape == (2, 1, 4, 4)


def test_the_order_of_what_is_read_does_not_matter() -> None:
    model, x = randomised(SMALL), torch.randn(1, 2, 4, 4).double()
    given = model.input(x)
    order = torch.randperm(16)
    mixed = given._replace(x=given.x[:, order])
    torch.testing.assert_close(model.think(mixed).x, model.think(given).x)
    hidden = torch.where(torch.arange(16) < 9, 0, -1)[None]
    cut = given._replace(x=given.x[:, :9])
    torch.testing.assert_close(model.think(given, Tokens(index=hidden)).x, model.think(cut).x)


def test_hidden_parts_have_no_say() -> None:
    signal = SignalInput(1, (4,), None, Fourier(2, (8,)))
    for rate, seen in ((0.0, True), (None, True), (1.0, False)):
        config = replace(SMALL, input=SeveralInput(audio=Part(signal, rate), image=Part(SMALL.input)))
        model = randomised(config)
        inputs = {"audio": torch.randn(1, 32).double(), "image": torch.randn(1, 2, 4, 4).double()}
        other = {**inputs, "audio": torch.randn(1, 32).double()}
        assert torch.equal(model(inputs), model(other)) is not seen
    model = randomised(replace(SMALL, input=SeveralInput(audio=Part(signal, 0.5), image=Part(SMALL.input))))
    assert torch.equal(model(inputs), model(inputs))
    model.train()
    assert not torch.equal(model(inputs), model(inputs))


def test_what_does_not_fit_is_refused() -> None:
    model = Perceiver(SMALL)
    for shape in ((2, 3, 4, 4), (2, 2, 4), (2, 32)):
        with pytest.raises(ValueError, match="expected \\(batch, 2, and 2 axes\\)"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="9 learned positions"):
        Perceiver(replace(SMALL, input=SignalInput(2, (1, 1), None, Learned(9, 8))))(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="positions with 1 axes"):
        Perceiver(replace(SMALL, input=SignalInput(2, (1, 1), None, Fourier(2, (8,)))))(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"expected \['image'\]"):
        Perceiver(replace(SMALL, input=SeveralInput(image=Part(SMALL.input))))({"audio": torch.zeros(1, 8)})
    with pytest.raises(ValueError, match="3 heads do not divide"):
        Perceiver(replace(SMALL, heads=3))
    with pytest.raises(ValueError, match="needs a TextInput"):
        replace(SMALL, output=TextOutput())
    with pytest.raises(ValueError, match="on a grid"):
        PerceiverConfig(TextInput(), DenseOutput())
    with pytest.raises(ValueError, match="no share"):
        Part(SMALL.input, 2.0)
    with pytest.raises(InputError, match="expected a ClassOutput"):
        PerceiverClassify(Perceiver(replace(SMALL, output=DenseOutput())))


TEXTS = ["", "hello", "naïve café \n\t", "日本語 🙂", "[MASK] is not a token here"]


def test_bytes_equal_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.PerceiverTokenizer(), ByteTokenizer()
    for text in TEXTS[:-1]:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == text
        assert ours.decode(ours.encode(text), special=True) == theirs.decode(ours.encode(text))
    assert ours.decode(ours.encode(TEXTS[-1])) == TEXTS[-1]
    assert max(ours.encode(TEXTS[-1])[1:-1]) > 5
    ids, tokens = ours.batch(TEXTS, 40)
    assert ids.shape == (5, 28)
    assert (ids != ours.pad).sum(1).tolist() == (tokens.index >= 0).sum(1).tolist()
    with pytest.raises(InputError, match="text 4 has 28 byte tokens, the model takes 20"):
        ours.batch(TEXTS, 20)
    with pytest.raises(InputError, match="999 is no byte token"):
        ours.decode([999])
    with pytest.raises(InputError, match="no texts"):
        ours.batch([], 20)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 recordings of noise, named as those of the Free Spoken Digit Dataset are."""
    folder = tmp_path_factory.mktemp("digits")
    random = np.random.default_rng(0)
    for number in range(16):
        name = f"{number % 4}_noise_{number // 2}.wav"
        soundfile.write(folder / name, random.normal(0, 0.1, 4000 + 100 * number), 8000)
    return folder


def test_the_recipe_for_digits(digits: Path, tmp_path: Path) -> None:
    given = f"--data.root={digits}", "--data.hold_out=0.25"
    run("perceiver_fsdd", tmp_path, *given)
    with pytest.raises(InputError, match="equally long"):
        run("perceiver_fsdd", tmp_path / "other", *given, "--data.ear.silence=0.1")


def test_the_recipe_for_pixels_has_the_same_model_class(tmp_path: Path) -> None:
    run("perceiver_fashion_mnist", tmp_path, "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1")


def run(name: str, folder: Path, *options: str) -> None:
    """Two steps of a configuration, whose checkpoint alone gives the model back."""
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    quick += ["--trainer.precision=32-true", "--data.batch_size=4", "--data.workers=0", f"--runs={folder}"]
    quick += ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]
    main(["fit", "-c", str(ROOT / "configs" / "multimodal" / f"{name}.yaml"), *quick, *options])
    model = rebuild(next(folder.rglob("last.ckpt"))).model
    assert isinstance(model, Perceiver)
    assert model.config.latents == 32
