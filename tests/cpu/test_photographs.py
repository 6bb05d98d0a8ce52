"""The main job: real photographs at 512², through the packaged model, with several prompts and schedulers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

import intarsia
from intarsia.canvas.canvas import prepare
from intarsia.canvas.options import CanvasOptions
from intarsia.images.sources import open_image
from tools.train_tiny.masks import room
from tools.train_tiny.palette import COLOURS

JOBS = [
    ("red", "circle", "DPMSolverMultistepScheduler"),
    ("blue", "square", "EulerDiscreteScheduler"),
    ("yellow", "star", "UniPCMultistepScheduler"),
    ("green", "ring", "PNDMScheduler"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu") as opened:
        yield opened


def share_of(color: str, image: np.ndarray, where: np.ndarray) -> float:
    """Share of the pixels in ``where`` whose nearest palette color is ``color``."""
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names], np.float32)
    pixels = image[where].astype(np.float32)
    nearest = ((pixels[:, None] - palette[None]) ** 2).sum(-1).argmin(1)
    return float((nearest == names.index(color)).mean())


def largest_disc(mask: np.ndarray) -> np.ndarray:
    """The largest disc that lies in a mask, bool [H, W]: where the model puts a shape."""
    (x, y), radius = room(mask)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


@pytest.mark.every(4)
@pytest.mark.parametrize("place", range(4))
def test_a_photograph_is_repainted_in_the_mask_alone_and_as_asked(engine, photos, place):
    image_file, mask_file = photos[place]
    color, shape, scheduler = JOBS[place]
    request = intarsia.InpaintRequest(
        prompt=f"a {color} {shape}", init_image=image_file, mask_image=mask_file, strength=1.0, guidance_scale=4.0,
        steps=8, scheduler=scheduler, seed=3,
    )  # fmt: skip
    result = engine.run(request)
    out, original = np.asarray(result.images[0]), np.asarray(Image.open(image_file).convert("RGB"))
    canvas = prepare(open_image("init_image", image_file), open_image("mask_image", mask_file), CanvasOptions())
    touched = canvas.touched()
    assert result.generated[0].size == (512, 512)
    np.testing.assert_array_equal(out[~touched], original[~touched])
    where = largest_disc(touched)
    before, after = share_of(color, original, where), share_of(color, out, where)
    print(f"{image_file.stem}: {color} {shape}, {before:.2f} → {after:.2f} of the room in the mask")
    # the smallest of the shapes, a star, covers 36 % of the disc around it
    assert after > before + 0.2, "the asked colour is painted where the model was taught to"
