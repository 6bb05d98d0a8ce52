"""Outpainting: sizes, the mask of what is new, exact bytes elsewhere, and requests without a mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intarsia
from intarsia.canvas.canvas import prepare
from intarsia.canvas.extension import enlarged, enlarged_mask
from intarsia.canvas.options import CanvasOptions, Extension
from intarsia.errors import RequestError
from intarsia.images.rgb_image import from_array

LEFT_AND_TOP = Extension(left=40, top=24)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


sides = st.integers(0, 30)


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.tuples(sides, sides, sides, sides), st.integers(0, 20), st.data())
def test_the_mask_is_every_pixel_near_what_is_new(height, width, around, overlap, data):
    left, top, right, bottom = around
    if not any(around):
        return
    mask = np.zeros((height, width), np.bool_)
    mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = data.draw(st.booleans())
    extension = Extension(left=left, top=top, right=right, bottom=bottom, overlap=overlap)

    expected = np.zeros((height, width), np.bool_)
    for y, x in np.ndindex(height, width):
        is_near = (left and x < overlap) or (right and width - 1 - x < overlap)
        is_near = is_near or (top and y < overlap) or (bottom and height - 1 - y < overlap)
        expected[y, x] = bool(is_near) or mask[y, x]
    expected = np.pad(expected, ((top, bottom), (left, right)), constant_values=True)
    np.testing.assert_array_equal(enlarged_mask(mask, extension), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"mask_padding": "auto"}, {"width": 96, "height": 96}], ids=str)
def test_what_is_not_near_keeps_its_bytes(channels, options):
    image = noise(150, 200, channels)
    canvas = prepare(
        from_array("init_image", image),
        None,
        CanvasOptions(extend=LEFT_AND_TOP, native_size=64, mask_blur=2, **options),
    )
    assert canvas.geometry.source == (200, 150)
    assert canvas.geometry.output == (240, 174)
    output = np.asarray(canvas.paste(canvas.image ^ np.uint8(0x80)))
    assert output.shape == (174, 240, 4 if channels == 4 else 3)

    kept = output[24 + 16 + 10 :, 40 + 16 + 10 :]  # 16 of overlap, and what the feather reaches
    upright = image if channels > 1 else np.dstack([image] * 3)
    np.testing.assert_array_equal(kept, upright[26:, 26:])
    if channels == 4:
        assert (output[:24, :, 3] == 255).all()


def test_new_pixels_begin_with_the_colors_beside_them():
    two_colors = np.full((64, 64, 3), 200, np.uint8)
    two_colors[32:] = (10, 20, 30)
    image = enlarged(from_array("init_image", two_colors), Extension(right=32, bottom=16))
    np.testing.assert_array_equal(image.rgb[:64, :64], two_colors)
    assert image.alpha is None
    assert (image.rgb[:16, 64:] == 200).all()
    assert (image.rgb[60:] == (10, 20, 30)).all()
    assert 20 < image.rgb[32, 80].mean() < 200  # blurred where the two meet


def test_hidden_pixels_are_no_color_for_the_new_area():
    rgba = np.full((32, 32, 4), 90, np.uint8)
    rgba[:, :, 3] = 255
    rgba[:, 16:] = (255, 0, 0, 0)  # stored under transparent pixels
    image = enlarged(from_array("init_image", rgba), Extension(right=8))
    assert image.alpha is not None
    np.testing.assert_array_equal(image.rgb[:, 32:], np.full((32, 8, 3), 90))
    np.testing.assert_array_equal(image.alpha[:, 32:], np.full((32, 8), 255))
    np.testing.assert_array_equal(image.rgb[:, :32], rgba[:, :, :3])


def ask(**fields: Any) -> intarsia.InpaintRequest:
    size = {"init_image": noise(64, 80), "steps": 4, "seed": 3}
    return intarsia.InpaintRequest(**size | fields)


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("null") as opened:
        yield opened


def test_a_request_without_a_mask(engine):
    result = engine.run(ask(extend={"left": 24, "bottom": 8, "overlap": 4}, mask_blur=1))
    assert result.images[0].size == (104, 72)
    np.testing.assert_array_equal(np.asarray(result.images[0])[:56, 32:], noise(64, 80)[:56, 8:])
    canvas = result.plan.canvas
    assert canvas.mask_sha256 == ""
    assert result.plan.to_dict()["canvas"]["extend"] == {"left": 24, "top": 0, "right": 0, "bottom": 8, "overlap": 4}
    assert not (np.asarray(result.images[0])[:, :24] == 0).all()


def test_a_mask_is_repainted_too_and_every_side_counts(engine):
    mask = np.zeros((64, 80), np.uint8)
    mask[30:34, 60:70] = 255
    hashes = {
        engine.run(ask(**fields)).plan.sha256
        for fields in (
            {"mask_image": mask},
            {"mask_image": mask, "extend": "left=8"},
            {"mask_image": mask, "extend": "left=8,overlap=0"},
            {"mask_image": mask, "extend": "right=8"},
            {"extend": "left=8"},
        )
    }
    assert len(hashes) == 5
    both = np.asarray(engine.run(ask(mask_image=mask, extend="left=8", mask_blur=0)).images[0])
    alone = np.asarray(engine.run(ask(extend="left=8", mask_blur=0)).images[0])
    np.testing.assert_array_equal(alone[:, 24:], noise(64, 80)[:, 16:])
    changed = (both[:, 24:] != noise(64, 80)[:, 16:]).any(axis=2)
    assert changed.any()
    assert not changed[~mask[:, 16:].astype(bool)].any()


def test_without_either_the_mask_is_missing(engine):
    with pytest.raises(RequestError, match="mask_image is required"):
        engine.run(ask())


def test_an_enlarged_image_has_at_most_the_pixels_of_one_that_is_read():
    with intarsia.Engine("null", max_pixels=6000) as engine:
        assert engine.run(ask(extend="left=8")).images[0].size == (88, 64)
        with pytest.raises(RequestError, match=r"extend makes 96x64 pixels; the limit is 6000"):
            engine.run(ask(extend="left=16"))


def test_documented_sizes_hold_the_enlarged_image(engine):
    result = engine.run(ask(extend="left=80", width=128, height=64, fit_output=True))
    assert result.images[0].size == (128, 64)
