"""Color maps: the fit, the packaged one, and the cache of those that were fitted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia.engine import color_maps
from intarsia.engine.color_map import ColorMap, fit, sample_image
from intarsia.engine.color_maps import PACKAGED, ColorMaps, autoencoder_hash
from intarsia.engine.resolve import Resolved, resolve

MATRIX = np.array([[0.3, 0.02, -0.1, 0.0], [-0.05, 0.25, 0.1, 0.04], [0.0, 0.1, 0.2, -0.3]])
OFFSET = np.array([0.5, 0.45, 0.6])
FACTOR = 8


def linear_latents(image: np.ndarray) -> np.ndarray:
    """Latents whose colors are exactly those of the image's cells by MATRIX and OFFSET; the fourth channel is free."""
    side = image.shape[0] // FACTOR
    cells = image.reshape(side, FACTOR, side, FACTOR, 3).mean(axis=(1, 3)) / 255
    free = np.random.default_rng(3).normal(size=(1, side * side))
    rest = (cells.reshape(-1, 3) - OFFSET).T - MATRIX[:, 3:] @ free
    return np.vstack([np.linalg.solve(MATRIX[:, :3], rest), free]).reshape(4, side, side).astype(np.float32)


@dataclass
class Session:
    """An autoencoder that is linear; counts its runs."""

    runs: list[np.ndarray] = field(default_factory=list)
    failure: Exception | None = None

    def autoencode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.runs.append(image)
        if self.failure:
            raise self.failure
        return linear_latents(image), image


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(color_maps, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def resolved(empty_registry: Path, request_of: Callable[..., intarsia.InpaintRequest]) -> Resolved:
    return resolve(request_of(), intarsia.Registry(empty_registry))


def assert_fitted(found: Any) -> None:
    np.testing.assert_allclose(found.matrix, MATRIX, atol=1e-5)
    np.testing.assert_allclose(found.offset, OFFSET, atol=1e-5)


def test_the_fit_finds_the_map_that_made_the_image():
    image = sample_image()
    assert_fitted(fit(linear_latents(image), image))


def test_the_image_that_is_fitted_to_has_all_colors_and_is_always_the_same():
    image = sample_image()
    np.testing.assert_array_equal(image, sample_image())
    cells = image.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3)).reshape(-1, 3)
    corners = np.array(np.meshgrid(*[[60, 195]] * 3)).reshape(3, -1).T
    for corner in corners:  # of the color cube: dark and light, gray and saturated
        assert np.abs(cells - corner).max(axis=1).min() < 48, corner


def test_colors_are_rows_of_red_green_blue_and_what_is_not_finite_is_black():
    latents = np.zeros((4, 2, 3), np.float32)
    latents[0, 0, 1] = 1
    latents[2, 1, 2] = 99
    latents[1, 1, 0] = np.nan
    colors = ColorMap(MATRIX, OFFSET).colors(latents)
    assert (colors.shape, colors.dtype) == ((2, 3, 3), np.uint8)
    assert colors[0, 0].tolist() == [128, 115, 153]  # 255 times the offset
    assert colors[0, 1].tolist() == [204, 102, 153]
    assert colors[1, 2].tolist() == [0, 255, 255]
    assert colors[1, 0].tolist() == [0, 0, 0]


def test_a_map_is_fitted_once_and_then_read_from_the_cache(cache, resolved):
    session = Session()
    maps = ColorMaps()
    assert_fitted(maps.find(resolved, session))
    assert maps.find(resolved, session) is maps.find(resolved, session)
    assert len(session.runs) == 1

    (path,) = cache.iterdir()
    assert path.stem == autoencoder_hash(resolved.entry.path / "vae")
    again = ColorMaps().find(resolved, Session(failure=AssertionError("not needed")))
    assert_fitted(again)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"matrix": [[1]], "offset": [0, 0, 0]}', '{"matrix": null, "offset": null}',
        ColorMap(MATRIX[:, :3], OFFSET).to_json(), ColorMap(MATRIX * np.nan, OFFSET).to_json(), "\udcff",
    ],
)  # fmt: skip
def test_a_damaged_file_is_fitted_again(cache, resolved, caplog, content):
    path = cache / f"{autoencoder_hash(resolved.entry.path / 'vae')}.json"
    cache.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with caplog.at_level(logging.WARNING, "intarsia"):
        assert_fitted(ColorMaps().find(resolved, Session()))
    assert "fitted again" in caplog.text
    assert_fitted(ColorMap.from_json(path.read_text(), 4))


def test_a_cache_that_cannot_be_written_is_said_and_costs_nothing_else(cache, resolved, caplog):
    cache.write_text("a file, where the folder should be")
    session, maps = Session(), ColorMaps()
    for _ in range(2):
        assert_fitted(maps.find(resolved, session))
    assert len(session.runs) == 1
    assert "is not kept" in caplog.text


def test_another_autoencoder_has_another_map(tmp_path):
    hashes = set()
    for weights in (b"one", b"other"):
        folder = tmp_path / weights.decode()
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(weights)
        before = autoencoder_hash(folder)
        (folder / "note.txt").write_text("a note beside the weights changes nothing")
        assert autoencoder_hash(folder) == before
        hashes.add(before)
    assert len(hashes) == 2


def test_the_packaged_map_is_that_of_the_packaged_model():
    """`python -m tools.fit_color_maps` writes it anew after a training of the autoencoder."""
    (path,) = PACKAGED.iterdir()
    folder = Path(intarsia.Registry().find("intarsia-tiny").path)
    assert path.name == f"{autoencoder_hash(folder / 'vae')}.json"
    ColorMap.from_json(path.read_text(), 4)
