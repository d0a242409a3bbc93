"""openai-whisper's own tests pass with our functions in place of theirs.

Its tests are in no wheel: the source distribution is fetched with pip, once, and kept in pytest's cache.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
RELEASE = "openai-whisper==20250625"
FILES = ("test_audio.py", "test_normalizer.py", "test_timing.py", "test_tokenizer.py", "test_transcribe.py")


@pytest.fixture(scope="module")
def release(request: pytest.FixtureRequest) -> Path:
    """The source distribution."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("openai-whisper")
    with FileLock(folder / ".lock"):
        if not list(folder.glob("*.tar.gz")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder), RELEASE]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:]
                pytest.skip(f"pip can't fetch the source of {RELEASE}, whose tests these are: {' '.join(reason)}")
    return next(folder.glob("*.tar.gz"))


def test_their_tests(release: Path, assets: Path, tmp_path: Path) -> None:
    with tarfile.open(release) as archive:
        for member in archive.getmembers():
            if Path(member.name).name in FILES:
                content = archive.extractfile(member)
                assert content is not None
                (tmp_path / Path(member.name).name).write_bytes(content.read())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    shutil.copy(assets / "speech" / "jfk.flac", tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)]),
        "TINY_EN": str(assets / "weights" / "whisper-tiny.en"),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "as_whisper",
        "-p",
        "no:cacheprovider",
        "-m",
        "not requires_cuda",
    ]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) == 18, done.stdout  # of all their tests but those of kernels on a GPU
