"""The example of a client runs against a server, with the standard library alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

pytest.importorskip("uvicorn", reason="needs the extra serve")

from tests.server.running import running

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "server_client.py"


@pytest.mark.parametrize("wait", [20.0, 0.0])
def test_the_example_saves_an_image(tmp_path, wait):
    image = Image.new("RGB", (128, 128), "olive")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rectangle((32, 32, 96, 96), fill=255)
    image.save(tmp_path / "image.png")
    mask.save(tmp_path / "mask.png")

    with running(tmp_path / "data", wait=wait) as server:
        arguments = [server.url, tmp_path / "made", tmp_path / "image.png", tmp_path / "mask.png"]
        command = [sys.executable, "-I", "-S", str(EXAMPLE), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    [made] = (tmp_path / "made").glob("*.png")
    assert str(made) in done.stdout
    with Image.open(made) as opened:
        assert opened.size == (256, 256)
