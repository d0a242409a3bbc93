"""Sets of recordings in every format: the same sounds and words however they lie; what is broken is passed over."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from core.data.audio import read_audio
from core.data.manifest import Manifest
from core.data.packed_recordings import AudioParquet, AudioShards
from core.data.recordings import AudioFolder, AudioFormat, AudioSet, FileNames, Held
from core.data.skip import Skipping
from core.data.utterance import Spoken, Utterance, utterance
from core.errors import InputError

WORDS = ["no", "yes", "no", "yes"]


def tone(number: int, rate: int = 8000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 110 * (number + 1) * np.arange((number + 1) * 800) / rate)


def content(number: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(number), 8000, format="WAV")
    return file.getvalue()


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    """Four recordings, ``WORD_NUMBER.wav``."""
    folder = tmp_path / "waves"
    folder.mkdir()
    for number, word in enumerate(WORDS):
        (folder / f"{word}_{number}.wav").write_bytes(content(number))
    return folder


def shards(folder: Path) -> AudioFormat:
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for number, word in enumerate(WORDS):
            said = json.dumps({"text": f"{word}!", "duration": (number + 1) / 10, "language": "en", "license": "CC0"})
            members = {"wav": content(number), "cls": word.encode(), "json": said.encode()}
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return AudioShards()


def parquet(folder: Path) -> AudioFormat:
    audio = [{"bytes": content(number), "path": f"{number}.wav"} for number in range(4)]
    table = pa.table(
        {
            "audio": audio,
            "label": [WORDS.index(word) for word in WORDS],
            "text": [f"{word}!" for word in WORDS],
            "duration": [0.1, 0.2, 0.3, 0.4],
            "language": ["en"] * 4,
        }
    )
    features = {"audio": {"_type": "Audio"}, "label": {"_type": "ClassLabel", "names": ["no", "yes"]}}
    told = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": told}), folder / "train-00000-of-00001.parquet")
    return AudioParquet()


def jsonl(folder: Path) -> AudioFormat:
    lines = []
    for number, word in enumerate(WORDS):
        (folder / f"{number}.wav").write_bytes(content(number))
        row = {"audio_filepath": f"{number}.wav", "text": f"{word}!", "label": word, "duration": (number + 1) / 10}
        lines.append(json.dumps({**row, "lang": "en"}))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return Manifest()


def csv(folder: Path) -> AudioFormat:
    jsonl(folder)
    (folder / "train.jsonl").unlink()
    rows = [f"{number}.wav,{word}!,{word},{(number + 1) / 10},en" for number, word in enumerate(WORDS)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,transcription,label,duration,language", *rows]))
    return Manifest()


@pytest.mark.parametrize("make", [shards, parquet, jsonl, csv])
def test_every_format_gives_the_same(make, tmp_path: Path) -> None:
    found = make(tmp_path).open(tmp_path, "train")
    assert found is not None
    assert found.noun == "recordings"
    assert found.classes == ["no", "yes"]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1]
    for number, wave in enumerate(found.read(range(4))):
        assert torch.equal(wave, read_audio(content(number)))
    assert found.captions == [
        Utterance(f"{word}!", language="en", seconds=pytest.approx((number + 1) / 10))
        for number, word in enumerate(WORDS)
    ]
    assert make(tmp_path).open(tmp_path, "test") is None


def test_shards_of_pictures_and_of_sounds_keep_apart(tmp_path: Path) -> None:
    from core.data.shards import Shards

    shards(tmp_path)
    with pytest.raises(InputError, match="hold no pictures"):
        Shards().open(tmp_path, "train")
    assert len(AudioShards().open(tmp_path, "train") or []) == 4


def test_file_names(waves: Path) -> None:
    found = FileNames("(?P<label>[a-z]+)_[0-9]+", test=".*_3", texts={"no": "No.", "yes": "Yes."})
    train, test = found.open(waves, "train"), found.open(waves, "test")
    assert train is not None
    assert test is not None
    assert [train.name(n) for n in range(3)] == ["no_0.wav", "no_2.wav", "yes_1.wav"]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1]
    assert [said.text for said in test.captions or []] == ["Yes."]
    assert found.open(waves, "val") is None
    with pytest.raises(InputError, match="no group"):
        FileNames("[a-z]+")
    with pytest.raises(InputError, match="no regular expression"):
        FileNames("(?P<label>[a-z]+")
    with pytest.raises(InputError, match="name of no recording matches"):
        FileNames("(?P<label>x)").open(waves, "train")


def test_folders(waves: Path, tmp_path: Path) -> None:
    for word in ("no", "yes"):
        (tmp_path / "classes" / word).mkdir(parents=True)
    for path in waves.iterdir():
        path.rename(tmp_path / "classes" / path.stem.split("_")[0] / path.name)
    found = AudioFolder().open(tmp_path / "classes", "train")
    assert found is not None
    assert (found.classes, len(found)) == (["no", "yes"], 4)
    assert len(AudioFolder().open(tmp_path / "classes", "predict") or []) == 4
    with pytest.raises(InputError, match="two or more subfolders"):
        AudioFolder().open(tmp_path / "classes" / "no", "train")


def test_broken_recordings_are_named_and_passed_over(waves: Path, tmp_path: Path) -> None:
    (waves / "no_2.wav").write_bytes(b"")
    soundfile.write(waves / "yes_1.wav", np.zeros(8000 * 3), 8000)
    whole = FileNames("(?P<label>[a-z]+)_[0-9]+").open(waves, "train")
    assert whole is not None
    found = Skipping(Held(whole, longest=2.0), limit=2, report=tmp_path / "bad.txt")
    with pytest.warns(UserWarning, match="passed over"):
        read, taken = found.take([0, 1, 2, 3])
    assert taken == [0, 3, 3, 3]
    assert torch.equal(read[1], read[3])
    report = (tmp_path / "bad.txt").read_text()
    assert "no_2.wav" in report
    assert "lasts 3.0 s, the limit is 2 s" in report
    with pytest.raises(InputError, match=r"recordings can't be read, the limit is 0"):
        Skipping(Held(whole, longest=2.0), limit=0).read([1])


def test_held_recordings_are_the_same_whatever_is_kept(waves: Path) -> None:
    whole = FileNames("(?P<label>[a-z]+)_[0-9]+").open(waves, "train")
    assert whole is not None
    all_kept, none_kept = Held(whole), Held(whole, most=0)
    for _ in range(2):
        for one, other in zip(all_kept.read(range(4)), none_kept.read(range(4)), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"duration": "soon"}, "expected seconds above 0"),
        ({"task": "sing"}, "expected transcribe or translate"),
        ({"segments": [{"start": 2, "end": 1, "text": ""}]}, "never go back"),
        ({"segments": "["}, "segments must be a list"),
    ],
)
def test_wrong_fields(said: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        utterance(said, "row 1")


def test_segments_make_the_text() -> None:
    cell = '[{"start": 0, "end": 1, "text": "a"}, {"start": 1, "end": 2.5, "text": " b"}]'
    assert utterance({"segments": cell}, "row") == Utterance("a b", (Spoken(0, 1, "a"), Spoken(1, 2.5, " b")))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.jsonl", "{", "line 1 is not JSON"),
        ("train.jsonl", "[1]", "is no JSON object"),
        ("train.jsonl", '{"text": "a"}', "names no recording"),
        ("train.csv", "path,text\na", "has 1 cells, the header 2"),
    ],
)
def test_wrong_manifests(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        Manifest().open(tmp_path, "train")


def test_nothing_there(tmp_path: Path) -> None:
    formats: list[AudioFormat] = [Manifest(), AudioShards(), AudioParquet(), FileNames("(?P<label>.)"), AudioFolder()]
    for format in formats:
        for root in (tmp_path, tmp_path / "none"):
            with pytest.raises(InputError):
                format.open(root, "train")


def test_a_set_is_a_set(waves: Path) -> None:
    found: AudioSet | None = FileNames("(?P<label>[a-z]+)_[0-9]+").open(waves, "train")
    assert found is not None
    assert len(found) == 4
