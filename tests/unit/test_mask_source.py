"""How a mask file is read: its brightness seen on black, its transparency, and what is said where they differ."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia.canvas.canvas import prepare
from intarsia.canvas.mask_source import binarize
from intarsia.canvas.options import CanvasOptions
from intarsia.errors import RequestError
from intarsia.images.rgb_image import RgbImage, from_array, from_bytes, from_image

SIZE = 32
HOLE = np.zeros((SIZE, SIZE), np.bool_)
HOLE[8:24, 8:24] = True
NOWHERE, EVERYWHERE = np.zeros_like(HOLE), np.ones_like(HOLE)


def rgba(gray: int | np.ndarray, alpha: np.ndarray) -> RgbImage:
    plane = np.broadcast_to(np.asarray(gray, np.uint8), alpha.shape)
    return RgbImage(np.dstack([plane] * 3), alpha.astype(np.uint8))


def layers(inside: tuple[int, int], outside: tuple[int, int]) -> RgbImage:
    """Two tones: (brightness, alpha) inside of HOLE and outside of it."""
    gray, alpha = (np.where(HOLE, inside[i], outside[i]) for i in range(2))
    return rgba(gray, alpha)


def photograph() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.dstack([90 + 4 * columns, 60 + 5 * rows, 200 - 3 * rows]).astype(np.uint8)


def test_threshold_is_128():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    on, notes = binarize(from_array("f", levels))
    np.testing.assert_array_equal(on, levels >= 128)
    np.testing.assert_array_equal(binarize(from_array("f", levels), invert=True)[0], levels < 128)
    assert notes == ()


def test_colors_count_by_their_brightness():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]], np.uint8)
    np.testing.assert_array_equal(binarize(from_array("f", colors))[0], [[False, True, False, True]])


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 0, 255), (0, 130, 0), (200, 0, 90)])
@pytest.mark.parametrize("kind", ["array", "PNG", "WebP"])
def test_strokes_in_a_dark_color_are_read_by_their_brightest_channel(color, kind):
    stroke = np.where(HOLE[:, :, None], np.asarray(color, np.uint8), np.uint8(0))
    buffer = io.BytesIO()
    if kind != "array":
        Image.fromarray(stroke).save(buffer, kind, lossless=True)
    read = from_array("mask_image", stroke) if kind == "array" else from_bytes("mask_image", buffer.getvalue(), "m")
    on, notes = binarize(read)
    np.testing.assert_array_equal(on, HOLE)
    assert "brightest channel" in notes[0]
    np.testing.assert_array_equal(binarize(read, invert=True)[0], ~HOLE)

    stroke[0, 0] = 255  # beside something bright a color counts as it did
    assert binarize(from_array("mask_image", stroke))[0].sum() == 1


@pytest.mark.parametrize("gray", [0, 90])
def test_of_a_dark_layer_the_transparent_part(gray):
    alpha = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(binarize(rgba(gray, alpha))[0], alpha < 128)
    np.testing.assert_array_equal(binarize(rgba(gray, alpha), "alpha", invert=True)[0], alpha >= 128)
    assert not binarize(rgba(gray, alpha), "luma")[0].any()


CLEAR = [(0, 0), (90, 0), (255, 0)]
"""(brightness, alpha) of fully transparent pixels: what an editor stores there is nobody's choice."""


@pytest.mark.parametrize("clear", CLEAR)
@pytest.mark.parametrize(
    ("drawn", "inside", "expected", "bright"),
    [
        ((0, 255), False, HOLE, NOWHERE),  # a black layer with a hole
        ((0, 200), False, HOLE, NOWHERE),  # the same, not quite opaque
        ((0, 255), True, ~HOLE, NOWHERE),  # black strokes: black is kept, transparent is repainted
        ((255, 255), True, HOLE, HOLE),  # white strokes
        ((255, 128), True, HOLE, HOLE),  # half-opaque ones: 128 is repainted
        ((255, 255), False, ~HOLE, ~HOLE),  # a white layer with a hole: white is repainted
    ],
)
def test_what_is_stored_under_transparent_pixels_decides_nothing(clear, drawn, inside, expected, bright):
    mask = layers(drawn, clear) if inside else layers(clear, drawn)
    transparent = ~HOLE if inside else HOLE
    on, notes = binarize(mask)
    np.testing.assert_array_equal(on, expected)
    np.testing.assert_array_equal(binarize(mask, "alpha")[0], transparent)
    np.testing.assert_array_equal(binarize(mask, "luma")[0], bright)
    np.testing.assert_array_equal(binarize(mask, invert=True)[0], ~expected)
    assert len(notes) == 1
    for word in ("brightness", "transparency", "was used", "mask_source", "invert_mask"):
        assert word in notes[0]


