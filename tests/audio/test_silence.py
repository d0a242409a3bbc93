"""Most of the silence after a recording is not encoded, and the text stays as good."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from audio.fast import fast_whisper
from audio.mel import LogMel
from audio.settings import OPENAI, Settings
from audio.silence import Silence
from audio.transcribe import Transcriber
from audio.weights import load_whisper
from audio.wer import word_errors
from core.data.audio import read_audio
from core.errors import InputError
from core.nn.rowwise import has_integers

ALL = Silence(one_of=1)


@pytest.mark.parametrize(("frames", "one_of"), [(0, 8), (170, 4), (1201, 7), (1400, 8), (1401, 8), (3000, 4)])
@torch.inference_mode()
def test_equals_openais_encoder_where_positions_are_what_stands_for_them(
    frames: int, one_of: int, random_models: Callable
) -> None:
    model, reference = random_models(51_864, 0, 0.05)
    mel = torch.randn(2, 80, 3000)
    whole = -(-(frames + 100) // 100) * 50  # with a second of silence, in whole seconds
    whole = whole if whole <= 750 else 1500
    runs = [run for run in torch.arange(whole, 1500).split(one_of) if len(run)]
    middles = [run[(len(run) - 1) // 2].expand(len(run)) for run in runs]
    x = F.gelu(reference.encoder.conv2(F.gelu(reference.encoder.conv1(mel)))).transpose(1, 2)
    x = (x + reference.encoder.positional_embedding)[:, torch.cat([torch.arange(whole), *middles])]
    for block in reference.encoder.blocks:
        x = block(x)
    found = Silence(one_of=one_of).encode(model, mel, [frames, frames])
    torch.testing.assert_close(found, reference.encoder.ln_post(x), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_window_is_encoded_as_alone(random_models: Callable) -> None:
    model, _ = random_models(51_864, 0, 0.05)
    mel, frames = torch.randn(5, 80, 3000), [100, 900, 2500, 50, 850]
    together = Silence().encode(model, mel, frames)
    for row, count in enumerate(frames):
        alone = Silence().encode(model, mel[row : row + 1], [count])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not has_integers(), reason="PyTorch has no 8-bit layers for this processor")
@torch.inference_mode()
def test_fast_encoders_do_the_same(assets: Path, tiny_en: tuple) -> None:
    quick = fast_whisper(load_whisper(assets / "weights" / "whisper-tiny.en")[0], "int8")
    wave = read_audio(assets / "speech" / "ljspeech" / "LJ001-0002.wav", 16_000)
    mel, frames = LogMel(80)(wave, padding=480_000)[None, :, :3000], [len(wave) // 160]
    expected = Silence().encode(tiny_en[0], mel, frames)
    found = Silence().encode(quick, mel.to(next(quick.parameters()).dtype), frames).float()
    assert (found - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.thorough  # what the default gets wrong is bounded in test_batches
def test_no_more_words_are_wrong(tiny_en: tuple, assets: Path) -> None:
    folder = assets / "speech" / "ljspeech"
    with (folder / "transcripts.tsv").open(encoding="utf-8") as file:
        said = {folder / f"{clip}.wav": text for clip, text in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    said[folder.parent / "jfk.flac"] = (folder.parent / "jfk.txt").read_text(encoding="utf-8")

    def wrong(silence: Silence) -> int:
        jobs = Transcriber(tiny_en[0], settings=Settings(silence=silence)).each(said)
        return word_errors(list(said.values()), [job.transcript.text for job in jobs]).wrong

    assert wrong(Silence()) <= wrong(ALL)


def test_what_is_refused_and_where_all_is_encoded(random_models: Callable) -> None:
    with pytest.raises(InputError, match="expected at least 0 and 1"):
        Silence(one_of=0)
    with pytest.raises(InputError, match="expected at least 0 and 1"):
        Silence(margin=-1)
    model, _ = random_models(51_864, 0)
    assert Transcriber(model).decoder.silence == Silence()
    for settings in (OPENAI, Settings(clip_timestamps=(0.0, 1.0))):
        assert Transcriber(model, settings=settings).decoder.silence == ALL
