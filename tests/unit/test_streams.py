"""Standard streams of any encoding, closed, full, or with nobody at the other end: what is done stays done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.endpoint_table import MINIMAL

COMMAND = [sys.executable, "-c", "from intarsia.cli import main; main()"]
INPAINT = ["mask.png", "--backend", "null", "--set", "steps=2", "--seed", "1"]
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
POSIX = pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")


@pytest.fixture
def scene(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "фото.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.setenv("INTARSIA_WEIGHTS", str(empty_registry))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | bytes, encoding: str = "utf-8", **settings: Any) -> subprocess.CompletedProcess[Any]:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run([*COMMAND, *arguments], env=environment, check=False, timeout=120, **settings)


@pytest.mark.every(2)
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_text_and_json_in_any_encoding(scene, encoding):
    done = run("inpaint", "фото.png", *INPAINT, "-p", "naïve 🐶", "--json", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout.decode("ascii"))
    assert (report["output"], report["meta"]["prompt"]) == (["фото-intarsia.png"], "naïve 🐶")
    done = run("inpaint", "фото.png", *INPAINT, "--overwrite", encoding=encoding)
    assert (done.returncode, done.stdout) == (0, b"\\u0444\\u043e\\u0442\\u043e-intarsia.png\n")
    done = run("inpaint", "нет.png", "mask.png", encoding=encoding)
    assert done.returncode == 2
    assert done.stderr.decode("ascii").startswith("intarsia: init_image: file not found: '\\u043d")


@pytest.mark.slow
def test_batches_are_reported_in_any_encoding(scene):
    rows = [{"id": "фото", "init_image": "фото.png", "mask_image": "mask.png", "steps": 2}]
    rows += [{"id": "нет 🐶", "init_image": "нет.png", "mask_image": "mask.png"}]
    (scene / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("batch", "run", "m.jsonl", "--out", "out", "--backend", "null", encoding="cp1252").returncode == 1
    done = run("batch", "report", "out", encoding="cp1252")
    assert (done.returncode, b"1 ok" in done.stdout) == (0, True)
    done = run("batch", "report", "out", "--json", encoding="cp1252")
    assert json.loads(done.stdout.decode("cp1252"))["failed"][0]["id"] == "нет 🐶"
    done = run("batch", "validate", "m.jsonl", encoding="cp1252")
    assert (done.returncode, b"1 with problems" in done.stdout) == (2, True)


@pytest.mark.slow
@POSIX
def test_names_that_are_no_unicode(scene):
    odd = b"photo \xff.png"
    os.rename(os.fsencode(scene / "фото.png"), os.path.join(os.fsencode(scene), odd))
    done = run("inpaint", odd, *INPAINT, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    [output] = json.loads(done.stdout)["output"]
    assert os.fsencode(output) == b"photo \xff-intarsia.png"
    assert os.path.exists(output)
    done = run("inpaint", odd, *INPAINT, "--overwrite")
    assert (done.returncode, done.stdout) == (0, b"photo \\udcff-intarsia.png\n")
    done = run("inpaint", b"gone \xff.png", "mask.png")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"gone \\udcff.png" in done.stderr


@FULL
def test_a_report_that_cannot_be_written_undoes_no_image_and_says_so(scene):
    with open("/dev/full", "w") as full:
        done = run("inpaint", "фото.png", *INPAINT, "-o", "a.png", stdout=full)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"a.png: written, but standard output cannot be: No space left on device" in done.stderr
        assert (scene / "a.png").exists()
        # The other stream: nobody reads it, but the image is there.
        done = run("inpaint", "фото.png", *INPAINT, "-o", "b.png", "-p", "((x))", stderr=full)
        assert (done.returncode, done.stdout) == (0, b"b.png\n")
        assert run("inpaint", "gone.png", "mask.png", stderr=full).returncode == 2


@pytest.mark.every(2)
@POSIX
@pytest.mark.parametrize("stream", ["1", "2", "0"])
def test_streams_that_are_closed(scene, stream):
    """What is opened next would otherwise be opened in their place, and written to."""
    line = " ".join([*map("'{}'".format, [*COMMAND, "inpaint", "фото.png", *INPAINT, "-o", "a.png"]), f"{stream}>&-"])
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0
    with Image.open(scene / "a.png") as made:
        assert made.size == (64, 64)
    assert done.stdout == (b"" if stream == "1" else b"a.png\n")


@POSIX
@pytest.mark.parametrize("arguments", [["schema"], ["schedulers"]])
def test_whoever_reads_no_further_hears_no_more(scene, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = run(*arguments, stdout=closed)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("text_encoding", ["utf-8", "utf-16"])
def test_standard_input_is_json_whatever_the_terminal_has(scene, text_encoding):
    body = json.dumps({**MINIMAL, "prompt": "фото 🐶", "base64": True, "width": 64, "height": 64}, ensure_ascii=False)
    arguments = ["request", "-", "-e", "community", "--backend", "null"]
    done = run(*arguments, input=body.encode(text_encoding), encoding="cp1252")
    assert json.loads(done.stdout)["meta"]["original_prompt"] == "фото 🐶"


@pytest.mark.slow
def test_usage_errors_are_one_printable_line():
    for arguments in (
        ["inpaint"],
        ["inpaint", "a", "b", "--\x1b[31m"],
        ["models", "list", "--kind", "x\ny\u202e"],
        ["x\n"],
    ):
        done = run(*arguments)
        text = done.stderr.decode()
        assert done.returncode == 2
        assert (text.count("\n"), text.strip().isprintable()) == (1, True), text
        assert text.startswith("intarsia: ")
