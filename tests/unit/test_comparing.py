"""Comparisons on the null backend: axes, cells, differences, grid, table, manifest."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia import batch
from intarsia.comparing import running
from intarsia.comparing.axes import MAX_CELLS, Axis, combined, label_of, split
from intarsia.comparing.comparison import Comparison
from intarsia.comparing.difference import Painted, difference
from intarsia.comparing.running import Settings, run_comparison
from intarsia.engine.engine import Engine

Compare = Callable[..., Comparison]


@pytest.fixture
def compare(engine: Engine, image_and_mask: tuple[np.ndarray, np.ndarray]) -> Compare:
    """``intarsia.compare`` on the null backend's engine."""
    image, mask = image_and_mask

    def run(settings: Settings = Settings(), **options: Any) -> Comparison:
        fields, axes = split({"init_image": image, "mask_image": mask, "seed": 1, **options})
        return run_comparison(engine, fields, axes, settings)

    return run


def test_lists_are_axes_and_lists_of_fields_that_are_lists_are_not():
    fields, axes = split(
        {"steps": range(2, 5), "prompt": "a, b", "loras": ["ink", "wash"], "embeddings": [["x"], []], "seed": (1, 2)}
    )
    assert fields == {"prompt": "a, b", "loras": ["ink", "wash"]}
    assert axes == (Axis("steps", (2, 3, 4)), Axis("embeddings", (["x"], [])), Axis("seed", (1, 2)))


