"""``models add hf:…`` from a hub on this machine: what is downloaded, its revision, and an interrupted download."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from intarsia.adding.hub import _pipeline_files, download
from intarsia.errors import WeightsError
from tests.command_line import run_intarsia
from tests.tiny_files import SD1_LORA, checkpoint, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What the hub's client writes to the disk at once, and so can go on behind.
CHUNK = 10 * 2**20
Answer = subprocess.CompletedProcess[str]


class Hub(ThreadingHTTPServer):
    """A hub with one repository, ``ann/ink``, at one commit.

    Attributes:
        files: by name.
        asked: method, path and Range of each request.
        cut: bytes after which the first download of a larger file ends.
        wrong: names whose content is not what the hub says.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.asked: list[tuple[str, str, str]] = []
        self.cut = 0
        self.wrong: set[str] = set()

    @property
    def downloaded(self) -> set[str]:
        return {path.partition(f"/resolve/{COMMIT}/")[2] for method, path, _ in self.asked if method == "GET"} - {""}


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's interface that its client needs."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        asked_range = self.headers.get("Range") or ""
        self.server.asked.append((self.command, self.path, asked_range))
        path = self.path.partition("?")[0]
        if path in (
            "/api/models/ann/ink",
            *(f"/api/models/ann/ink/revision/{name}" for name in ("main", "v1", COMMIT)),
        ):
            self.reply(json.dumps(self.info()).encode(), {"Content-Type": "application/json"}, body)
            return
        name = path.partition(f"/ann/ink/resolve/{COMMIT}/")[2]
        if name not in self.server.files:
            self.reply(b"{}", {"X-Error-Code": "RepoNotFound"}, body, status=404)
            return
        self.send_file(name, asked_range, body)

    def send_file(self, name: str, asked_range: str, body: bool) -> None:
        content = self.server.files[name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if name in self.server.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, start = 200, 0
        if asked_range:
            status, start = 206, int(asked_range.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body and 0 < self.server.cut < len(content):
            self.break_off(content, headers)
            self.server.cut = 0
            return
        self.reply(content[start:], headers, body, status)

    def break_off(self, content: bytes, headers: dict[str, str]) -> None:
        """Part of a file, and then the connection is gone."""
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: self.server.cut])
        self.close_connection = True

    def info(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.server.files.items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        return {
            "id": "ann/ink",
            "modelId": "ann/ink",
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }

    def reply(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    files = {
        "README.md": b"# Ink",
        "ink.safetensors": write(tmp_path / "l", SD1_LORA).read_bytes(),
        "dream.safetensors": write(tmp_path / "c", checkpoint() | {"padding": (6_000_000,)}).read_bytes(),
    }
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def intarsia(tmp_path: Path, hub: Hub) -> Callable[..., Answer]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "INTARSIA_"))}
    environment |= {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def run(*arguments: str, **variables: str) -> Answer:
        return run_intarsia(arguments, cwd=tmp_path, environment=environment | variables)

    return run


def declared(tmp_path: Path) -> dict[str, Any]:
    return tomllib.loads((tmp_path / "config" / "intarsia" / "weights.toml").read_text())


def test_one_file_is_downloaded_at_a_commit_and_pinned(hub, intarsia, tmp_path):
    done = intarsia("models", "add", "hf:ann/ink/ink.safetensors@v1")
    assert done.returncode == 0, done.stderr
    entry = declared(tmp_path)["loras"]["ink"]
    assert entry["source"] == f"hf:ann/ink/ink.safetensors@{COMMIT}"
    assert entry["files"]["ink.safetensors"]["sha256"] == hashlib.sha256(hub.files["ink.safetensors"]).hexdigest()
    assert Path(entry["path"]).read_bytes() == hub.files["ink.safetensors"]
    assert hub.downloaded == {"ink.safetensors"}

    hub.asked.clear()
    again = intarsia("models", "add", "hf:ann/ink/ink.safetensors@v1")
    assert again.stdout.startswith("already there\tink\t")
    assert hub.downloaded == set()


def test_a_download_that_broke_off_goes_on(hub, intarsia, tmp_path):
    hub.cut = 11 * 2**20
    done = intarsia("models", "add", "hf:ann/ink/dream.safetensors")
    assert done.returncode == 0, done.stderr
    ranges = [asked for method, path, asked in hub.asked if method == "GET" and path.endswith("dream.safetensors")]
    assert ranges[0] == ""
    assert ranges[1] == f"bytes={CHUNK}-"
    path = Path(declared(tmp_path)["models"]["dream"]["path"])
    assert path.read_bytes() == hub.files["dream.safetensors"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf:ann/ink", "which file is meant cannot be told"),
        ("hf:ann/ink/gone.safetensors", "has no file 'gone.safetensors'"),
        ("hf:ann/nothing", "cannot be downloaded: "),
        ("hf:ann/ink@v9", "cannot be downloaded: "),
        ("hf:ink", "must be hf:OWNER/NAME"),
        ("hf:../../etc/passwd", "cannot be downloaded: |must be hf:OWNER/NAME"),
    ],
)
def test_what_cannot_be_downloaded_is_said_in_one_line(intarsia, tmp_path, name, sentence):
    import re

    done = intarsia("models", "add", name)
    assert done.returncode == 3
    assert re.search(sentence, done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "config").exists()


def test_a_file_that_is_not_the_hubs_is_refused(hub, intarsia, tmp_path):
    hub.wrong.add("ink.safetensors")
    done = intarsia("models", "add", "hf:ann/ink/ink.safetensors")
    assert done.returncode == 3
    assert "is not what the hub has under that name" in done.stderr
    assert not (tmp_path / "config").exists()


def test_offline_is_offline(hub, intarsia):
    done = intarsia("models", "add", "hf:ann/ink/ink.safetensors", HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert hub.asked == []


def test_of_a_pipeline_only_what_is_read_is_downloaded():
    unet = ["config.json", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.bin"]  # fmt: skip
    vae = ["config.json", "diffusion_pytorch_model.fp16.safetensors"]
    text = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors", "pytorch_model.bin"]  # fmt: skip
    names = ["model_index.json", "README.md", "v1-5-pruned.safetensors", "scheduler/scheduler_config.json",
             "tokenizer/vocab.json", "tokenizer/merges.txt", "safety_checker/model.safetensors"]  # fmt: skip
    names += (
        [f"unet/{name}" for name in unet] + [f"vae/{name}" for name in vae] + [f"text_encoder/{name}" for name in text]
    )
    left_out = {
        "README.md",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    }
    assert sorted(_pipeline_files(names)) == sorted(set(names) - left_out)


def test_a_name_that_is_none_is_refused_without_a_connection():
    with pytest.raises(WeightsError, match="must be hf:OWNER/NAME"):
        download("hf:a b/c")