def test_the_warning_says_how_much_each_reading_repaints():
    (note,) = binarize(layers((0, 0), (0, 255)))[1]
    assert "its transparency was used and 25% of it is repainted; its brightness would repaint 0%" in note
    assert "mask_source 'luma'" in note
    (note,) = binarize(layers((255, 255), (0, 0)))[1]
    assert "its brightness was used and 25% of it is repainted; its transparency would repaint 75%" in note
    assert "mask_source 'alpha'" in note
    (note,) = binarize(layers((255, 255), (0, 0)), invert=True)[1]
    assert "75% of it is repainted; its transparency would repaint 25%" in note
    speck = np.full((SIZE, SIZE), 255)
    speck[0, 0] = 0
    (note,) = binarize(rgba(0, speck))[1]
    assert "less than 1% of it is repainted" in note
    (note,) = binarize(rgba(0, speck), invert=True)[1]
    assert "over 99% of it is repainted" in note


@pytest.mark.parametrize("source", ["luma", "alpha"])
def test_a_request_that_names_its_reading_gets_no_warning(source):
    assert binarize(layers((255, 255), (0, 0)), source)[1] == ()


def test_readings_that_agree_are_not_worth_a_word():
    assert binarize(layers((255, 255), (0, 255)))[1] == ()  # opaque
    assert binarize(layers((255, 255), (0, 200)))[1] == ()  # nothing is transparent
    on, notes = binarize(layers((255, 128), (0, 127)), invert=True)
    np.testing.assert_array_equal(on, ~HOLE)
    assert len(notes) == 1


@pytest.mark.parametrize("clear", CLEAR)
def test_a_stroke_counts_by_brightness_times_opacity(clear):
    """White at an alpha of a is the level a; gray 200 at 163 is 128, at 162 it is 127."""
    for drawn, repainted in (((255, 128), True), ((255, 127), False), ((200, 163), True), ((200, 162), False)):
        gray = np.where(HOLE, drawn[0], clear[0])
        alpha = np.where(HOLE, drawn[1], clear[1])
        gray[0, 0] = alpha[0, 0] = 255  # and a full one
        on = binarize(rgba(gray, alpha))[0]
        assert on[HOLE].all() == on[HOLE].any() == repainted
        assert on[0, 0]
        assert on.sum() == 1 + repainted * HOLE.sum()


def test_half_strokes_below_the_threshold_turn_nothing_round():
    """Half-opaque strokes that are not enough are not a reason to repaint everything but them."""
    for inside, outside in (((255, 127), (255, 0)), ((255, 100), (0, 255)), ((245, 16), (0, 255))):
        assert not binarize(layers(inside, outside))[0].any()


def test_a_rim_of_mixed_black_and_white_is_no_stroke():
    """A black layer, white below its hole, resized without regard to alpha: brightness and alpha add up to 255."""
    ramp = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(binarize(rgba(255 - ramp, ramp))[0], ramp < 128)


@pytest.mark.parametrize("level", [16, 128, 255])
def test_an_opacity_of_the_whole_layer_is_not_read(level):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    on, notes = binarize(rgba(gray, np.full((16, 16), level)))
    np.testing.assert_array_equal(on, gray >= 128)
    assert notes == ()


