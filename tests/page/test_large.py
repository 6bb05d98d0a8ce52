"""A photograph of 24 megapixels: opened, and painted at full resolution. And one of 100."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from intarsia.server.settings import EngineSettings
from tests.server.running import running

WIDTH, HEIGHT = 6000, 4000


@pytest.fixture(scope="module")
def photograph() -> bytes:
    """Noise over a gradient, as JPEG: what a camera's file costs to decode."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.mark.slow
def test_the_mask_that_arrives_is_the_geometry_of_the_strokes(tab, server, photograph, tmp_path):
    tab.open(photograph, "large.jpg", "image/jpeg")
    tab.brush(300)
    points = [(1000.0, 1000.0), (3000.0, 1500.0), (4500.0, 3300.0)]
    screen = [tuple(round(value) for value in tab.on_screen(point)) for point in points]
    tab.page.mouse.move(*screen[0])
    tab.page.mouse.down()
    for point in screen[1:]:
        tab.page.mouse.move(*point)
    tab.page.mouse.up()

    # Back from whole pixels of the screen to pixels of the picture.
    origin = tab.on_screen((0, 0))
    scale = (tab.on_screen((WIDTH, 0))[0] - origin[0]) / WIDTH
    painted = [((x - origin[0]) / scale, (y - origin[1]) / scale) for x, y in screen]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32) + 0.5
    for (x0, y0), (x1, y1) in itertools.pairwise(painted):
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        along = along.clip(0, 1)
        expected |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= 150
    found = tab.mask(tmp_path) >= 128
    assert found.shape == expected.shape
    assert (found != expected).sum() <= 40  # float32 here, at the very edge

    tab.settings(steps=2, strength=0.5, mask_padding=0, other={"width": 64, "height": 64})
    tab.at("#run").click()
    tab.page.wait_for_selector("#result:not([hidden])", timeout=120_000)
    job = server.client.get("/jobs?limit=1").json()["jobs"][0]
    assert job["plan"]["canvas"]["geometry"]["source"] == [WIDTH, HEIGHT]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")  # of the test's own reading
def test_100_megapixels_are_opened_painted_and_run(open_tab, tmp_path):
    """Where the server takes them: its limit is raised by an option."""
    file = io.BytesIO()
    Image.new("RGB", (12_500, 8_000), (90, 120, 150)).save(file, "JPEG", quality=80)
    engine = EngineSettings(backend="null", max_pixels=100_000_000)
    with running(tmp_path / "data", engine=engine) as server:
        tab = open_tab(server)
        tab.open(file.getvalue(), "huge.jpg", "image/jpeg")
        tab.brush(500)
        tab.stroke((5000, 3000))
        mask = tab.mask(tmp_path)
        assert mask.shape == (8_000, 12_500)
        assert abs((mask >= 128).sum() / (np.pi * 250**2) - 1) < 0.01

        tab.settings(steps=2, mask_padding=0)
        tab.at("#run").click()
        tab.page.wait_for_selector("#result:not([hidden])", timeout=120_000)
        job = server.client.get("/jobs?limit=1").json()["jobs"][0]
        assert job["plan"]["canvas"]["geometry"]["source"] == [12_500, 8_000]
