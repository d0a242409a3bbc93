"""The loss of transcription: transformers' on the same weights, and the same alone, padded and batched."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig as PeerConfig
from transformers import WhisperForAudioClassification, WhisperForConditionalGeneration

from audio.classifier import AudioClassifier, ClassifierConfig
from audio.targets import IGNORED, Targets, padded
from audio.teacher_forcing import encode_padded, forced_states, text_loss
from audio.tokenizer import Tokenizer
from audio.weights import HUGGING_FACE
from audio.whisper import Whisper, WhisperConfig
from core.data.utterance import Spoken, Utterance
from core.weights import load_into

SHAPE = WhisperConfig(
    mels=16, vocab=51865, audio_context=50, audio_dim=32, audio_heads=2, audio_layers=2,
    text_context=32, text_dim=32, text_heads=2, text_layers=2,
)  # fmt: skip


def peer_config(**more: object) -> PeerConfig:
    return PeerConfig(
        vocab_size=SHAPE.vocab, num_mel_bins=16, max_source_positions=50, max_target_positions=32, d_model=32,
        encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=128,
        decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=128, dropout=0.0, **more,
    )  # fmt: skip


def shaken(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "norm" not in name and "embed_positions" not in name:
            torch.nn.init.normal_(parameter, std=0.1)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    tokenizer = Tokenizer()
    targets = [
        Targets(timestamps=1)(tokenizer, Utterance("Hello there.", (Spoken(0, 0.5, "Hello there."),)), 1.0),
        Targets()(tokenizer, Utterance("Guten Tag, wie geht es?", language="de", prompt="Ja."), 1.0),
    ]
    return torch.randn(2, 16, 100), *padded(targets, tokenizer.eot)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_transformers(smoothing: float) -> None:
    peer = WhisperForConditionalGeneration(peer_config())
    shaken(peer)
    ours = Whisper(SHAPE)
    load_into(ours, HUGGING_FACE, peer.state_dict())
    mel, tokens, labels = batch()
    logits = peer(input_features=mel, decoder_input_ids=tokens).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )
    if not smoothing:  # its own loss is without
        theirs = peer(input_features=mel, decoder_input_ids=tokens, labels=labels).loss
        torch.testing.assert_close(theirs, expected)
    total, count = text_loss(ours, forced_states(ours, encode_padded(ours, mel), tokens), labels, smoothing)
    assert count == int((labels != IGNORED).sum())
    torch.testing.assert_close(total / count, expected, rtol=1e-5, atol=1e-5)
    expected.backward()
    (total / count).backward()
    gradients = {name: parameter.grad for name, parameter in peer.named_parameters()}
    gradients = {name: torch.zeros(0) if grad is None else grad for name, grad in gradients.items()}
    gradients["model.encoder.embed_positions.weight"] = peer.model.encoder.embed_positions.weight.detach()
    gradients["proj_out.weight"] = gradients["model.decoder.embed_tokens.weight"]
    theirs = Whisper(SHAPE)
    load_into(theirs, HUGGING_FACE, gradients)
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_alone_padded_and_batched_are_the_same() -> None:
    torch.manual_seed(1)
    model = Whisper(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    mels = [torch.randn(16, frames) for frames in (40, 100, 62)]
    tokenizer = Tokenizer()
    said = [
        Targets()(tokenizer, Utterance(text), 1.0) for text in ("one", "a much longer sentence than that", "two by two")
    ]

    def loss(rows: list[int], frames: int | None = None) -> list[float]:
        longest = frames or max(mels[row].shape[1] for row in rows)
        mel = torch.stack([torch.nn.functional.pad(mels[row], (0, longest - mels[row].shape[1])) for row in rows])
        positions = torch.tensor([mels[row].shape[1] // 2 for row in rows])
        tokens, labels = padded([said[row] for row in rows], tokenizer.eot)
        states = forced_states(model, encode_padded(model, mel, positions), tokens)
        return [text_loss(model, states[i : i + 1], labels[i : i + 1])[0].item() for i in range(len(rows))]

    with torch.no_grad():
        mel, (tokens, labels) = mels[0][None], padded([said[0]], tokenizer.eot)
        alone = text_loss(model, forced_states(model, encode_padded(model, mel), tokens), labels)[0].item()
        assert loss([0], 100) == pytest.approx([alone], rel=1e-5)
        together = loss([0, 1, 2])
        assert together == pytest.approx([loss([row])[0] for row in range(3)], rel=1e-5)
        assert together[0] == pytest.approx(alone, rel=1e-5)


def test_classifier_equals_transformers() -> None:
    peer = WhisperForAudioClassification(peer_config(num_labels=5, classifier_proj_size=24)).eval()
    shaken(peer)
    ours = AudioClassifier(ClassifierConfig(SHAPE, 5, 24)).eval()
    whole = Whisper(SHAPE)
    states = {f"model.{name}": tensor for name, tensor in peer.state_dict().items() if name.startswith("encoder.")}
    rest = {name: tensor for name, tensor in HUGGING_FACE.export(whole.state_dict()).items() if name not in states}
    load_into(whole, HUGGING_FACE, {**rest, **states})
    ours.encoder.load_state_dict(whole.encoder.state_dict())
    ours.projection.load_state_dict(peer.projector.state_dict())
    ours.head.load_state_dict(peer.classifier.state_dict())
    mel = torch.randn(3, 16, 100)
    with torch.no_grad():
        torch.testing.assert_close(ours(mel), peer(mel).logits, rtol=1e-5, atol=1e-5)
        short = mel[:1, :, :60]
        mixed = torch.stack([torch.nn.functional.pad(short[0], (0, 40)), mel[1]])
        both = ours(mixed, torch.tensor([30, 50]))
        torch.testing.assert_close(both, torch.cat([ours(short), ours(mel[1:2])]), rtol=1e-5, atol=1e-5)


def test_targets() -> None:
    tokenizer = Tokenizer()
    segments = (Spoken(0.0, 1.0, "Good morning."), Spoken(1.5, 2.02, " How are you?"))
    said = Utterance("Good morning. How are you?", segments, prompt="Hello.")
    timed = Targets(timestamps=1)(tokenizer, said, 2.1)
    text = tokenizer.decode_with_timestamps(timed.tokens)
    assert text == (
        "<|startofprev|> Hello.<|startoftranscript|><|en|><|transcribe|>"
        "<|0.00|> Good morning.<|1.00|><|1.50|> How are you?<|2.02|><|endoftext|>"
    )
    assert tokenizer.decode_with_timestamps(timed.tokens[: timed.counted]).endswith("<|startoftranscript|>")
    # a recording that was made faster, after a second of silence; times never lie beyond its end
    fast = Targets(timestamps=1, prompts=0)(tokenizer, said, 1.9, scale=0.5, offset=1.0)
    assert tokenizer.decode_with_timestamps(fast.tokens).count("<|1.50|>") == 1
    plain = Targets(timestamps=0.5, prompts=0.5)(tokenizer, said, 2.1, draws=(0.5, 0.5))
    assert tokenizer.decode_with_timestamps(plain.tokens) == (
        "<|startoftranscript|><|en|><|transcribe|><|notimestamps|> Good morning. How are you?<|endoftext|>"
    )
    english = Targets(whole=True, timestamps=1)(Tokenizer(multilingual=False), Utterance("one"), 0.43)
    assert Tokenizer(multilingual=False).decode_with_timestamps(english.tokens) == (
        "<|startoftranscript|><|0.00|> one<|0.44|><|endoftext|>"
    )


def test_long_prompts_lose_their_beginning() -> None:
    tokenizer = Tokenizer()
    said = Utterance("one two three four five six seven eight", prompt=" ".join(str(n) for n in range(100)))
    target = Targets(prompts=1)(tokenizer, said, 1.0, context=16)
    assert len(target.tokens) <= 17
    assert target.tokens[0] == tokenizer.sot_prev
    assert target.tokens[target.counted - 1] == tokenizer.sot
    assert tokenizer.decode(target.tokens[1 : target.counted - 1]).endswith("99")


def test_padding_counts_for_nothing() -> None:
    tokenizer = Tokenizer()
    targets = [Targets(prompts=1)(tokenizer, Utterance(text, prompt="so"), 1.0) for text in ("a", "a b c d")]
    tokens, labels = padded(targets, tokenizer.eot)
    assert tokens.shape == labels.shape
    for row, target in enumerate(targets):
        counted = labels[row][labels[row] != IGNORED].tolist()
        assert counted == target.tokens[target.counted :]
    assert np.array_equal(tokens[0, : len(targets[0].tokens) - 1], targets[0].tokens[:-1])