@pytest.mark.parametrize("hole", [HOLE, ~HOLE], ids=["small", "large"])
def test_an_image_with_a_hole_is_read_by_its_transparency(hole):
    """As several services ask for it: the image, what is to be repainted erased."""
    for below in (0, 255):
        colors = photograph()
        colors[hole] = below
        on, notes = binarize(from_array("f", np.dstack([colors, np.where(hole, 0, 255).astype(np.uint8)])))
        np.testing.assert_array_equal(on, hole)
        assert "its transparency was used" in notes[0]


def test_an_image_that_is_given_as_image_and_as_mask():
    """A flat one too, whose brightness alone would be taken for a drawing in white."""
    flat = np.full((SIZE, SIZE, 4), 220, np.uint8)
    flat[:, :, 3] = np.where(HOLE, 0, 255)
    image, other = from_array("init_image", flat), from_array("mask_image", flat[:, ::-1].copy())
    np.testing.assert_array_equal(binarize(other)[0], ~HOLE)
    canvas = prepare(image, from_array("mask_image", flat))
    np.testing.assert_array_equal(canvas.area, HOLE)
    assert any("its transparency was used" in note for note in canvas.warnings)
    hidden = flat.copy()
    hidden[HOLE, :3] = 0
    np.testing.assert_array_equal(prepare(image, from_array("mask_image", hidden)).area, HOLE)
    brighter = flat.copy()
    brighter[0, 0, :3] = 255
    np.testing.assert_array_equal(prepare(image, from_array("mask_image", brighter)).area, ~HOLE)
    luma = CanvasOptions(mask_source="luma")
    np.testing.assert_array_equal(prepare(image, from_array("mask_image", flat), luma).area, ~HOLE)


def stored(image: Image.Image, **settings: object) -> RgbImage:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **settings)
    return from_bytes("mask_image", buffer.getvalue(), "the mask")


def forms(inside: tuple[int, int], outside: tuple[int, int]) -> dict[str, RgbImage]:
    """One mask of two tones, one of them transparent, in every mode that can say so."""
    gray, alpha = (np.where(HOLE, inside[i], outside[i]).astype(np.uint8) for i in range(2))
    pair = Image.fromarray(np.dstack([gray, alpha]), "LA")
    indices = Image.fromarray(HOLE.astype(np.uint8), "P")
    indices.putpalette([outside[0]] * 3 + [inside[0]] * 3)
    with_alpha = Image.frombytes("PA", (SIZE, SIZE), np.dstack([HOLE.astype(np.uint8), alpha]).tobytes())
    with_alpha.putpalette([outside[0]] * 3 + [inside[0]] * 3)
    clear = 1 if inside[1] == 0 else 0
    key = (inside if clear else outside)[0]
    premultiplied = Image.frombytes("La", (SIZE, SIZE), np.dstack([gray, alpha]).tobytes())
    return {
        "LA": from_image("mask_image", pair),
        "LA file": stored(pair),
        "RGBA": from_image("mask_image", pair.convert("RGBA")),
        "RGBA file": stored(pair.convert("RGBA")),
        "PA": from_image("mask_image", with_alpha),
        "palette with tRNS": stored(indices, transparency=clear),
        "palette with a list of alphas": stored(indices, transparency=bytes((outside[1], inside[1]))),
        "La": from_image("mask_image", premultiplied),
        "RGBa": from_image("mask_image", pair.convert("RGBA").convert("RGBa")),
        "gray with a key": stored(Image.fromarray(gray), transparency=key),
        "RGB with a key": stored(Image.fromarray(np.dstack([gray] * 3)), transparency=(key,) * 3),
        "1 bit with a key": stored(Image.fromarray(gray >= 128), transparency=255 if key else 0),
        "array": from_array("mask_image", np.dstack([gray, gray, gray, alpha])),
        "array of floats": from_array("mask_image", np.dstack([gray, gray, gray, alpha]).astype(np.float32) / 255),
    }


@pytest.mark.parametrize("form", list(forms((0, 0), (0, 255))))
def test_every_mode_with_transparency(form):
    keyed = "key" in form  # the color key cannot be a color that is also seen
    for clear in (0, 255):
        if not (keyed and clear == 0):
            np.testing.assert_array_equal(binarize(forms((clear, 0), (0, 255))[form])[0], HOLE, f"{clear} in a hole")
        if not (keyed and clear == 255):
            strokes = forms((255, 255), (clear, 0))[form]
            np.testing.assert_array_equal(binarize(strokes)[0], HOLE, f"white strokes on {clear}")


