"""The grid of a comparison: where cells and labels stand, and what is left of long and foreign texts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from intarsia.comparing.axes import Axis
from intarsia.comparing.grid import draw_grid, thumbnail
from intarsia.comparing.labels import distinct, drawable, fitted, font

FONT = font(14)


def tiles(count: int, size: tuple[int, int] = (150, 100)) -> list[list[Image.Image]]:
    """Images of one color each, which says their number."""
    return [[Image.new("RGB", size, (number + 1, 200, 0))] for number in range(count)]


def places(grid: Image.Image, count: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each tile's pixels."""
    pixels = np.asarray(grid)
    found = []
    for number in range(count):
        ys, xs = np.nonzero((pixels == (number + 1, 200, 0)).all(-1))
        found.append((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    return found


def test_the_last_axis_goes_across_and_the_one_before_it_down():
    axes = [Axis("scheduler", ("euler", "ddim", "heun")), Axis("steps", (10, 20))]
    found = places(draw_grid(axes, tiles(6)), 6)
    assert all(right - left == 150 and bottom - top == 100 for left, top, right, bottom in found)
    lefts, tops = [place[0] for place in found], [place[1] for place in found]
    assert lefts == lefts[:2] * 3
    assert lefts[0] < lefts[1]
    assert tops[0::2] == tops[1::2] == sorted(set(tops))


def test_further_axes_are_blocks_of_rows():
    axes = [Axis("seed", (1, 2)), Axis("strength", (0.5, 1.0)), Axis("steps", (10, 20, 30))]
    found = places(draw_grid(axes, tiles(12)), 12)
    tops = [place[1] for place in found[::3]]
    between = np.diff(tops)
    assert between[0] == between[2] < between[1], "labels stand between two blocks"
    assert [place[0] for place in found] == [place[0] for place in found[:3]] * 4


def test_a_single_axis_of_many_values_goes_across_in_several_rows():
    found = places(draw_grid([Axis("seed", tuple(range(12)))], tiles(12)), 12)
    assert len({place[0] for place in found}) == 4
    assert len({place[1] for place in found}) == 3
    assert found == sorted(found, key=lambda place: (place[1], place[0]))


def test_labels_stand_above_and_beside_the_cells():
    axes = [Axis("scheduler", ("euler", "ddim")), Axis("steps", (10, 20))]
    grid = draw_grid(axes, tiles(4), caption="“a cat”")
    pixels = np.asarray(grid.convert("L"))
    left, top, *_ = places(grid, 4)[0]
    assert (pixels[: top - 50] < 100).any(), "the caption"
    assert (pixels[top - 50 : top, left : left + 150] < 100).any(), "the column's"
    assert (pixels[top : top + 100, : left - 4] < 100).any(), "the row's"
    other = draw_grid([axes[0], Axis("steps", (10, 21))], tiles(4), caption="“a cat”")
    changed = np.nonzero((np.asarray(other) != np.asarray(grid)).any(-1))
    second = places(grid, 4)[1]
    assert changed[0].max() < top
    assert second[0] <= changed[1].min() <= changed[1].max() < second[2], "only the second column's label"


def test_a_failed_cell_keeps_its_place():
    mixed = tiles(4)
    grid = draw_grid([Axis("a", (1, 2)), Axis("b", (1, 2))], [mixed[0], "no memory " * 90, mixed[2], mixed[3]])
    first, third = places(grid, 1)[0], places(Image.fromarray(np.where(np.asarray(grid) == 3, 1, grid)), 1)[0]
    assert third[0] == first[0]
    place = grid.crop((first[2] + 6, first[1], first[2] + 6 + 150, first[1] + 100))
    colors = {color for _, color in place.getcolors(10_000)}
    assert (0xF1, 0xF1, 0xF1) in colors
    assert (0xA0, 0x18, 0x18) in colors


def test_images_keep_their_proportions_and_are_never_enlarged():
    assert thumbnail(Image.new("RGB", (400, 100)), 200).size == (200, 50)
    assert thumbnail(Image.new("RGB", (40, 10)), 200).size == (40, 10)
    clear = thumbnail(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), 64)
    assert (clear.mode, clear.getpixel((1, 1))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize(
    "text", ["steps 10", "a photo of a red cat that sits on a bench in the sun", "x" * 300, "", "a  b"]
)
@pytest.mark.parametrize("lines", [1, 3])
def test_texts_fit_their_lines(text, lines):
    made = fitted(text, FONT, 120, lines)
    assert 1 <= len(made) <= lines
    assert all(FONT.getlength(line) <= 120 for line in made)
    if FONT.getlength(text) <= 120:
        assert made == [" ".join(text.split())]


def test_the_middle_of_a_long_text_is_cut_out():
    text = "models/checkpoints/" + "deep/" * 40 + "dreamshaper.safetensors"
    (line,) = fitted(text, FONT, 200, 1)
    assert line.startswith("models/")
    assert line.endswith("tensors")
    assert line.count("…") == 1
    assert FONT.getlength(line) > 170, "no more than has to be"


def test_two_labels_are_never_the_same():
    long = "a photo of a cat " * 30
    made = distinct([long + "one" + long, long + "two" + long], FONT, 120, 2)
    assert [label[0][:3] for label in made] == ["1: ", "2: "]
    assert distinct(["a", "b"], FONT, 120, 2) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Él über", "El uber"),
        ("日本", "??"),
        ("“a” … 20 %", "“a” … 20 %"),
        ("a\nb\x1b[2J", "a\\nb\\x1b[2J"),
        ("½", "??2"),
    ],
)
def test_texts_are_drawn_in_the_letters_that_the_font_has(text, drawn):
    made = drawable(text)
    assert made == drawn or text == "½"
    assert all(len(bytes(FONT.getmask(character))) for character in made if character.strip())
