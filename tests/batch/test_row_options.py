"""Fields of requests on the command line of a batch: under the rows' own, over the file's; and the first N rows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from intarsia import batch
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Row, defaults_of
from intarsia.errors import RequestError
from tests.batch.conftest import image_hashes, lines

NO_PROMPT = "none of 6 rows has a prompt: what the mask covers is filled with background; --prompt TEXT is for all rows"


def fields_of(album: Any, **changes: Any) -> list[dict[str, Any]]:
    """The fields of the album's rows."""
    manifest = Manifest(album.folder / "manifest.jsonl")
    options = album.with_options(**changes)
    rows = map(Reader(manifest.base, options, defaults_of(options)).row, manifest)
    return [dict(row.fields) for row in rows if isinstance(row, Row)]


def test_a_rows_own_fields_go_first_then_the_options_then_the_file(album):
    rows = [{"id": "plain"}, {"id": "own", "steps": 5, "prompt": None}]
    album.manifest([{"init_image": "photos/0.png", "mask_image": "masks/0.png", **row} for row in rows])
    (album.folder / "defaults.toml").write_text('steps = 2\nguidance_scale = 3.0\nprompt = "of the file"\n')
    request = {"steps": "4", "prompt": "of the options", "strength": None}

    plain, own = fields_of(album, defaults=str(album.folder / "defaults.toml"), request=request)

    assert (plain["steps"], plain["prompt"], plain["guidance_scale"]) == (4, "of the options", 3.0)
    assert (own["steps"], own["prompt"]) == (5, "of the options")
    assert "strength" not in plain


@pytest.mark.slow
def test_options_of_the_command_line_are_those_of_the_library(album, tmp_path):
    """Every kind of option: text, number, flag, size, a list, another tool's name, --set; and the same pictures."""
    names = ("id", "init_image", "mask_image")
    manifest = album.manifest([{name: row[name] for name in names} for row in album.rows(3)])
    typed = [
        *("--prompt", "a red circle", "--num-inference-steps", "3", "--size", "64x72", "--invert-mask"),
        *("--samples", "2", "--set", "masked_content=noise", "--seed", "5"),
    ]
    request = {
        "prompt": "a red circle", "steps": 3, "width": 64, "height": 72, "invert_mask": True, "samples": 2,
        "masked_content": "noise",
    }  # fmt: skip

    done = album.call("run", manifest, "--out", tmp_path / "typed", "--backend", "null", *typed)
    batch.run(manifest, tmp_path / "called", album.with_options(seed=5, request=request))

    assert (done.returncode, done.stderr) == (0, "")
    assert len(image_hashes(tmp_path / "typed")) == 6
    assert image_hashes(tmp_path / "typed") == image_hashes(tmp_path / "called")
    checked = album.call("validate", manifest, *typed[:-2], "--json")
    assert json.loads(checked.stdout) == {"schema": 2, "rows": 3, "problems": [], "notes": []}


def test_changed_options_run_the_rows_again(album, tmp_path):
    manifest = album.manifest([{**album.row(0), "steps": None}, album.row(1)])
    options = [album.with_options(request={"steps": steps}) for steps in (3, 3, 4)]
    counts = [batch.run(manifest, tmp_path / "out", each).status["ok"] for each in options]
    assert counts == [2, 0, 1]


@pytest.mark.slow
def test_paths_on_the_command_line_are_relative_to_the_working_folder(album, tmp_path):
    manifest = album.manifest([{"id": "only", "init_image": "../photos/0.png", "prompt": "x"}], "lists.jsonl")
    (album.folder / "lists").mkdir()
    manifest = manifest.rename(album.folder / "lists/lists.jsonl")
    arguments = ["--set", "mask_image=masks/0.png", "--size", "64x64", "--steps", "2"]
    done = album.call("run", manifest, "--out", tmp_path / "out", "--backend", "null", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_batch_without_any_prompt_is_remarked_on(album, tmp_path):
    without = [{**album.row(number), "prompt": " " if number % 2 else None} for number in range(6)]
    manifest = album.manifest(without)
    assert batch.validate(manifest, album.options).notes == (NO_PROMPT,)
    assert batch.validate(manifest, album.with_options(request={"prompt": "a tree"})).notes == ()
    done = album.call("run", manifest, "--out", tmp_path / "out", "--backend", "null")
    assert (done.returncode, done.stderr) == (0, NO_PROMPT + "\n")

    album.manifest([*without[:5], album.row(5)])
    assert batch.validate(manifest, album.options).notes == ()


def test_the_first_rows_for_a_look_then_the_rest(album, tmp_path):
    manifest, out = album.manifest([*album.rows(5), "{"]), tmp_path / "out"
    look = batch.run(manifest, out, album.with_options(limit=2))
    assert (look.rows, look.status["ok"], look.before) == (2, 2, 0)
    assert sorted(line["id"] for line in lines(out)) == ["row-0", "row-1"]

    rest = batch.run(manifest, out, album.options)
    assert (rest.rows, rest.status["ok"], rest.before, rest.failed) == (6, 3, 2, 1)


def test_a_limit_counts_the_rows_of_a_shard_and_the_failed_ones_of_a_retry(album, tmp_path):
    manifest, out = album.manifest(album.rows(6)), tmp_path / "out"
    shard = batch.run(manifest, out, album.with_options(shard=(1, 2), limit=2))
    assert (shard.rows, shard.status["ok"]) == (2, 2)

    broken = album.manifest([{**row, "init_image": "photos/gone.png"} for row in album.rows(4)], "broken.jsonl")
    assert batch.run(broken, tmp_path / "failed", album.options).failed == 4
    again = batch.retry(broken, tmp_path / "failed", album.with_options(limit=3))
    assert (again.rows, again.failed) == (3, 3)


def test_validate_looks_at_the_first_rows_and_at_what_they_collide_with(album):
    rows = [*album.rows(4), {**album.row(0), "id": "row-1"}]
    rows[3]["init_image"] = "photos/gone.png"
    manifest = album.manifest(rows)
    found = batch.validate(manifest, album.with_options(limit=2))
    assert found.rows == 2
    assert [problem.number for problem in found.problems] == [2]
    assert "line 2 and line 5 have the id 'row-1' in common" in found.problems[0].text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"limit": 0}, "limit must be at least 1, not 0"),
        ({"limit": "2"}, "limit must be an integer or None"),
        ({"request": ["steps"]}, "request must be a mapping of request fields"),
    ],
)
def test_options_that_are_none(album, changes, sentence):
    with pytest.raises(RequestError, match=sentence):
        album.with_options(**changes)
