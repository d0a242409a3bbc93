"""Reading recordings: against FFmpeg, torchaudio and what was written; and everything that can be wrong with a file."""

import builtins
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample as torchaudio_resample

from core.data import audio as module
from core.data.audio import Recording, read_audio, resample
from core.errors import InputError

FILTER = {"lowpass_filter_width": 16, "rolloff": 0.97, "resampling_method": "sinc_interp_kaiser", "beta": 9.0}


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def by_ffmpeg(path: Path, rate: int = 16_000) -> torch.Tensor:
    """What `ffmpeg -ac 1 -ar 16000 -f s16le` makes of a file."""
    parts = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        for frame in [*container.decode(audio=0), None]:
            parts += [torch.from_numpy(part.to_ndarray()[0]) for part in resampler.resample(frame)]
    return torch.cat(parts).float() / 32768


def encode(path: Path, codec: str, sound: np.ndarray | None, rate: int = 48_000, film: bool = False) -> Path:
    """Write stereo sound (2, n), film or both in a container that soundfile can't read."""
    with av.open(str(path), "w") as container:
        streams = []
        if film:
            video = container.add_stream("mpeg4", rate=5)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            streams.append((video, [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)) for _ in range(3)]))
        if sound is not None:
            stream = container.add_stream(codec, rate=rate, layout="stereo")
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, 0
            pieces = av.AudioResampler(
                format=stream.format, layout="stereo", rate=rate, frame_size=stream.frame_size or 1024
            )
            streams.append((stream, [*pieces.resample(frame), *pieces.resample(None)]))
        for stream, frames in streams:
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))
    return path


