"""Painting a mask: every tool against geometry computed here, undo, whole-mask commands, zoom, keys, files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from intarsia.canvas.mask import dilate
from tests.page.workbench import Workbench, png

HEIGHT, WIDTH = 96, 128


def centers() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return columns + 0.5, rows + 0.5


def brushed(points: list[tuple[float, float]], radius: float) -> np.ndarray:
    """Pixels whose centers are within the radius of the lines between points."""
    x, y = centers()
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = np.zeros_like(x) if length == 0 else ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
        along = np.clip(along, 0, 1)
        covered |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= radius
    return covered


@pytest.fixture
def opened(tab: Workbench, photo: bytes) -> Workbench:
    tab.open(photo)
    return tab


def test_a_stroke_covers_what_is_within_the_brush_and_the_share_is_shown(opened, tmp_path):
    opened.brush(13)
    points = [(30.25, 40.5), (60.25, 20.75), (90.5, 60.25)]
    opened.stroke(*points)
    mask = opened.mask(tmp_path)
    expected = brushed(points, 6.5)
    np.testing.assert_array_equal(mask, expected * 255)
    assert opened.seen("#coverage") == f"{100 * expected.mean():.1f} % masked"


def test_the_eraser_takes_away_what_it_covers(opened, tmp_path):
    opened.brush(13)
    opened.stroke((20.25, 48.25), (100.25, 48.25))
    opened.page.keyboard.press("e")
    opened.stroke((60.25, 20.25), (60.25, 80.25))
    expected = brushed([(20.25, 48.25), (100.25, 48.25)], 6.5) & ~brushed([(60.25, 20.25), (60.25, 80.25)], 6.5)
    np.testing.assert_array_equal(opened.mask(tmp_path), expected * 255)


@pytest.mark.slow
def test_the_rectangle_covers_the_pixels_whose_centers_are_in_it(opened, tmp_path):
    opened.at("[data-tool=rectangle]").click()
    opened.stroke((100.25, 70.75), (50, 50), (20.75, 10.25))
    x, y = centers()
    expected = (x >= 20.75) & (x <= 100.25) & (y >= 10.25) & (y <= 70.75)
    np.testing.assert_array_equal(opened.mask(tmp_path), expected * 255)


def test_the_lasso_covers_the_inside_of_what_is_encircled(opened, tmp_path):
    opened.page.keyboard.press("l")
    corners = [(20.25, 10.25), (110.25, 30.25), (60.25, 85.25)]
    opened.stroke(*corners)
    x, y = centers()
    sides = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        sides.append((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0)
    np.testing.assert_array_equal(opened.mask(tmp_path), np.logical_and.reduce(sides) * 255)


@pytest.mark.slow
def test_shift_draws_a_straight_line_from_the_last_stroke(opened, tmp_path):
    opened.brush(9)
    opened.stroke((20.25, 20.25))
    opened.page.keyboard.down("Shift")
    opened.stroke((100.25, 70.25))
    opened.page.keyboard.up("Shift")
    expected = brushed([(20.25, 20.25), (100.25, 70.25)], 4.5)
    np.testing.assert_array_equal(opened.mask(tmp_path), expected * 255)


def test_a_soft_brush_falls_off_and_its_strokes_build_up(opened, tmp_path):
    opened.brush(31)
    opened.at("#brush-hardness").fill("0")
    opened.stroke((60.25, 48.25))
    once = opened.mask(tmp_path).astype(int)
    opened.stroke((60.25, 48.25))
    twice = opened.mask(tmp_path).astype(int)

    x, y = centers()
    distance = np.hypot(x - 60.25, y - 48.25)
    expected = np.where(distance <= 15.5, 255 * (15.5 - distance) / 15.5, 0)
    assert np.abs(once - expected).max() <= 0.5
    assert np.abs(twice - (once + (255 - once) * once / 255)).max() <= 0.5


def test_undo_and_redo_go_through_every_change(opened, tmp_path):
    opened.brush(9)
    masks = [opened.mask(tmp_path)]
    for number in range(5):
        opened.stroke((20.25 + 18 * number, 30.25), (30.25 + 18 * number, 60.25))
        masks.append(opened.mask(tmp_path))
    opened.at("#invert").click()
    masks.append(opened.mask(tmp_path))

    for expected in reversed(masks[:-1]):
        opened.page.keyboard.press("Control+z")
        np.testing.assert_array_equal(opened.mask(tmp_path), expected)
    assert opened.at("#undo").is_disabled()
    for expected in masks[1:]:
        opened.page.keyboard.press("Control+Shift+Z")
        np.testing.assert_array_equal(opened.mask(tmp_path), expected)
    assert opened.at("#redo").is_disabled()


def test_fill_invert_and_clear(opened, tmp_path):
    opened.at("#fill").click()
    assert opened.mask(tmp_path).min() == 255
    opened.at("#invert").click()
    assert opened.mask(tmp_path).max() == 0
    opened.at("#fill").click()
    opened.at("#clear").click()
    assert opened.mask(tmp_path).max() == 0


def test_grow_and_shrink_are_the_library_s_discs(opened, tmp_path):
    opened.brush(13)
    opened.stroke((5.25, 40.25), (70.25, 30.25), (100.25, 70.25))
    mask = opened.mask(tmp_path) >= 128
    opened.at("#grow-by").fill("7")
    opened.at("#grow").click()
    np.testing.assert_array_equal(opened.mask(tmp_path) >= 128, dilate(mask, 7))
    opened.page.keyboard.press("Control+z")
    opened.at("#grow-by").fill("3")
    opened.at("#shrink").click()
    np.testing.assert_array_equal(opened.mask(tmp_path) >= 128, ~dilate(~mask, 3))


def test_a_mask_file_is_loaded_exactly_and_one_of_another_shape_is_refused_with_both_sizes(opened, tmp_path):
    drawn = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(drawn).ellipse((20, 10, 90, 80), fill=255)
    file = {"name": "mask.png", "mimeType": "image/png", "buffer": png(np.asarray(drawn))}
    opened.page.set_input_files("#mask-file", file)
    expect(opened.at("#coverage")).not_to_have_text("0.0 % masked")
    np.testing.assert_array_equal(opened.mask(tmp_path), np.asarray(drawn))

    square = {"name": "square.png", "mimeType": "image/png", "buffer": png(np.zeros((50, 50), np.uint8))}
    opened.page.set_input_files("#mask-file", square)
    assert "50 × 50" in opened.seen("#mask-error")
    assert "128 × 96" in opened.seen("#mask-error")
    np.testing.assert_array_equal(opened.mask(tmp_path), np.asarray(drawn))


def test_a_zoomed_and_panned_view_paints_where_the_pointer_is(opened, tmp_path):
    opened.brush(8)
    x, y = opened.on_screen((64, 48))
    opened.page.mouse.move(x, y)
    opened.page.mouse.wheel(0, -400)
    opened.page.keyboard.down(" ")
    opened.page.mouse.down()
    opened.page.mouse.move(x + 80, y + 40)
    opened.page.mouse.up()
    opened.page.keyboard.up(" ")
    opened.page.mouse.down()  # on what was in the middle before, moved along
    opened.page.mouse.up()
    np.testing.assert_array_equal(opened.mask(tmp_path) >= 128, brushed([(64, 48)], 4))
    opened.page.keyboard.press("0")
    opened.page.mouse.move(*opened.on_screen((20.25, 20.25)))
    opened.page.mouse.down()
    opened.page.mouse.up()
    expected = brushed([(64, 48)], 4) | brushed([(20.25, 20.25)], 4)
    np.testing.assert_array_equal(opened.mask(tmp_path) >= 128, expected)


def test_a_mask_can_be_painted_with_the_keyboard_alone(opened, tmp_path):
    opened.brush(16)
    keyboard = opened.page.keyboard
    keyboard.press("Enter")
    for _ in range(8):
        keyboard.press("ArrowRight")
    keyboard.press("Enter")
    expected = brushed([(64, 48), (80, 48)], 8)
    np.testing.assert_array_equal(opened.mask(tmp_path) >= 128, expected)
    opened.at("#stage").focus()
    keyboard.press("Delete")
    assert opened.mask(tmp_path).max() == 0


def test_fingers_paint_and_two_of_them_move_the_image(open_tab, server, photo, tmp_path):
    tab = open_tab(server, has_touch=True)
    tab.open(photo)
    tab.brush(9)
    touch = tab.page.context.new_cdp_session(tab.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    start, end = tab.on_screen((30.25, 30.25)), tab.on_screen((60.25, 30.25))
    send("touchStart", start)
    send("touchMove", end)
    send("touchEnd")
    expected = brushed([(30.25, 30.25), (60.25, 30.25)], 4.5)
    np.testing.assert_array_equal(tab.mask(tmp_path) >= 128, expected)

    before = tab.at("#picture-canvas").screenshot()
    send("touchStart", start)
    send("touchStart", start, end)
    send("touchMove", start, (end[0] + 60, end[1]))
    send("touchEnd")
    np.testing.assert_array_equal(tab.mask(tmp_path) >= 128, expected)
    assert tab.at("#picture-canvas").screenshot() != before


@pytest.mark.slow
def test_a_pen_paints_as_a_mouse_does(opened, tmp_path):
    opened.brush(9)
    pen = opened.page.context.new_cdp_session(opened.page)
    start, end = opened.on_screen((30.25, 30.25)), opened.on_screen((60.25, 30.25))
    for kind, (x, y) in (("mouseMoved", start), ("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
        pressed = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1, "force": 0.5}
        pen.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "pointerType": "pen", **pressed})
    expected = brushed([(30.25, 30.25), (60.25, 30.25)], 4.5)
    np.testing.assert_array_equal(opened.mask(tmp_path) >= 128, expected)


@pytest.mark.slow
def test_the_veil_shows_the_mask_and_only_that(opened):
    opened.brush(13)
    opened.stroke((60.25, 48.25))
    opened.page.mouse.move(5, 5)
    opened.page.wait_for_timeout(100)
    assert opened.pixel("#veil-canvas", (60.25, 48.25))[3] == 255
    assert opened.pixel("#veil-canvas", (60.25, 60.25))[3] == 0
    assert "is-feathered" in (opened.at("#veil-canvas").get_attribute("class") or "")
    opened.settings(mask_blur=0)
    opened.page.wait_for_timeout(100)
    assert "is-feathered" not in (opened.at("#veil-canvas").get_attribute("class") or "")


@pytest.mark.slow
def test_brackets_make_the_brush_smaller_and_larger(opened):
    opened.brush(40)
    opened.page.keyboard.press("]")
    assert opened.at("#brush-pixels").input_value() == "45"
    opened.page.keyboard.press("[")
    opened.page.keyboard.press("[")
    assert int(opened.at("#brush-pixels").input_value()) < 40
