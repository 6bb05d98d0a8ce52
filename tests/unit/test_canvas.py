"""The canvas as a whole: whatever the size, mode and crop, no byte outside the feather changes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from intarsia.canvas.canvas import BLANK, Canvas, prepare
from intarsia.canvas.mask import dilate, erode, resize_mask
from intarsia.canvas.options import CanvasOptions
from intarsia.canvas.paste import match_colors
from intarsia.errors import RequestError
from intarsia.images.fill import FAINT
from intarsia.images.rgb_image import RgbImage, from_array, from_bytes
from intarsia.images.sources import open_image


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def box_mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def made(image: np.ndarray, mask: np.ndarray, **options: Any) -> Canvas:
    return prepare(from_array("init_image", image), from_array("mask_image", mask), CanvasOptions(**options))


def opposite(canvas: Canvas) -> np.ndarray:
    """A generated image that differs from the input at every pixel and channel."""
    return canvas.image ^ np.uint8(0x80)


def may_change(canvas: Canvas) -> np.ndarray:
    """Where the output may differ: the grown mask, and where a blur of the whole of it is not zero; in the crop."""
    soft = Image.fromarray(canvas.area * np.uint8(255)).filter(ImageFilter.GaussianBlur(canvas.options.mask_blur))
    (x0, y0, x1, y1), crop = canvas.geometry.crop, np.zeros_like(canvas.area)
    crop[y0:y1, x0:x1] = True
    return (canvas.area | (np.asarray(soft) > 0)) & crop


def check_untouched(canvas: Canvas, output: Image.Image, base: np.ndarray) -> None:
    """``base``: the input's bytes (RGB, RGBA) at the output's size."""
    out = np.asarray(output)
    assert out.shape == base.shape
    kept = ~may_change(canvas)
    np.testing.assert_array_equal(out[kept], base[kept])
    np.testing.assert_array_equal(canvas.touched(), ~kept)


def grown_mask(mask: np.ndarray, wanted: dict, fixed: bool) -> np.ndarray:
    """The denoise mask at the output's size: each step of it has its own slow definition in test_canvas_mask."""
    drawn = mask < 128 if wanted.get("invert_mask") else mask >= 128
    by = wanted.get("mask_dilate", 0)
    drawn = dilate(drawn, by) if by >= 0 else erode(drawn, -by)
    return resize_mask(drawn, (wanted["width"], wanted["height"])) if fixed else drawn


sides = st.integers(1, 150)
options = st.fixed_dictionaries(
    {},
    optional={
        "width": st.integers(64, 160),
        "height": st.integers(64, 160),
        "mask_dilate": st.integers(-2, 9),
        "mask_blur": st.sampled_from([0.0, 0.3, 1.0, 4.0, 11.5]),
        "mask_padding": st.one_of(st.just("auto"), st.integers(0, 40)),
        "masked_content": st.sampled_from(["original", "fill", "noise", "blank"]),
        "color_match": st.booleans(),
        "native_size": st.sampled_from([64, 96, 128]),
        "invert_mask": st.booleans(),
    },
)


@settings(max_examples=150, deadline=None)
@given(sides, sides, st.sampled_from([1, 3, 4]), options, st.booleans(), st.data())
def test_nothing_outside_the_feather_changes(height, width, channels, wanted, fixed, data):
    image = noise(height, width, channels, seed=height)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    mask = box_mask(height, width, (x0, y0, x1, y1))
    if wanted.get("invert_mask") and mask.all():
        wanted = wanted | {"invert_mask": False}
    if fixed:
        wanted = {"width": 64, "height": 72} | wanted | {"fixed_size": True}
    if not grown_mask(mask, wanted, fixed).any():
        with pytest.raises(RequestError, match=r"^mask_image is empty: mask_dilate -[12] leaves nothing of it"):
            made(image, mask, **wanted)
        return
    canvas = made(image, mask, **wanted)
    layout = canvas.geometry
    assert canvas.image.shape == (layout.height, layout.width, 3)
    assert canvas.mask.shape == canvas.image.shape[:2]
    assert canvas.mask.any()
    assert layout.height % 8 == layout.width % 8 == 0
    assert min(layout.height, layout.width) >= 64
    assert max(layout.height, layout.width) <= 2048
    output = canvas.paste(opposite(canvas))
    assert output.size == ((wanted["width"], wanted["height"]) if fixed else (width, height))
    base = np.asarray(canvas.working.to_pil())
    if not fixed:
        upright = image if channels > 1 else np.dstack([image] * 3)
        np.testing.assert_array_equal(base, upright)
    check_untouched(canvas, output, base)
    drawn = grown_mask(mask, wanted, fixed)
    np.testing.assert_array_equal(canvas.area, drawn)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from([0.0, 4.0]), st.integers(0, 5))