@pytest.fixture
def no_av(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


def test_pcm_is_exact(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 50_000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    expected = torch.from_numpy(samples.astype(np.float32) / 32768)
    assert torch.equal(read_audio(tmp_path / "a.wav"), expected)
    assert torch.equal(read_audio(str(tmp_path / "a.flac")), expected)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.1, 16_000), tone(0.1, 16_000, 1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    torch.testing.assert_close(read_audio(tmp_path / "a.wav"), torch.from_numpy((left + right) / 2))


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_equals_ffmpeg(ending: str, rate: int, tmp_path: Path) -> None:
    sound = np.stack([tone(12.3, rate), tone(12.3, rate, 1500)], 1)  # longer than a block
    soundfile.write(tmp_path / f"a.{ending}", sound, rate)
    ours, theirs = read_audio(tmp_path / f"a.{ending}"), by_ffmpeg(tmp_path / f"a.{ending}")
    assert abs(len(ours) - 12.3 * 16_000) <= 1
    inner = slice(2_000, 12 * 16_000)  # codecs differ in how they treat the ends
    torch.testing.assert_close(ours[inner], theirs[inner], rtol=0, atol=2e-3)


def test_speech_equals_ffmpeg(assets: Path) -> None:
    for name in ["jfk.flac", "ljspeech/LJ001-0002.wav"]:
        ours, theirs = read_audio(assets / "speech" / name), by_ffmpeg(assets / "speech" / name)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("ending", ["m4a", "webm", "mkv"])
def test_other_containers(ending: str, tmp_path: Path) -> None:
    codec = {"m4a": "aac", "webm": "libopus", "mkv": "pcm_s16le"}[ending]
    sound = np.stack([tone(11, 48_000), tone(11, 48_000)])
    path = encode(tmp_path / f"a.{ending}", codec, sound, film=ending == "mkv")
    ours, theirs = read_audio(path), by_ffmpeg(path)
    assert abs(len(ours) - 11 * 16_000) < 400
    torch.testing.assert_close(ours[2_000:170_000], theirs[2_000:170_000], rtol=0, atol=2e-3)


def unknown_length(tmp_path: Path, sound: np.ndarray) -> Path:
    """b.flac, which doesn't say how long it is, beside a.flac, which does."""
    soundfile.write(tmp_path / "a.flac", sound, 16_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples: what a recorder that streams leaves empty
    data[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(data)
    return tmp_path / "b.flac"


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    unknown_length(tmp_path, tone(1, 16_000))
    assert torch.equal(read_audio(tmp_path / "b.flac"), read_audio(tmp_path / "a.flac"))


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (8_000, 16_000), (16_000, 24_000), (11_025, 16_000)])
def test_blocks_resample_as_one(source: int, target: int) -> None:
    signal = torch.randn(source * 2 + 17)
    whole = torchaudio_resample(signal.double(), source, target, **FILTER).float()
    torch.testing.assert_close(resample(signal, source, target), whole, rtol=0, atol=5e-6)
    for size in (1_000, 7_919, source):
        parts = list(module.resampled(signal.split(size), source, target))
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=5e-6)


def test_odd_rates(tmp_path: Path) -> None:
    assert resample(torch.randn(100), 16_000, 16_000).shape == (100,)
    ours = resample(torch.from_numpy(tone(2, 44_099)), 44_099, 16_000)
    assert abs(len(ours) - 32_000) <= 1
    # after 2 s at 1e-6 too fast, a tone of 440 Hz is ahead by 0.0055 radians
    torch.testing.assert_close(ours[100:31_000], torch.from_numpy(tone(2, 16_000))[100:31_000], rtol=0, atol=4e-3)


def test_loud_floats_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 4 * tone(0.1, 16_000), 16_000, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav").abs().max() == 1.0


def broken(tmp_path: Path, kind: str) -> Path:
    """A file that can't be read, of the given kind."""
    path = tmp_path / f"talk.{kind.split()[-1]}"
    soundfile.write(tmp_path / "good.wav", tone(3, 16_000), 16_000)
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000)
    match kind:
        case "missing wav":
            return path
        case "folder wav":
            path.mkdir()
        case "empty wav":
            path.touch()
        case "text wav":
            path.write_text("This is not audio.\n" * 20)
        case "silent wav":
            soundfile.write(path, np.zeros(0), 16_000)
        case "nan wav":
            soundfile.write(path, np.array([0.1, np.nan, 0.2]), 16_000, subtype="FLOAT")
        case "rate wav":
            data = bytearray((tmp_path / "good.wav").read_bytes())
            data[24:28] = struct.pack("<I", 7)
            path.write_bytes(data)
        case "cut flac":
            soundfile.write(tmp_path / "good.flac", noise, 16_000)
            data = (tmp_path / "good.flac").read_bytes()
            path.write_bytes(data[: len(data) // 2])
        case "film mp4":
            encode(path, "aac", None, film=True)
        case "playlist m3u8":
            path.write_text(f"#EXTM3U\n#EXTINF:10,\n{tmp_path / 'good.wav'}\n")
        case "list ffconcat":
            path.write_text("ffconcat version 1.0\nfile good.wav\n")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing wav", "doesn't exist"),
        ("folder wav", "is a folder"),
        ("empty wav", "is empty"),
        ("text wav", "not audio in a known format"),
        ("silent wav", "0 seconds"),
        ("nan wav", "NaN"),
        ("rate wav", "claims 7 samples a second"),
        ("cut flac", "damaged or cut short"),
        ("film mp4", "no audio stream"),
        ("playlist m3u8", "not audio in a known format"),
        ("list ffconcat", "not audio in a known format"),
    ],
)
def test_broken_files(kind: str, message: str, tmp_path: Path) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(InputError, match=message) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flac_cut_between_frames(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.flac", np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    data = (tmp_path / "good.flac").read_bytes()
    starts = [i for i in range(1_000, len(data)) if data[i : i + 2] == b"\xff\xf8"]
    assert len(starts) > 5
    for start in starts:
        (tmp_path / "cut.flac").write_bytes(data[:start])
        with pytest.raises(InputError, match=r"cut\.flac is damaged or cut short"):
            read_audio(tmp_path / "cut.flac")


def test_without_the_extra(no_av: None, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, 16_000), 16_000)
    assert len(read_audio(tmp_path / "a.wav")) == 16_000
    path = tmp_path / "talk.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(InputError, match=r"talk\.m4a .*pip install 'sensorium\[media\]'"):
        read_audio(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(16_000 * 60, np.int16), 16_000)
    assert (tmp_path / "a.flac").stat().st_size < 20_000
    assert len(read_audio(tmp_path / "a.flac", longest=60)) == 960_000
    with pytest.raises(InputError, match=r"a\.flac is longer than 0.01 hours: cut it into parts, or raise the limit"):
        read_audio(tmp_path / "a.flac", longest=36)


def test_a_bomb_that_hides_its_length(tmp_path: Path) -> None:
    path = unknown_length(tmp_path, tone(60, 16_000))
    recording = Recording(path, longest=36)
    assert recording.promised is None
    with pytest.raises(InputError, match=r"b\.flac is longer than 0.01 hours"):
        list(recording.blocks())


@pytest.mark.parametrize("ending", ["wav", "mp3", "m4a"])
def test_a_recording_is_read_as_often_as_one_likes(ending: str, tmp_path: Path) -> None:
    path, sound = tmp_path / f"a.{ending}", np.stack([tone(25, 48_000)] * 2)
    if ending == "m4a":
        encode(path, "aac", sound)
    else:
        soundfile.write(path, sound.T, 48_000)
    recording = Recording(path)
    assert recording.promised == pytest.approx(25, abs=0.1)
    blocks = list(recording.blocks())
    assert all(len(block) <= 10.1 * 16_000 for block in blocks)
    whole = torch.cat(blocks)
    assert torch.equal(torch.cat(list(recording.blocks())), whole)
    assert torch.equal(read_audio(path), whole)
    with path.open("rb") as file:
        opened = Recording(file, name="standard input")
        assert torch.equal(torch.cat(list(opened.blocks())), whole)
        assert torch.equal(torch.cat(list(opened.blocks())), whole)
    assert torch.equal(read_audio(path.read_bytes()), whole)


def test_errors_name_what_has_no_path() -> None:
    with pytest.raises(InputError, match=r"^standard input is not "):
        Recording(io.BytesIO(b"not audio" * 50), name="standard input")
