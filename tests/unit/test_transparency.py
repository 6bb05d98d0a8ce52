"""Transparent pixels of the image: what is stored there decides nothing, and what is repainted there is seen."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import intarsia
from intarsia.canvas.canvas import BLANK, Canvas, prepare
from intarsia.canvas.mask import Feather
from intarsia.canvas.options import CanvasOptions
from intarsia.canvas.paste import composite
from intarsia.images import fill
from intarsia.images.encode import SaveOptions, encode
from intarsia.images.fill import FAINT, from_surroundings, hidden_pixels, opaque
from intarsia.images.rgb_image import RgbImage, from_array, from_bytes, from_image

Pixels = np.ndarray

HEIGHT, WIDTH = 72, 96

COLOR = (90, 140, 60)


def box(rows: slice, columns: slice, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Pixels:
    mask = np.zeros(shape, np.bool_)
    mask[rows, columns] = True
    return mask


HOLE = box(slice(20, 44), slice(30, 60))
MASKS = {
    "the hole": HOLE,
    "more than the hole": box(slice(10, 60), slice(20, 80)),
    "part of the hole": box(slice(26, 36), slice(40, 50)),
    "across its edge": box(slice(30, 60), slice(50, 90)),
    "beside it": box(slice(20, 44), slice(60, 70)),
    "at the border": box(slice(0, 20), slice(0, 40)),
    "everything": np.ones_like(HOLE),
}
OPTIONS: list[dict[str, object]] = [
    {},
    {"masked_content": "fill"},
    {"masked_content": "noise"},
    {"masked_content": "blank", "mask_dilate": 3},
    {"color_match": True, "width": 128},
    {"mask_padding": 0, "width": 64, "height": 64, "native_size": 64},
    {"width": 80, "height": 104, "fixed_size": True},
    {"width": 64, "mask_blur": 0},
]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photograph() -> Pixels:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.dstack([90 + columns, 60 + rows, 200 - rows]).astype(np.uint8)


def canvas_of(image: Pixels | RgbImage, mask: Pixels, **wanted: object) -> Canvas:
    rgb_image = image if isinstance(image, RgbImage) else from_array("init_image", image)
    return prepare(rgb_image, from_array("mask_image", mask), CanvasOptions(**wanted))


def with_hole(hidden: Pixels | int, colors: Pixels | None = None, hole: Pixels = HOLE) -> Pixels:
    """The photograph with a hole, under which ``hidden`` is stored."""
    colors = photograph() if colors is None else colors
    shown = np.where(hole[:, :, None], np.uint8(hidden) if isinstance(hidden, int) else hidden, colors)
    return np.dstack([shown, np.where(hole, 0, 255)]).astype(np.uint8)


# What the network is shown.


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("place", MASKS)
def test_images_that_look_the_same_give_the_same(place, options):
    images = [with_hole(hidden) for hidden in (0, 255, noise(HEIGHT, WIDTH, 3))]
    canvases = [canvas_of(image, MASKS[place], **options) for image in images]
    first = canvases[0]
    generated = noise(*first.image.shape, seed=5)
    seen = np.asarray(first.paste(generated))
    for canvas in canvases:
        np.testing.assert_array_equal(canvas.image, first.image)
        np.testing.assert_array_equal(canvas.mask, first.mask)
        assert canvas.warnings == first.warnings
        out = np.asarray(canvas.paste(generated))
        np.testing.assert_array_equal(out[:, :, 3], seen[:, :, 3])
        visible = seen[:, :, 3] > 0
        np.testing.assert_array_equal(out[visible], seen[visible])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("place", MASKS)
def test_nothing_hidden_bleeds_out_at_the_edge_of_a_hole(place, options):
    """All that can be seen is of one color, so that is all the network may be shown, and all that may be pasted."""
    flat = np.broadcast_to(np.array(COLOR, np.uint8), (HEIGHT, WIDTH, 3))
    canvas = canvas_of(with_hole(noise(HEIGHT, WIDTH, 3), flat), MASKS[place], **options)
    nothing_left = place == "everything" and options.get("masked_content") == "fill"
    given_anew = canvas.mask if nothing_left or options.get("masked_content") == "blank" else np.zeros_like(canvas.mask)
    assert (canvas.image[~given_anew] == COLOR).all()
    assert (canvas.image[given_anew] == BLANK).all()
    out = np.asarray(canvas.paste(np.broadcast_to(np.array(COLOR, np.uint8), canvas.image.shape).copy()))
    assert (out[out[:, :, 3] > 0][:, :3] == COLOR).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("place", MASKS)
def test_outside_the_feather_hidden_bytes_are_kept_too(place, options):
    image = with_hole(noise(HEIGHT, WIDTH, 3))
    canvas = canvas_of(image, MASKS[place], **options)
    out, kept = np.asarray(canvas.paste(noise(*canvas.image.shape))), ~canvas.touched()
    base = np.asarray(canvas.working.to_pil()) if options.get("fixed_size") else image
    np.testing.assert_array_equal(out[kept], base[kept])
    np.testing.assert_array_equal(np.asarray(canvas.untouched()), base)


def png(image: Image.Image, **keys: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **keys)
    return buffer.getvalue()


def gray(hidden: int) -> Pixels:
    """Two even levels and a hole."""
    return np.where(HOLE, hidden, np.where(np.arange(WIDTH) < 48, 60, 180)).astype(np.uint8)


def indexed(hidden: int) -> Image.Image:
    image = Image.fromarray(np.where(HOLE, 2, np.arange(WIDTH) < 48).astype(np.uint8), "P")
    image.putpalette([180] * 3 + [60] * 3 + [hidden] * 3)
    return image


def indexed_with_alpha(hidden: int) -> Image.Image:
    indices, alpha = np.asarray(indexed(hidden)), np.where(HOLE, 0, 255)
    image = Image.frombytes("PA", (WIDTH, HEIGHT), np.dstack([indices, alpha]).astype(np.uint8).tobytes())
    image.putpalette([180] * 3 + [60] * 3 + [hidden] * 3)
    return image


def planes(hidden: int, colors: int) -> Pixels:
    return np.dstack([gray(hidden)] * colors + [np.where(HOLE, 0, 255).astype(np.uint8)])


FORMS: dict[str, Callable[[int], RgbImage]] = {
    "RGBA": lambda hidden: from_image("f", Image.fromarray(planes(hidden, 3))),
    "LA": lambda hidden: from_image("f", Image.fromarray(planes(hidden, 1), "LA")),
    "RGBa": lambda hidden: from_image("f", Image.frombytes("RGBa", (WIDTH, HEIGHT), planes(hidden, 3).tobytes())),
    "La": lambda hidden: from_image("f", Image.frombytes("La", (WIDTH, HEIGHT), planes(hidden, 1).tobytes())),
    "PA": lambda hidden: from_image("f", indexed_with_alpha(hidden)),
    "palette": lambda hidden: from_bytes("f", png(indexed(hidden), transparency=2), "f"),
    "palette, alphas": lambda hidden: from_bytes("f", png(indexed(hidden), transparency=bytes((255, 255, 0))), "f"),
    "gray key": lambda hidden: from_bytes("f", png(Image.fromarray(gray(hidden)), transparency=hidden), "f"),
    "RGB key": lambda hidden: from_bytes(
        "f", png(Image.fromarray(planes(hidden, 3)[:, :, :3]), transparency=(hidden,) * 3), "f"
    ),
    "array": lambda hidden: from_array("f", planes(hidden, 3)),
    "16-bit array": lambda hidden: from_array("f", planes(hidden, 3).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_mode_with_transparency(form):
    canvases = [canvas_of(FORMS[form](hidden), MASKS["more than the hole"], native_size=64) for hidden in (0, 250)]
    for canvas in canvases:
        np.testing.assert_array_equal(canvas.working.alpha, np.where(HOLE, 0, 255))
        np.testing.assert_array_equal(canvas.image, canvases[0].image)
        assert (np.asarray(canvas.paste(canvas.image))[HOLE][:, 3] == 255).all()
    assert canvases[0].image.min() >= 60
    assert canvases[0].image.max() <= 180


# How a hole starts.


@pytest.mark.parametrize("size", [(72, 96), (512, 512), (1000, 760)])
@pytest.mark.parametrize("wanted", [{}, {"mask_padding": 0}], ids=str)
def test_a_hole_starts_as_fill_does(size, wanted):
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    colors = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
    hole = box(slice(size[0] // 4, size[0] // 2), slice(size[1] // 3, size[1] // 2), size)
    image = with_hole(0, colors, hole)
    wanted = {"native_size": 128, **wanted}  # scaled up, down, and as it is
    original = canvas_of(image, hole, **wanted)
    filled = canvas_of(image, hole, masked_content="fill", **wanted)
    np.testing.assert_array_equal(original.image, filled.image)
    without = canvas_of(colors, hole, masked_content="fill", **wanted)
    assert np.abs(without.image.astype(int) - filled.image)[~without.mask].mean() < 1
    assert np.abs(without.image.astype(int) - filled.image)[without.mask].mean() < 4


def test_under_the_rest_of_the_mask_the_content_stays():
    canvas = canvas_of(with_hole(0), MASKS["more than the hole"], native_size=64)
    assert canvas.geometry.resized == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(canvas.image[~HOLE], photograph()[~HOLE])
    known = from_surroundings(canvas.image, MASKS["more than the hole"])
    np.testing.assert_array_equal(canvas.image[HOLE], known[HOLE])


def test_what_is_to_go_lends_no_color_to_the_hole_beside_it():
    """A red thing on green, masked, with a hole at its side: green goes into the hole, not red."""
    colors = np.broadcast_to(np.array((0, 200, 0), np.uint8), (HEIGHT, WIDTH, 3)).copy()
    thing = box(slice(20, 44), slice(60, 80))
    colors[thing] = (200, 0, 0)
    canvas = canvas_of(with_hole(0, colors), thing, native_size=64)
    assert (canvas.image[HOLE] == (0, 200, 0)).all()
    assert (canvas.image[thing] == (200, 0, 0)).all()
    only = canvas_of(with_hole(0, colors, ~thing), thing, native_size=64)  # nothing else is to be seen
    assert (only.image == (200, 0, 0)).all()


def test_a_mask_over_everything_fills_the_hole_from_what_is_seen():
    flat = np.full((HEIGHT, WIDTH, 3), 33, np.uint8)
    assert (canvas_of(with_hole(255, flat), MASKS["everything"]).image == 33).all()


def test_a_crop_inside_a_hole_is_filled_from_outside_of_it():
    hole, flat = box(slice(4, 396), slice(4, 396), (400, 400)), np.full((400, 400, 3), 33, np.uint8)
    mask = box(slice(180, 200), slice(180, 200), (400, 400))
    canvas = canvas_of(with_hole(200, flat, hole), mask, mask_padding=0, native_size=64)
    assert hole[slice(*canvas.geometry.crop[1::2]), slice(*canvas.geometry.crop[::2])].all()
    assert (canvas.image == 33).all()


@pytest.mark.parametrize("alpha", [0, FAINT - 1])
def test_an_image_of_nothing_is_plain_gray_and_says_so(alpha):
    image = np.dstack([noise(HEIGHT, WIDTH, 3), np.full((HEIGHT, WIDTH), alpha, np.uint8)])
    canvas = canvas_of(image, HOLE)
    assert (canvas.image == 128).all()
    assert canvas.warnings == ("init_image is transparent everywhere: the network is shown plain gray",)
    out = np.asarray(canvas.paste(np.full_like(canvas.image, 7)))
    assert (out[HOLE] == (7, 7, 7, 255)).all()
    np.testing.assert_array_equal(out[~canvas.touched()], image[~canvas.touched()])


# Half-transparent pixels.


def test_visible_pixels_are_shown_as_stored_and_weigh_by_their_alpha():
    colors = np.array([[[10, 0, 0], [250, 0, 0]], [[99, 99, 99], [100, 0, 0]]], np.uint8)
    alpha = np.array([[255, 51], [FAINT - 1, FAINT]], np.uint8)
    shown = opaque(colors, alpha)
    mean = (255 * 10 + 51 * 250 + FAINT * 100) / (255 + 51 + FAINT)
    assert shown[1, 0].tolist() == [round(mean), 0, 0]
    np.testing.assert_array_equal(shown[[0, 0, 1], [0, 1, 1]], colors[[0, 0, 1], [0, 1, 1]])
    masked = np.array([[True, False], [False, True]])
    assert opaque(colors, alpha, masked)[1, 0].tolist() == [250, 0, 0]
    np.testing.assert_array_equal(opaque(colors, alpha, np.ones_like(masked)), shown)


def test_opaque_images_are_passed_on_as_they_are():
    colors = noise(5, 7, 3)
    assert opaque(colors, None) is colors
    assert opaque(colors, np.full((5, 7), FAINT, np.uint8)) is colors
    assert hidden_pixels(None) is hidden_pixels(np.full((5, 7), FAINT, np.uint8)) is None


@pytest.mark.parametrize("finest", [1, 5, 8, 1024])
def test_large_images_are_filled_on_cells(monkeypatch, finest):
    """Of whatever size the cells are: the fill of a ramp lies on the ramp, to a cell's extent."""
    monkeypatch.setattr(fill, "_FINEST", finest)
    rows, columns = np.mgrid[:50, :83]
    ramp = np.dstack([rows, columns, rows + columns]).astype(np.uint8)
    alpha = np.where((rows + columns) % 2, 0, 255).astype(np.uint8)
    shown = opaque(np.where(alpha[:, :, None], ramp, np.uint8(255)), alpha)
    np.testing.assert_array_equal(shown[alpha > 0], ramp[alpha > 0])
    cell = -(-83 // finest)
    assert np.abs(shown.astype(int) - ramp).max() <= 2 * cell
    if finest == 8:  # cells of 7 × 11: between the middles of whole ones nothing is shifted
        inner = (slice(4, 45), slice(6, 71))
        assert np.abs(shown.astype(int) - ramp)[inner].max() <= 2
    exact = np.repeat(np.array([[7, 9]], np.uint8), 40, axis=1).repeat(50, axis=0)
    alpha = np.tile(np.array([[255, 0], [0, 255]], np.uint8), (25, 40))
    shown = opaque(np.dstack([exact] * 3), alpha)
    assert set(shown[:, :30].ravel().tolist()) == {7} or finest == 1
    assert set(shown.ravel().tolist()) <= {7, 8, 9}


# What comes out.


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), kind=st.sampled_from(["any", "two"]))
def test_compositing_is_over_of_porter_and_duff(seed, kind):
    """Colors multiplied by their alpha add up: layer · w + image · (1 - w), to the rounding of alpha and share."""
    rng = np.random.default_rng(seed)
    alpha, weights = rng.integers(0, 256, (2, 12, 17), dtype=np.uint8)
    if kind == "two":
        alpha, weights = (alpha // 128 * 255).astype(np.uint8), (weights // 128 * 255).astype(np.uint8)
    crop, place = (2, 1, 20, 11), (5, 3, 22, 15)
    whole = rng.integers(0, 256, (30, 30), dtype=np.uint8)
    whole[3:15, 5:22] = alpha
    share, out = composite(whole, crop, Feather(place, weights))
    assert share.box == (5, 3, 20, 11)
    inner = (slice(3, 11), slice(5, 20))
    outside = np.ones_like(whole, np.bool_)
    outside[inner] = False
    np.testing.assert_array_equal(out[outside], whole[outside])
    w, a = weights[:8, :15] / 255, alpha[:8, :15] / 255
    both = w + (1 - w) * a
    assert np.abs(out[inner] / 255 - both).max() <= 0.5 / 255 + 1e-9
    exact = np.divide(w, both, out=np.zeros_like(w), where=both > 0)
    assert np.abs(share.weights / 255 - exact).max() <= 0.5 / 255 + 1e-9
    np.testing.assert_array_equal(share.weights[a == 1], weights[:8, :15][a == 1])


@pytest.mark.parametrize("place", ["the hole", "more than the hole", "part of the hole", "across its edge"])
def test_what_is_repainted_in_a_hole_is_seen(place):
    canvas = canvas_of(with_hole(0), MASKS[place], native_size=64)
    generated = noise(*canvas.image.shape)
    out = np.asarray(canvas.paste(generated))
    assert (out[MASKS[place]][:, 3] == 255).all()
    np.testing.assert_array_equal(out[MASKS[place]][:, :3], generated[MASKS[place]])
    feathered = canvas.touched() & HOLE & ~MASKS[place]
    np.testing.assert_array_equal(out[feathered][:, :3], generated[feathered])
    minor = 2 * np.count_nonzero(MASKS[place] & HOLE) < MASKS[place].sum()
    said = ("the mask covers transparent pixels of init_image: what is repainted becomes opaque",)
    assert canvas.warnings == (said if minor else ())
    if place == "part of the hole":
        assert {0, 255} < set(out[:, :, 3][feathered].tolist()) | {0, 255}


def test_a_half_transparent_rim_of_a_hole_is_closed_with_it():
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    alpha[18:20, 30:60] = 100
    canvas = canvas_of(np.dstack([photograph(), alpha]), MASKS["more than the hole"])
    assert (np.asarray(canvas.paste(canvas.image))[:, :, 3] == 255).all()


def test_a_half_transparent_image_stays_so():
    image = np.dstack([photograph(), np.full((HEIGHT, WIDTH), FAINT, np.uint8)])
    canvas = canvas_of(image, HOLE, native_size=64)
    generated = noise(*canvas.image.shape)
    out = np.asarray(canvas.paste(generated))
    assert (out[:, :, 3] == FAINT).all()
    np.testing.assert_array_equal(out[HOLE][:, :3], generated[HOLE])
    plain = np.asarray(canvas_of(photograph(), HOLE, native_size=64).paste(generated))
    np.testing.assert_array_equal(out[:, :, :3], plain)
    assert canvas.warnings == ()


def test_a_feather_alone_opens_nothing():
    """The mask ends at the hole's edge; its feather lies over the hole, which stays as it was stored."""
    image = with_hole(noise(HEIGHT, WIDTH, 3))
    canvas = canvas_of(image, MASKS["beside it"])
    assert (canvas.touched() & HOLE).any()
    np.testing.assert_array_equal(np.asarray(canvas.paste(noise(*canvas.image.shape)))[HOLE], image[HOLE])


def test_colors_are_matched_to_what_is_seen():
    flat = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    canvas = canvas_of(with_hole(255, flat), MASKS["across its edge"], color_match=True, native_size=64)
    out = np.asarray(canvas.paste(np.full_like(canvas.image, 120)))
    assert (out[MASKS["across its edge"]][:, :3] == 100).all()


# The same elsewhere.


def test_a_jpeg_shows_nothing_that_was_hidden():
    flat = np.broadcast_to(np.array(COLOR, np.uint8), (HEIGHT, WIDTH, 3))
    for hidden in (0, 255):
        data, _ = encode(Image.fromarray(with_hole(hidden, flat)), "JPEG", options=SaveOptions(quality=100))
        assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - COLOR).max() <= 2


def test_strength_zero_returns_the_input(empty_registry):
    image = with_hole(noise(HEIGHT, WIDTH, 3))
    request = intarsia.InpaintRequest(init_image=image, mask_image=HOLE, strength=0.0, seed=1)
    with intarsia.Engine("null", weights=empty_registry) as engine:
        result = engine.run(request)
    np.testing.assert_array_equal(np.asarray(result.images[0]), image)