REASONS = [
    (rgba(0, np.full((SIZE, SIZE), 255)), {}, "its brightest pixel is 0, and 128 and above is repainted"),
    (
        layers((255, 127), (255, 0)),
        {},
        "its brightest pixel, seen on black, is 127, and 128 and above is repainted; "
        "mask_source 'alpha' repaints its transparent pixels, 100% of it",
    ),
    (
        layers((255, 0), (0, 255)),
        {"mask_source": "luma"},
        "its brightest pixel, seen on black, is 0, and 128 and above is repainted; "
        "mask_source 'alpha' repaints its transparent pixels, 25% of it",
    ),
    (
        layers((255, 0), (90, 0)),
        {},
        "it is fully transparent; mask_source 'alpha' repaints its transparent pixels, 100% of it",
    ),
    (
        layers((255, 255), (0, 200)),
        {"mask_source": "alpha"},
        "no pixel of it is transparent (alpha below 128 is repainted); "
        "mask_source 'luma' repaints its bright pixels, 25% of it",
    ),
    (
        layers((0, 255), (0, 200)),
        {"mask_source": "alpha"},
        "no pixel of it is transparent (alpha below 128 is repainted)",
    ),
    (
        layers((255, 255), (255, 255)),
        {"invert_mask": True},
        "inverted, no pixel of it is to be repainted",
    ),
]


@pytest.mark.parametrize(("mask", "options", "reason"), REASONS, ids=range(len(REASONS)))
def test_why_a_mask_is_empty(mask, options, reason):
    with pytest.raises(RequestError) as caught:
        prepare(from_array("init_image", photograph()), mask, CanvasOptions(**options))
    assert str(caught.value) == f"mask_image is empty: {reason}"


def test_a_mask_without_alpha_has_none_to_be_read():
    with pytest.raises(RequestError, match="mask_source must be luma or auto: mask_image has no alpha channel"):
        binarize(from_array("f", np.zeros((4, 4), np.uint8)), "alpha")


@pytest.mark.parametrize(
    ("with_hole", "source", "is_remarked"),
    [(True, "auto", False), (True, "alpha", False), (True, "luma", True), (False, "auto", True)],
)
def test_an_image_that_is_its_own_mask_is_remarked_on_where_its_brightness_is_read(
    empty_registry, with_hole, source, is_remarked
):
    image = np.full((SIZE, SIZE, 4), 220, np.uint8)
    image[:, :, 3] = np.where(HOLE & with_hole, 0, 255)
    both = Image.fromarray(image)
    with intarsia.Engine("null", weights=empty_registry) as engine:
        request = intarsia.InpaintRequest(init_image=both, mask_image=both, mask_source=source, seed=1, steps=2)
        warnings = engine.run(request).warnings
    assert any("what is bright in it was taken" in text for text in warnings) is is_remarked


def test_what_is_said_of_mask_and_image_reaches_the_result(empty_registry):
    deep = Image.fromarray(np.where(HOLE, 65535, 0).astype(np.uint16))
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.where(part, 255, 0).astype(np.uint8)) for part in (HOLE, ~HOLE)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    stencil = Image.fromarray(np.dstack([np.zeros_like(HOLE, np.uint8), np.where(HOLE, 0, 255).astype(np.uint8)]))
    with intarsia.Engine("null", weights=empty_registry) as engine:
        for mask, words in ((deep, "16"), (buffer.getvalue(), "frame"), (stencil, "transparency was used")):
            request = intarsia.InpaintRequest(init_image=photograph(), mask_image=mask, seed=1, steps=2)
            (warning,) = (text for text in engine.run(request).warnings if "mask_image" in text)
            assert words in warning
        request = intarsia.InpaintRequest(init_image=deep, mask_image=HOLE, seed=1, steps=2)
        assert any("init_image" in text and "16" in text for text in engine.run(request).warnings)