def test_where_the_feather_is_full_the_generated_pixel_is_taken(height, width, blur, dilate):
    """Without resizing: every masked pixel is exactly the network's."""
    image, mask = noise(height, width), noise(height, width, 1, seed=3)
    mask[0, 0] = 255
    canvas = made(image, mask, mask_blur=blur, mask_dilate=dilate, native_size=64)
    if canvas.geometry.resized != (width, height):
        return
    generated = noise(canvas.geometry.height, canvas.geometry.width, seed=9)
    out = np.asarray(canvas.paste(generated))
    (x, y), (w, h) = canvas.geometry.offset, canvas.geometry.resized
    inner = generated[y : y + h, x : x + w]
    np.testing.assert_array_equal(out[canvas.area], inner[canvas.area])
    assert (mask >= 128)[~canvas.area].sum() == 0


@settings(max_examples=60, deadline=None)
@given(sides, sides, options)
def test_a_network_that_returns_its_input_changes_nothing_much(height, width, wanted):
    """Geometry there and back: a smooth image survives the round trip everywhere."""
    wanted = {k: v for k, v in wanted.items() if k not in ("masked_content", "invert_mask")}
    rows, columns = np.mgrid[0:height, 0:width]
    plane = (60 + 120 * rows / max(height, 40) + 60 * columns / max(width, 40)).astype(np.uint8)
    image = np.dstack((plane, plane // 2, 255 - plane))
    canvas = made(image, np.full((height, width), 255, np.uint8), **wanted)
    out = np.asarray(canvas.paste(canvas.image)).astype(int)
    assert np.abs(out - image).max() <= (8 if canvas.geometry.scale >= 0.99 else 60)
    if canvas.geometry.resized == (width, height) and not wanted.get("color_match"):
        np.testing.assert_array_equal(out, image)


def test_the_profile_is_kept_where_the_output_is_resized():
    image = RgbImage(noise(40, 50), icc_profile=b"profile")
    mask = from_array("mask_image", box_mask(40, 50, (5, 5, 20, 20)))
    canvas = prepare(image, mask, CanvasOptions(width=64, height=64, fixed_size=True))
    assert canvas.paste(canvas.image).info["icc_profile"] == b"profile"


def test_what_was_done_to_the_mask_is_among_the_warnings():
    canvas = made(noise(40, 60), box_mask(20, 30, (5, 5, 20, 10)))
    assert canvas.warnings == ("mask_image was resized from 30x20 to the image's 60x40",)


@pytest.mark.parametrize("size", [(512, 512), (512, 768), (640, 512), (1000, 264), (256, 256)])
def test_images_of_good_size_are_not_resampled(size):
    image = noise(*size)
    canvas = made(image, box_mask(*size, (10, 10, 30, 30)))
    np.testing.assert_array_equal(canvas.image, image)


def test_alpha_and_profile_are_kept():
    image = noise(40, 50, 4)
    image[:, :, 3] |= FAINT  # half-transparent, but nowhere a hole
    rgb_image = RgbImage(image[:, :, :3], image[:, :, 3], icc_profile=b"profile")
    mask = from_array("mask_image", box_mask(40, 50, (5, 5, 20, 20)))
    canvas = prepare(rgb_image, mask)
    output = canvas.paste(opposite(canvas))
    np.testing.assert_array_equal(np.asarray(output)[:, :, 3], image[:, :, 3])
    assert output.info["icc_profile"] == b"profile"
    assert np.asarray(canvas.untouched()).tobytes() == image.tobytes()


def test_exif_orientation_of_image_and_mask():
    """Stored sideways, image and mask meet upright; a mask stored upright meets them too."""
    image, mask = noise(40, 24), box_mask(40, 24, (3, 30, 9, 38))

    def stored(array: np.ndarray, orientation: int) -> bytes:
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        turned = np.ascontiguousarray(np.rot90(array)) if orientation == 6 else array
        Image.fromarray(turned).save(buffer, "PNG", exif=exif)
        return buffer.getvalue()

    outputs = []
    for turn_image, turn_mask in ((1, 1), (6, 6), (6, 1), (1, 6)):
        canvas = prepare(
            from_bytes("init_image", stored(image, turn_image), "the image"),
            from_bytes("mask_image", stored(mask, turn_mask), "the mask"),
        )
        outputs.append(np.asarray(canvas.paste(opposite(canvas))).tobytes())
    assert len(set(outputs)) == 1


def test_only_masked_generates_and_changes_only_the_surroundings():
    image = noise(900, 1400)
    canvas = made(image, box_mask(900, 1400, (1000, 100, 1060, 180)), mask_padding=32)
    layout = canvas.geometry
    assert layout.crop_size == (512, 512)
    assert (layout.width, layout.height) == (512, 512)
    x0, y0, x1, y1 = layout.crop
    np.testing.assert_array_equal(canvas.image, image[y0:y1, x0:x1])
    check_untouched(canvas, canvas.paste(opposite(canvas)), image)


def test_big_photographs_are_scaled_down_with_a_warning():
    canvas = made(np.zeros((1500, 2000, 3), np.uint8), box_mask(1500, 2000, (700, 700, 900, 900)))
    layout = canvas.geometry
    assert 0.9 < layout.width * layout.height / (2.25 * 512 * 512) < 1.1
    (remark,) = canvas.warnings
    assert remark.startswith("the whole image was generated at 888x672 and enlarged 2.3 times; mask_padding 'auto' ")
    canvas = made(np.zeros((1500, 2000, 3), np.uint8), box_mask(1500, 2000, (100, 100, 1900, 1400)), mask_padding=0)
    assert canvas.geometry.scale < 0.5
    assert canvas.warnings == (), "who has taken the advice is not given it again"


def test_auto_says_what_it_did():
    photograph, spot = np.zeros((1200, 1600, 3), np.uint8), box_mask(1200, 1600, (700, 700, 800, 800))
    (remark,) = made(photograph, spot, mask_padding="auto").warnings
    assert remark == (
        "the mask's surroundings, 512x512 of 1600x1200, were generated at 512x512; "
        "mask_padding 'whole' generates the whole image"
    )
    (remark,) = made(photograph, box_mask(1200, 1600, (400, 200, 1000, 800)), mask_padding="auto").warnings
    assert "1200x1200 of 1600x1200, were generated at 768x768 and enlarged 1.6 times;" in remark
    (remark,) = made(photograph, box_mask(1200, 1600, (100, 100, 1500, 1100)), mask_padding="auto").warnings
    assert (
        remark == "the whole image was generated at 888x672 and enlarged 1.8 times: the mask needs that much around it"
    )
    assert made(photograph[:700, :700], spot[:700, :700] | 255, mask_padding="auto").warnings == ()


def test_fixed_size_resizes_as_the_endpoint_does():
    image, mask = noise(300, 200), box_mask(300, 200, (50, 100, 150, 220))
    canvas = made(image, mask, width=500, height=301, fixed_size=True)
    layout = canvas.geometry
    assert (layout.width, layout.height) == (504, 304)
    expected = np.asarray(Image.fromarray(image).resize((500, 301), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(canvas.working.rgb, expected)
    np.testing.assert_array_equal(canvas.image[:301, :500], expected)
    np.testing.assert_array_equal(canvas.image[301:, :500], np.repeat(expected[-1:], 3, axis=0))
    small = Image.fromarray(mask).resize((500, 301), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(canvas.area, np.asarray(small) >= 128)
    check_untouched(canvas, canvas.paste(opposite(canvas)), expected)


def test_the_mask_reaches_into_the_padding_with_the_image():
    """Else the repeated edge of what is repainted would be shown to the network as known."""
    canvas = made(noise(300, 300), box_mask(300, 300, (250, 0, 300, 300)))
    assert canvas.mask.shape == (304, 304)
    assert canvas.mask[:, 300:].all()
    assert not canvas.mask[:, :250].any()


def test_masked_content_fills_the_mask_and_changes_nothing_outside():
    image, mask = np.full((256, 256, 3), 40, np.uint8), box_mask(256, 256, (60, 60, 120, 140))
    image[60:140, 60:120] = 255
    for content, level in (("original", 255), ("noise", 255), ("blank", BLANK), ("fill", 40)):
        canvas = made(image, mask, masked_content=content, mask_blur=0)
        assert (canvas.image[canvas.mask] == level).all()
        assert (canvas.image[~canvas.mask] == 40).all()
        assert (np.asarray(canvas.untouched()) == image).all()


def test_fill_of_everything_is_gray_and_of_a_gradient_is_between():
    full = np.full((64, 64), 255, np.uint8)
    assert (made(noise(64, 64), full, masked_content="fill", native_size=64).image == 128).all()
    rows = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[:, None], 128, axis=1)
    mask = box_mask(128, 128, (30, 40, 90, 80))
    canvas = made(np.dstack([rows] * 3), mask, masked_content="fill", native_size=128)
    filled = canvas.image[40:80, 30:90]
    assert filled.min() >= 70
    assert filled.max() <= 170
    assert filled[:8].mean() < filled[-8:].mean()


def test_color_match_brings_the_ring_back():
    image = noise(128, 128) // 2 + 60
    mask = box_mask(128, 128, (40, 40, 80, 80))
    canvas = made(image, mask, color_match=True, native_size=128)
    shifted = np.clip(canvas.image.astype(int) + 20, 0, 255).astype(np.uint8)
    matched = np.asarray(canvas.paste(shifted)).astype(int)
    plain = np.asarray(made(image, mask, native_size=128).paste(shifted)).astype(int)
    assert np.abs(matched - image)[canvas.area].mean() < 2 < np.abs(plain - image)[canvas.area].mean()
    full = made(image, np.full((128, 128), 255, np.uint8), color_match=True, native_size=128)
    np.testing.assert_array_equal(np.asarray(full.paste(shifted)), shifted)


@pytest.mark.parametrize(("blur", "ring"), [(0.0, 8), (4.0, 8), (11.0, 22)])
def test_colors_are_matched_over_two_deviations_of_the_feather(blur, ring):
    image, mask = noise(128, 128), box_mask(128, 128, (40, 40, 80, 80))
    canvas = made(image, mask, color_match=True, native_size=128, mask_blur=blur)
    drawn = noise(128, 128, seed=4) // 2
    matched = match_colors(drawn, image, mask > 0, ring)
    assert (match_colors(drawn, image, mask > 0, ring + 4) != matched).any()
    np.testing.assert_array_equal(np.asarray(canvas.paste(drawn))[mask > 0], matched[mask > 0])


def test_masks_that_cannot_be_used_are_refused_with_the_reason():
    image = noise(40, 60)
    for mask, options, expected in (
        (np.zeros((40, 60), np.uint8), {}, "mask_image is empty"),
        (np.full((40, 60), 127, np.uint8), {}, "mask_image is empty: its brightest pixel is 127"),
        (np.full((40, 60), 255, np.uint8), {"invert_mask": True}, "mask_image is empty: inverted"),
        (np.full((60, 40), 255, np.uint8), {}, "the mask is 40x60, the image 60x40"),
        (np.full((40, 60), 255, np.uint8), {"mask_source": "alpha"}, "mask_source must be luma or auto"),
    ):
        with pytest.raises(RequestError) as caught:
            made(image, mask, **options)
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 63},
        {"height": 2049},
        {"mask_dilate": -513},
        {"mask_min_area": -1},
        {"mask_min_area": "5"},
        {"mask_min_area": "101%"},
        {"mask_blur": float("nan")},
        {"mask_padding": -1},
        {"mask_source": "red"},
        {"masked_content": "x"},
        {"fixed_size": True},
        {"fixed_size": True, "width": 64},
    ],
)
def test_options_outside_their_limits_are_named(options):
    with pytest.raises(RequestError) as caught:
        CanvasOptions(**options)
    assert any(str(caught.value).startswith(name) for name in (*options, "width", "height"))


def test_paste_refuses_another_shape_or_type():
    canvas = made(noise(64, 64), np.full((64, 64), 255, np.uint8), native_size=64)
    for wrong in (
        np.zeros((64, 72, 3), np.uint8),
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64), np.uint8),
    ):
        with pytest.raises(ValueError, match="generated"):
            canvas.paste(wrong)


def test_one_stray_dark_pixel_does_not_enlarge_the_crop():
    mask = box_mask(1000, 1000, (100, 100, 140, 140))
    clean = prepare(from_array("f", noise(1000, 1000)), from_array("f", mask), CanvasOptions(mask_padding=8))
    mask[990, 990] = 1
    dirty = prepare(from_array("f", noise(1000, 1000)), from_array("f", mask), CanvasOptions(mask_padding=8))
    assert clean.geometry == dirty.geometry


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"mask_padding": 16, "native_size": 256},
        {"mask_padding": "auto", "native_size": 128},
        {"width": 448, "height": 320},
        {"mask_dilate": 6, "mask_blur": 8.0, "color_match": True},
    ],
)
def test_a_paste_changes_no_pixel_of_a_photograph_outside_the_mask(photos, wanted):
    for image_file, mask_file in photos:
        image = open_image("init_image", image_file)
        canvas = prepare(image, open_image("mask_image", mask_file), CanvasOptions(**wanted))
        check_untouched(canvas, canvas.paste(opposite(canvas)), image.rgb)
        assert 0.05 < canvas.area.mean() < 0.6
        if not wanted:
            np.testing.assert_array_equal(canvas.image, image.rgb)
