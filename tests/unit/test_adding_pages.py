"""docs/adding-a-scheduler.md and docs/adding-a-backend.md: their code, run as it stands there."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.installed import install, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each block of code."""
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the photograph and mask that the pages speak of."""
    folder = tmp_path / "work"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / "photo.png")
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 24:72] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.mark.every(2)
@pytest.mark.skipif(
    find_spec("onnxruntime") is None and find_spec("torch") is None,
    reason="one page paints with the packaged model: pip install 'intarsia[cpu]'",
)
@pytest.mark.parametrize("page", ["adding-a-scheduler.md", "adding-a-backend.md"])
def test_the_worked_example_runs_as_printed(page, place, tmp_path):
    """The first Python block is the module that is installed; the others are scripts, with their output below."""
    found = blocks(page)
    (language, module), *rest = found
    name = re.match(r"# (\w+)\.py\n", module)[1]
    assert language == "python"
    [project] = [tomllib.loads(text) for language, text in found if language == "toml"]
    site = install(tmp_path / "site", project["project"]["name"], project["project"]["entry-points"], **{name: module})

    for (language, text), (after, shown) in zip(rest, [*rest[1:], ("", "")], strict=True):
        if language not in ("python", "sh"):
            continue
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-e", "-c", text]
        done = run(command, site, cwd=place)
        assert done.returncode == 0, done.stderr
        if after == "text":
            assert done.stdout == shown


def test_the_flat_backends_image_is_flat_inside_the_mask(place, tmp_path):
    module = blocks("adding-a-backend.md")[0][1]
    entry_points = {"intarsia.backends": {"flat": "flat_backend:FlatBackend"}}
    site = install(tmp_path / "site", "flat", entry_points, flat_backend=module)
    command = [
        "intarsia",
        "inpaint",
        "photo.png",
        "mask.png",
        "--backend",
        "flat",
        "--prompt",
        "x",
        "--out",
        "made.png",
    ]
    done = run(command, site, cwd=place)
    assert done.returncode == 0, done.stderr
    pixels = np.asarray(Image.open(place / "made.png").convert("RGB"))
    inside = pixels[24:40, 36:60].reshape(-1, 3)
    assert (inside == inside[0]).all()
    photo, mask = (np.asarray(Image.open(place / name)) for name in ("photo.png", "mask.png"))
    # the mean around the mask at generation size, within what resizing and dilating the mask change
    assert np.abs(inside[0] - photo[mask == 0].mean(axis=0)).max() < 12
