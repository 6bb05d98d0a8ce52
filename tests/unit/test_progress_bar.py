"""Commands that run requests show how far they are, on a terminal and nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.endpoint_table import MINIMAL

pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system has not")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the commands read."""
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    payload = {**MINIMAL, "model_id": "intarsia-tiny", "width": 64, "height": 64, "num_inference_steps": 6}
    (tmp_path / "body.json").write_text(json.dumps(payload))
    return tmp_path


def on_a_terminal(folder: Path, *arguments: str) -> tuple[bytes, str]:
    """What a command writes to standard output, and to a standard error that is a terminal."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "INTARSIA_NULL_STEP_SECONDS": "0.1"}
    command = [sys.executable, "-m", "intarsia", *arguments, "--backend", "null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, cwd=folder, env=environment) as process:
        os.close(writer)
        seen = b""
        try:
            while part := os.read(reader, 65536):
                seen += part
        except OSError:  # Linux's end of a terminal that nobody writes to any more
            pass
        os.close(reader)
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0, seen
    return printed, seen.decode()


COMMANDS = {
    "inpaint": (("inpaint", "photo.png", "mask.png", "--prompt", "a red circle", "--steps", "6"), "denoising"),
    "request": (("request", "body.json", "--endpoint", "community"), "denoising"),
    "compare": (("compare", "photo.png", "mask.png", "--steps", "5,6"), "comparing"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bar_is_on_the_terminal_alone(command, place):
    arguments, word = COMMANDS[command]
    printed, seen = on_a_terminal(place, *arguments)
    assert word in seen
    assert word.encode() not in printed
    if command == "request":
        assert json.loads(printed)["status"] == "success"


def test_a_quiet_command_shows_none(place):
    _, seen = on_a_terminal(place, *COMMANDS["request"][0], "--quiet")
    assert seen == ""
