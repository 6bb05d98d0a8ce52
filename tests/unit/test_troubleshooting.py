"""The sentences of docs/troubleshooting.md are what commands say, brought about here; the rest stand in the code."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run_intarsia

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SENTENCES = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)

NULL = ("--backend", "null")
BOTH = ("photo.png", "mask.png", *NULL)
# Beginning of a sentence, or a part of it → the command that says it.
SITUATIONS: dict[str, tuple[str, ...]] = {
    "init_image: file not found": ("inpaint", "gone.png", "mask.png", *NULL),
    "is not an image but": ("inpaint", "page.html", "mask.png", *NULL),
    "is truncated": ("inpaint", "cut.png", "mask.png", *NULL),
    "pixels; the limit is": ("inpaint", *BOTH, "--max-pixels", "100"),
    "mask_image must have the size": ("inpaint", "photo.png", "narrow.png", *NULL),
    "mask_image is empty": ("inpaint", "photo.png", "black.png", *NULL),
    "look swapped": ("inpaint", "mask.png", "photo.png", *NULL),
    "its host is not public": ("inpaint", "http://127.0.0.1:9/x.png", "mask.png", *NULL),
    "must be an integer between": ("inpaint", *BOTH, "--steps", "0"),
    "is not a field of a request": ("inpaint", *BOTH, "--set", "cfg=3"),
    "scheduler must be one of": ("inpaint", *BOTH, "--scheduler", "eulerr"),
    "leaves no step": ("inpaint", *BOTH, "--steps", "2", "--strength", "0.1"),
    "consistency model": ("inpaint", *BOTH, "--scheduler", "lcm", "--steps", "60"),
    "negative_prompt has no effect": ("inpaint", *BOTH, "-n", "bad", "--guidance-scale", "1"),
    "Model not found": ("inpaint", *BOTH, "-m", "nope"),
    "LoRA not found": ("inpaint", *BOTH, "--lora", "nope"),
    "a pickled file": ("models", "add", "old.ckpt"),
    "not a safetensors file but": ("models", "add", "page.html"),
    "no checker is installed": ("inpaint", *BOTH, "--safety-checker"),
    "is already there; choose another name": ("inpaint", *BOTH, "-o", "photo.png"),
    "the extension must be": ("inpaint", *BOTH, "-o", "a.gif"),
    "is not a key of a row": ("batch", "validate", "key.jsonl"),
    "the only row has no prompt": ("batch", "validate", "none.jsonl"),
    "host … can be reached": ("serve", "--host", "0.0.0.0", "--null"),
}
# What needs a device, another process or a broken installation: looked up in the code.
IN_THE_CODE = {
    "prompt cut after": "models/tokens.py",
    "does not have the registry's sha256": "registry/files.py",
    "no backend is installed": "backends/choose.py",
    "is built without CUDA": "backends/torch/device.py",
    "backend onnx has no": "backends/onnx/graphs.py",
    "out of memory on": "backends/torch/device.py",
    "no earlier run wrote it": "batch/ledger/claims.py",
    "is in use by another run": "batch/ledger/lock.py",
    "is in use by a server": "server/store/files.py",
}


def entry(sentence: str, table: dict[str, object]) -> list[str]:
    return [part for part in table if part in sentence]


def test_every_sentence_is_looked_at_once():
    assert len(SENTENCES) == len(set(SENTENCES)) == len(SITUATIONS) + len(IN_THE_CODE)
    for sentence in SENTENCES:
        assert len(entry(sentence, SITUATIONS) + entry(sentence, IN_THE_CODE)) == 1, sentence


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("troubles")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / "photo.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 20:50] = 255
    for name, pixels in (("mask", mask), ("black", mask * 0), ("narrow", mask[:, :30])):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:4000])
    (folder / "page.html").write_text("<!doctype html><html></html>")
    (folder / "old.ckpt").write_bytes(b"\x80\x04}.")

    row = {"init_image": "photo.png", "mask_image": "mask.png", "steps": 2}
    (folder / "none.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "key.jsonl").write_text(json.dumps({**row, "num_steps": 2}) + "\n")
    (folder / "nothing").mkdir()
    (folder / "nothing" / "model_index.json").write_text("{}")
    (folder / "weights.toml").write_text(
        'schema = 1\ndefault = "nothing"\n[models.nothing]\nfamily = "sd15-inpaint"\npath = "nothing"\n'
    )
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(folder / "weights.toml"), "XDG_CONFIG_HOME": str(folder)}
    return lambda *arguments: run_intarsia(arguments, cwd=folder, environment=environment)


def pattern(sentence: str) -> str:
    """A sentence with anything in the place of each ``…``."""
    return ".+".join(re.escape(part.strip()) for part in sentence.split("…"))


@pytest.mark.parametrize("part", SITUATIONS)
def test_a_sentence_is_what_the_command_says(call, part):
    (sentence,) = (each for each in SENTENCES if part in each)
    done = call(*SITUATIONS[part])
    said = done.stderr + done.stdout
    assert re.search(pattern(sentence), said), said


def templates(path: Path) -> Iterator[str]:
    """Every text in a module, with ``…`` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("part", IN_THE_CODE)
def test_a_sentence_stands_in_the_code(part):
    (sentence,) = (each for each in SENTENCES if part in each)
    found = list(templates(ROOT / "intarsia" / IN_THE_CODE[part]))
    whole = sentence.partition("is not available: ")[2] or sentence  # whose first half is put before others too
    assert any(re.search(pattern(whole), text) for text in found), whole