def test_every_combination_is_a_request_and_the_last_axis_changes_first():
    cells = combined({"seed": 7}, [Axis("steps", (1, 2)), Axis("strength", (0.5, 1.0))])
    assert [(cell["seed"], cell["steps"], cell["strength"]) for cell in cells] == [
        (7, 1, 0.5), (7, 1, 1.0), (7, 2, 0.5), (7, 2, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "nothing is compared: give a field several values"),
        ({"sampler": ["euler"]}, "sampler is not a field of a request: it is scheduler here"),
        ({"steps": []}, "steps is compared by an empty list"),
        ({"steps": [4, 0]}, "steps must be an integer between 1 and 150, or null, not 0"),
        ({"steps": range(1, 21), "seed": range(11)}, "11 seed x 20 steps are 220 cells: a comparison has at most 200"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_computed(compare, engine, options, sentence):
    with pytest.raises(intarsia.RequestError, match=f"^{re.escape(sentence)}"):
        compare(**options)
    assert engine.counters.evaluations == 0


@pytest.mark.parametrize(
    ("cell_size", "sentence"), [(63, "between 64 and 1024"), ("9", "an integer"), (1024, "at most 579 for a grid")]
)
def test_the_grid_is_bounded(compare, engine, cell_size, sentence):
    with pytest.raises(intarsia.RequestError, match=f"^cell_size must be .*{sentence}"):
        compare(Settings(cell_size=cell_size), seed=range(MAX_CELLS))
    assert engine.counters.evaluations == 0


def test_cells_are_the_requests_that_they_say_and_share_evaluations(compare, engine, image_and_mask):
    made = compare(scheduler=["euler", "ddim", "dpm++2m"], steps=[2, 4, 6], strength=1.0)
    assert [cell.evaluations for cell in made.cells] == [2, 4, 6] * 3
    assert (made.counters.lane_rows, made.counters.slots) == (36, 8)
    # of nine lanes eight run at once, the longest first: the last takes the place of the first that is done
    assert made.counters.evaluations == 6

    image, mask = image_and_mask
    for cell in made.cells:
        alone = engine.run(intarsia.InpaintRequest(**cell.fields)).images[0]
        np.testing.assert_array_equal(np.asarray(cell.thumbnails[0]), np.asarray(alone))
    assert [dict(cell.fields) for cell in made.cells[:2]] == [
        {"init_image": image, "mask_image": mask, "seed": 1, "strength": 1.0, "scheduler": "euler", "steps": steps}
        for steps in (2, 4)
    ]


def test_without_a_seed_one_is_drawn_for_all_cells(compare):
    made = compare(seed=None, steps=[2, 3])
    seeds = {cell.seeds for cell in made.cells}
    assert seeds == {(made.shared["seed"],)}
    drawn = compare(seed=["random", -1, 5])
    assert [cell.seeds[0] for cell in drawn.cells] == list(drawn.axes[0].values)
    assert len({cell.seeds for cell in drawn.cells}) == 3
    assert drawn.cells[2].seeds == (5,)


def test_differences_are_of_what_was_repainted():
    rng = np.random.default_rng(5)
    one, other = rng.integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    first, second = np.zeros((2, 9, 7), np.bool_)
    first[:4, :3], second[3:, 2:5] = True, True
    found = difference(Painted(one, first), Painted(other, second))

    distances = [
        float(one[y, x, c]) - float(other[y, x, c])
        for y in range(9) for x in range(7) for c in range(3) if first[y, x] or second[y, x]
    ]  # fmt: skip
    mean_square = sum(d * d for d in distances) / len(distances)
    assert math.isclose(found.psnr, 20 * math.log10(255 / math.sqrt(mean_square)))
    assert math.isclose(found.mean_absolute, sum(map(abs, distances)) / len(distances))

    assert difference(Painted(one, first), Painted(one, second)).psnr == math.inf
    assert difference(Painted(one, first), Painted(one[:8], first[:8])) is None


def test_differences_are_to_the_first_cell(compare, engine, request_of, image_and_mask):
    made = compare(prompt=["a", "b", "a"], mask_blur=0, steps=6)
    a, b = (np.asarray(engine.run(request_of(prompt=text, mask_blur=0)).images[0], float) for text in "ab")
    inside = image_and_mask[1] > 0
    assert made.cells[0].difference.psnr == made.cells[2].difference.psnr == math.inf
    assert math.isclose(made.cells[1].difference.mean_absolute, np.abs(a - b)[inside].mean())
    assert made.to_dict()["cells"][0]["psnr"] is None, "JSON has no infinity"
    json.dumps(made.to_dict(), allow_nan=False)


def test_a_cell_that_fails_says_why_and_the_others_are_there(compare):
    made = compare(scheduler=["euler", "lcm"], steps=[4, 60])
    assert [bool(cell.error) for cell in made.cells] == [False, False, False, True]
    assert made.failed == (made.cells[3],)
    assert made.cells[3].error.startswith("steps must be at most 50")
    rows = list(csv.DictReader(io.StringIO(made.csv())))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert rows[3]["error"] == made.cells[3].error
    assert (rows[3]["evaluations"], rows[3]["psnr"], rows[0]["psnr"]) == ("", "", "inf")
    assert [(row["scheduler"], row["steps"], row["seed"]) for row in rows][2:] == [
        ("lcm", "4", "1"),
        ("lcm", "60", "1"),
    ]

    last = np.asarray(made.grid())[-40:, -40:]
    assert (last == (0xF1, 0xF1, 0xF1)).all(-1).any(), "gray, where the others have an image"


def test_where_all_cells_fail_the_first_error_is_raised(compare):
    with pytest.raises(intarsia.RequestError, match="steps must be at most 50"):
        compare(scheduler="lcm", steps=[60, 70])
    with pytest.raises(intarsia.SourceError, match=r"^init_image: file not found"):
        compare(init_image="nothing.png", steps=[2, 3])


def test_of_large_images_few_are_in_flight(compare, monkeypatch):
    expected = compare(steps=range(2, 9))
    monkeypatch.setattr(running, "MOST_PIXELS", 3 * 96 * 128)
    sizes = []
    submit = Engine.submit_together
    monkeypatch.setattr(
        Engine, "submit_together", lambda engine, requests: sizes.append(len(requests)) or submit(engine, requests)
    )
    made = compare(steps=range(2, 9))
    assert sizes == [3, 1, 1, 1, 1, 0, 0, 0]
    assert [cell.fields["steps"] for cell in made.cells] == list(range(2, 9))
    for one, other in zip(made.cells, expected.cells, strict=True):
        np.testing.assert_array_equal(np.asarray(one.thumbnails[0]), np.asarray(other.thumbnails[0]))


def test_progress_goes_up_to_the_number_of_cells(compare):
    seen: list[tuple[float, int]] = []
    compare(Settings(watch=lambda done, count: seen.append((done, count))), steps=[2, 9])
    assert {count for _, count in seen} == {2}
    assert seen[-1][0] == 2.0
    assert len(seen) > 4, "after each evaluation, not only after each cell"


def test_the_manifest_is_run_by_a_batch_as_it_is(compare, tmp_path, empty_registry, image_and_mask, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, pixels in zip(("photo.png", "mask.png"), image_and_mask, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    made = compare(
        Settings(keep="full"), init_image="photo.png", mask_image=Path("mask.png"), seed=None,
        prompt=["a, b", "ü"], token_merging=[None, 0.5], mask_padding=8,
    )  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows.jsonl").write_text(made.manifest(), encoding="utf-8")
    options = batch.Options(backend="null", weights=empty_registry)
    stats = batch.run(tmp_path / "elsewhere" / "rows.jsonl", tmp_path / "out", options)
    assert dict(stats.status) == {"ok": 4}
    for cell in made.cells:
        with Image.open(tmp_path / "out" / f"{cell.id}.png") as one, Image.open(cell.outputs[0]) as other:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
            assert other.text["intarsia"]


def test_a_row_has_what_a_request_makes_of_a_field(compare, tmp_path, image_and_mask):
    """None is the whole image to ``mask_padding``, and left out of a row it would be another default."""
    for name, pixels in zip(("photo.png", "mask.png"), image_and_mask, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    images = {"init_image": tmp_path / "photo.png", "mask_image": tmp_path / "mask.png"}
    made = compare(**images, mask_padding=[None, 8], clip_skip=None, steps=2)
    rows = [json.loads(line) for line in made.manifest().splitlines()]
    assert [row["mask_padding"] for row in rows] == ["whole", 8]
    assert "clip_skip" not in rows[0]


def test_pixels_have_no_place_in_a_manifest(compare):
    with pytest.raises(intarsia.RequestError, match=r"^init_image was given as <array 96x128x3>: a manifest takes"):
        compare(steps=[2, 3]).manifest()


def test_masks_may_be_compared_and_several_samples_stand_in_one_cell(compare, image_and_mask):
    mask = image_and_mask[1]
    made = compare(mask_image=[mask, mask[::-1].copy()], samples=2)
    assert [len(cell.thumbnails) for cell in made.cells] == [2, 2]
    assert made.axes[0].labels == ("1: <array 96x128>", "2: <array 96x128>")
    assert made.cells[1].difference.mean_absolute > 0
    assert made.grid().size[0] > 2 * 128


def test_representations(compare):
    made = compare(steps=[2, 3], scheduler=["euler"])
    pattern = r"Comparison\(2 steps x 1 scheduler, cells=2, failed=0, evaluations=2, seconds=[0-9.]+\)"
    assert re.fullmatch(pattern, repr(made))
    assert made._repr_html_().startswith('<figure style="')
    assert "2 steps x 1 scheduler" in made._repr_html_()


def test_a_comparison_is_closed_to_changes(compare):
    with pytest.raises(AttributeError):
        compare(steps=[2]).cells = ()


def test_the_public_function_shares_its_engine_with_inpaint(image_and_mask, monkeypatch, empty_registry):
    from intarsia import api

    with intarsia.Engine("null", weights=empty_registry) as opened:
        monkeypatch.setattr(api._KeptEngine, "engine", lambda self: opened)
        made = intarsia.compare(*image_and_mask, ["a", "b"], steps=(2, 3), seed=4, cell_size=64)
        one = intarsia.inpaint(*image_and_mask, "a", steps=2, seed=4)
    assert [axis.name for axis in made.axes] == ["prompt", "steps"]
    assert isinstance(made, intarsia.Comparison)
    assert made.cells[0].thumbnails[0].size == (64, 48)
    assert made.cells[0].seeds == one.seeds
    with pytest.raises(intarsia.RequestError, match="mask_image is given by the argument mask of compare"):
        intarsia.compare(*image_and_mask, mask_image=["x"])


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (None, "none"), (True, "yes"), (False, "no"), (7.5, "7.5"), (1.0, "1"), (np.int64(3), "3"), ("", "(empty)"),
        (["ink:0.5", {"id": "wash", "strength": 1.0}], "ink:0.5 + wash:1"), ([], "none"), (Path("a/b.png"), "a/b.png"),
        (intarsia.Lora(id="ink", strength=0.5), "ink:0.5"), ({"id": "look", "scale": 1, "image": "x"}, "look:1"),
    ],
)  # fmt: skip
def test_labels_are_what_a_person_would_write(value, label):
    assert label_of(value) == label
