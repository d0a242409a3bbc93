"""Downloads: a local server that misbehaves, and a cache of the Hub without the Hub."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import InputError
from core.weights import cache_folder, fetch

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY; ``cuts`` says after how many bytes the next connections break off."""

    ranges = True
    body = BODY

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        body, start = self.server.body, 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[start:end])
        self.server.sent += len(body[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SENSORIUM_CACHE", str(tmp_path / "cache"))
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "cache").rglob("*.part"))


def test_download_once(server: Server, tmp_path: Path) -> None:
    path = fetch(f"{server.url}/a/tiny.pt?x=1", sha256=SHA.upper())
    assert path.read_bytes() == BODY
    assert path.name == "tiny.pt"
    assert tmp_path / "cache" in path.parents
    assert fetch(f"{server.url}/a/tiny.pt?x=1#sha256={SHA}") == path
    assert len(server.asked) == 1
    assert not leftovers(tmp_path)


def test_goes_on_after_a_cut(server: Server) -> None:
    server.cuts = [300_000, 200_000]
    assert fetch(f"{server.url}/m.bin", sha256=SHA).read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert server.sent == len(BODY)


def test_goes_on_in_a_later_run(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000] * 4
    with pytest.raises(InputError, match="first 400000 bytes are kept"):
        fetch(f"{server.url}/m.bin", sha256=SHA)
    assert leftovers(tmp_path) == ["m.bin.part"]
    assert fetch(f"{server.url}/m.bin", sha256=SHA).read_bytes() == BODY
    assert server.sent == len(BODY)
    assert not leftovers(tmp_path)


def test_a_server_without_ranges(server: Server) -> None:
    server.ranges = False
    server.cuts = [300_000]
    assert fetch(f"{server.url}/m.bin", sha256=SHA).read_bytes() == BODY


def test_a_draft_that_is_complete_or_of_another_file(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "files" / SHA
    folder.mkdir(parents=True)
    (folder / "m.bin.part").write_bytes(BODY)
    assert fetch(f"{server.url}/m.bin", sha256=SHA).read_bytes() == BODY
    (folder / "n.bin.part").write_bytes(b"something else")
    assert fetch(f"{server.url}/n.bin", sha256=SHA).read_bytes() == BODY


def test_the_wrong_file(server: Server, tmp_path: Path) -> None:
    good = fetch(f"{server.url}/m.bin", sha256=SHA)
    server.body = BODY[::-1]
    other = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(InputError, match=f"expected {other}"):
        fetch(f"{server.url}/m.bin", sha256=other)
    assert good.read_bytes() == BODY
    assert not leftovers(tmp_path)


def test_urls_that_give_nothing(server: Server) -> None:
    with pytest.raises(InputError, match="404"):
        fetch(f"{server.url}/missing.pt", sha256=SHA)
    for missing in (None, "abc"):
        with pytest.raises(InputError, match="needs its SHA-256"):
            fetch(f"{server.url}/m.bin", sha256=missing)
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="can't be had") as caught:
        fetch(f"{server.url}/m.bin", sha256=SHA)
    assert "\n" not in str(caught.value)


def test_two_at_once(server: Server) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(f"{server.url}/m.bin", sha256=SHA))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(server.asked) == 1


def test_names_from_a_url_stay_in_the_cache(server: Server, tmp_path: Path) -> None:
    for tail in ("/..%2f..%2fevil", "/", "/.hidden"):
        assert (tmp_path / "cache" / "files" / SHA) == fetch(server.url + tail, sha256=SHA).parent


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SENSORIUM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sensorium"
    monkeypatch.setenv("SENSORIUM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    (tmp_path / "own").write_text("a file")
    with pytest.raises(InputError, match="can't write to"):
        fetch("https://127.0.0.1:1/x.pt", sha256=SHA)


def test_local_paths(tmp_path: Path) -> None:
    assert fetch(tmp_path) == tmp_path
    assert fetch(str(tmp_path)) == tmp_path
    for name in (tmp_path / "none", "./none", "none", "a/b/c", "https:/x", ""):
        with pytest.raises(InputError, match="no file, folder or model"):
            fetch(name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as huggingface_hub leaves it, with HF_HUB_OFFLINE=1."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, files in {
        "models--openai--whisper-tiny": ["config.json", "model.safetensors"],
        "models--someone--nothing": ["config.json"],
    }.items():
        folder = tmp_path / "hub" / name
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit)
        (folder / "blobs").mkdir()
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for i, file in enumerate(files):
            (folder / "blobs" / str(i)).write_text(json.dumps({"file": file}))
            (snapshot / file).symlink_to(folder / "blobs" / str(i))
    return tmp_path / "hub"


def test_offline_from_the_hub_cache(hub: Path) -> None:
    folder = fetch("openai/whisper-tiny")
    assert hub in folder.parents
    assert (folder / "model.safetensors").exists()
    with pytest.raises(InputError, match=r"not in the cache.*HF_HUB_OFFLINE is set"):
        fetch("openai/whisper-base")
    with pytest.raises(InputError, match="not in the cache"):
        fetch("openai/whisper-tiny", revision="v2")
    with pytest.raises(InputError, match="has no weights"):
        fetch("someone/nothing")


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The four questions that huggingface_hub asks: which commit, which files, how big, and the files."""

    commit = "f" * 40
    files = (
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "modeling.py",
        "onnx/model.onnx",
        "tokenizer.json",
    )

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, body: bool) -> None:
        self.server.asked.append((self.path, self.command))  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        data, kind = b"", "application/json"
        if not path.removeprefix("/api/models").startswith("/some/model"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "/tree/" in path:
            data = json.dumps([{"type": "file", "path": n, "size": len(n), "oid": n} for n in self.files]).encode()
        elif path.startswith("/api/models/"):
            data = json.dumps(
                {"id": "some/model", "sha": self.commit, "siblings": [{"rfilename": n} for n in self.files]}
            ).encode()
        else:
            data, kind = path.split(f"/{self.commit}/")[1].encode(), "application/octet-stream"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_only_the_files_needed_from_the_hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    server.RequestHandlerClass = HubHandler  # type: ignore[assignment]
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    folder = fetch("some/model")
    assert sorted(file.name for file in folder.rglob("*")) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_text() == "model.safetensors"
    with pytest.raises(InputError, match="has no model 'no/model'"):
        fetch("no/model")
    with pytest.raises(InputError, match="has no weights"):
        fetch("some/model", patterns=["*.gguf"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("some/model") == folder
