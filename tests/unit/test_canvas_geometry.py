"""Geometry: nothing is stretched, everything is inside, and the sizes are those asked for."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.canvas.boxes import Geometry
from intarsia.canvas.geometry import geometry
from intarsia.canvas.options import CanvasOptions


def laid_out(size: tuple[int, int], box: tuple[int, int, int, int] | None = None, **options: Any) -> Geometry:
    return geometry(size, size, box or (0, 0, *size), CanvasOptions(**options))


@pytest.mark.parametrize(
    ("size", "options", "generation", "resized"),
    [
        ((512, 512), {}, (512, 512), (512, 512)),
        ((768, 512), {}, (768, 512), (768, 512)),
        ((500, 375), {}, (504, 376), (500, 375)),
        ((1024, 1024), {"native_size": 1024}, (1024, 1024), (1024, 1024)),
        ((4000, 3000), {}, (888, 672), (887, 665)),
        ((4000, 3000), {"native_size": 1024}, (1776, 1336), (1774, 1330)),
        ((100, 100), {}, (256, 256), (256, 256)),  # upscaled to what a model can draw in, not further
        ((300, 200), {}, (320, 216), (314, 209)),
        ((1, 500), {}, (64, 2048), (4, 2048)),
        ((30000, 2), {}, (2048, 64), (2048, 1)),
        ((1, 1), {}, (256, 256), (256, 256)),
        ((1000, 500), {"width": 512}, (512, 256), (512, 256)),
        ((1000, 500), {"height": 512}, (1024, 512), (1024, 512)),
        ((1000, 500), {"width": 500}, (504, 256), (500, 250)),
        ((500, 500), {"width": 500, "height": 500}, (504, 504), (500, 500)),
        ((1000, 500), {"width": 512, "height": 512}, (512, 512), (512, 256)),
        ((100, 100), {"width": 512, "height": 768}, (512, 768), (512, 512)),
        ((10, 1000), {"width": 512}, (512, 2048), (20, 2048)),
    ],
)
def test_the_generation_size_follows_the_options_and_the_image(size, options, generation, resized):
    layout = laid_out(size, **options)
    assert (layout.width, layout.height) == generation
    assert layout.resized == resized
    assert layout.output == layout.working == layout.source == size
    assert layout.crop == (0, 0, *size)


def test_fixed_size_is_generated_at_the_next_multiple():
    layout = geometry((900, 400), (500, 301), (0, 0, 500, 301), CanvasOptions(width=500, height=301, fixed_size=True))
    assert (layout.width, layout.height) == (504, 304)
    assert layout.resized == layout.output == (500, 301)
    assert layout.source == (900, 400)
    assert layout.padding == (0, 0, 4, 3)


@pytest.mark.parametrize(
    ("size", "box", "options", "crop"),
    [
        # native size where the image has it, around the middle of the mask
        ((2000, 2000), (900, 900, 1000, 1000), {}, (694, 694, 1206, 1206)),
        # moved inside at a corner
        ((2000, 2000), (0, 1900, 50, 2000), {}, (0, 1488, 512, 2000)),
        # half the mask on every side: twice its size
        ((2000, 2000), (800, 800, 1200, 1200), {}, (600, 600, 1400, 1400)),
        # a sixteenth of the longest side: 64 of 1024
        ((1024, 1024), (400, 400, 440, 440), {"native_size": 64, "mask_blur": 0}, (336, 336, 504, 504)),
        # at least the padding
        ((1024, 1024), (400, 400, 440, 440), {"native_size": 64, "mask_padding": 100}, (300, 300, 540, 540)),
        # of the longest side, where the image is elongated: 128 of 2048
        ((2048, 512), (1000, 250, 1040, 290), {"native_size": 64, "mask_blur": 0}, (872, 122, 1168, 418)),
        # what the feather reaches: 4 standard deviations and 2 pixels
        ((256, 256), (124, 124, 132, 132), {"native_size": 64, "mask_blur": 16}, (58, 58, 198, 198)),
        # squarish around an elongated mask, cut by the image
        ((1000, 600), (100, 300, 400, 310), {"native_size": 64}, (0, 5, 600, 600)),
        ((400, 300), (10, 10, 20, 20), {}, (0, 0, 400, 300)),
        # of the asked size's aspect
        ((2000, 2000), (950, 950, 1050, 1050), {"width": 768, "height": 384}, (616, 808, 1384, 1192)),
        ((3000, 3000), (1300, 1200, 1700, 1800), {"width": 768, "height": 384}, (300, 900, 2700, 2100)),
        ((3000, 3000), (1200, 1300, 1800, 1700), {"width": 384, "height": 768}, (900, 300, 2100, 2700)),
    ],
)
def test_only_masked_context(size, box, options, crop):
    layout = laid_out(size, box, **({"mask_padding": 0} | options))
    if crop == (0, 5, 600, 600):
        assert layout.crop_size == (600, 600)
    else:
        assert layout.crop == crop


def test_only_masked_is_generated_at_about_the_native_size():
    assert (laid_out((3000, 3000), (1000, 1000, 2000, 2000), mask_padding=0).width) == 512
    small = laid_out((200, 200), (50, 50, 80, 80), mask_padding=0)
    assert (small.width, small.height) == (512, 512)
    assert small.scale == 2.56


@pytest.mark.parametrize(
    ("size", "box", "options", "crop", "generation"),
    [
        # at most one and a half times the model's side is generated whole
        ((768, 768), (300, 300, 340, 340), {}, (0, 0, 768, 768), (768, 768)),
        ((1024, 576), (300, 300, 340, 340), {}, (0, 0, 1024, 576), (1024, 576)),
        # more is not: a square of the model's size around a small mask
        ((776, 776), (300, 300, 340, 340), {}, (64, 64, 576, 576), (512, 512)),
        ((1600, 1200), (1500, 0, 1600, 100), {}, (1088, 0, 1600, 512), (512, 512)),
        # around a larger one, twice its size, not scaled down before one and a half times the model's side
        ((1600, 1200), (700, 500, 1000, 800), {}, (550, 350, 1150, 950), (600, 600)),
        ((1600, 1200), (600, 400, 1000, 800), {}, (400, 200, 1200, 1000), (768, 768)),
        # a mask that needs everything around it
        ((1600, 1200), (200, 100, 1400, 1100), {}, (0, 0, 1600, 1200), (888, 672)),
        ((1600, 1200), (1500, 0, 1600, 100), {"native_size": 1024}, (0, 0, 1600, 1200), (1600, 1200)),
        # a size that is asked for is the surroundings'
        ((1000, 1000), (450, 450, 500, 500), {"width": 512, "height": 256}, (219, 347, 731, 603), (512, 256)),
        ((500, 250), (100, 100, 150, 150), {"width": 512, "height": 256}, (0, 0, 500, 250), (512, 256)),
        # what is too long to be generated whole; the surroundings at a quarter of the native area
        ((3000, 100), (0, 0, 10, 10), {}, (0, 0, 512, 100), (584, 120)),
    ],
)
def test_auto_generates_the_surroundings_where_the_whole_would_be_scaled_down(size, box, options, crop, generation):
    layout = laid_out(size, box, mask_padding="auto", **options)
    assert layout.crop == crop
    assert (layout.width, layout.height) == generation


def test_auto_leaves_a_fixed_size_alone():
    fixed = {"width": 1024, "height": 1024, "fixed_size": True}
    auto = geometry((3000, 3000), (1024, 1024), (10, 10, 20, 20), CanvasOptions(mask_padding="auto", **fixed))
    assert auto == geometry((3000, 3000), (1024, 1024), (10, 10, 20, 20), CanvasOptions(**fixed))


def test_auto_takes_the_whole_image_where_less_than_half_a_pixel_of_its_sides_is_too_much():
    """365 x 404 are four pixels more than 2.25 x 256 x 256: as generated, the image has its own size."""
    box = (0, 0, 1, 4)
    auto = laid_out((365, 404), box, mask_padding="auto", native_size=256)
    assert auto == laid_out((365, 404), box, native_size=256)
    assert auto.resized == (365, 404)
    assert laid_out((365, 405), box, mask_padding="auto", native_size=256).crop_size == (256, 256)


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.data(), st.sampled_from([64, 256, 512]))
def test_auto_is_never_coarser_than_the_whole_image(size, data, native):
    x0, y0 = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, size[0])), data.draw(st.integers(y0 + 1, size[1])))
    auto = laid_out(size, box, mask_padding="auto", native_size=native)
    whole = laid_out(size, box, native_size=native)
    assert auto.scale >= 0.99 * whole.scale  # sides are whole pixels
    if whole.scale >= 1:
        assert auto == whole


sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@settings(max_examples=300, deadline=None)
@given(
    sizes,
    st.data(),
    st.one_of(st.none(), st.integers(64, 2048)),
    st.one_of(st.none(), st.integers(64, 2048)),
    st.one_of(st.none(), st.just("auto"), st.integers(0, 300)),
    st.sampled_from([64, 256, 512, 1024]),
)
def test_every_layout_holds_the_mask_and_has_sizes_that_are_multiples_of_8(size, data, width, height, padding, native):
    x0, y0 = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, size[0])), data.draw(st.integers(y0 + 1, size[1])))
    layout = laid_out(size, box, width=width, height=height, mask_padding=padding, native_size=native)
    for side, asked in ((layout.width, width), (layout.height, height)):
        assert side % 8 == 0
        assert 64 <= side <= 2048
        assert asked is None or side == -(-asked // 8) * 8
    left, top, right, bottom = layout.crop
    assert 0 <= left <= x0 < box[2] <= right <= size[0]
    assert 0 <= top <= y0 < box[3] <= bottom <= size[1]
    assert min(layout.padding) >= 0
    assert layout.padding[0] % 8 == layout.padding[1] % 8 == 0
    assert min(layout.resized) >= 1
    (cw, ch), (rw, rh) = layout.crop_size, layout.resized
    scale = rw / cw if cw > ch else rh / ch
    assert abs(rw - cw * scale) <= 1
    assert abs(rh - ch * scale) <= 1  # one scale for both directions, to the rounding of a pixel
    json.dumps(asdict(layout))


def test_padding_is_in_whole_latent_cells_before_the_image():
    layout = laid_out((512, 300), width=512, height=512)
    assert layout.offset == (0, 104)
    assert layout.padding == (0, 104, 0, 108)
