"""The limit of pixels: one option everywhere, and the caller's own limit, reach whatever decodes an image."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import intarsia
from intarsia import batch
from intarsia.batch import Options
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.running.row_runner import RowRunner
from intarsia.cli import app
from tests.batch.conftest import Album

BEYOND = "the limit is 1000 (max_pixels, --max-pixels)"


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the album's images have 1024 or more


@pytest.fixture
def fields(album: Album) -> dict:
    return {
        "init_image": str(album.folder / "photos/0.png"), "mask_image": str(album.folder / "masks/0.png"),
        "seed": 1, "steps": 2, "width": 64, "height": 64, "prompt": "x",
    }  # fmt: skip


def test_the_limit_of_pillow_holds_in_the_library_unless_max_pixels_is_given(album, fields, low):
    request = intarsia.InpaintRequest(**fields)
    with pytest.raises(intarsia.SourceError, match="the limit is 1000"):
        intarsia.plan(request, album.weights)
    assert intarsia.plan(request, album.weights, max_pixels=1024)
    with (
        intarsia.Engine("null", weights=album.weights) as engine,
        pytest.raises(intarsia.SourceError, match="limit is 1000"),
    ):
        engine.run(request)
    with intarsia.Engine("null", weights=album.weights, max_pixels=1024) as engine:
        assert engine.run(request).images[0].size == (32, 32)


@pytest.mark.parametrize("value", [0, -1, True, "1000", 10.0])
def test_what_is_no_number_of_pixels(album, value):
    for make in (lambda: intarsia.Engine("null", max_pixels=value), lambda: batch.Options(max_pixels=value)):
        with pytest.raises(intarsia.RequestError, match=r"^max_pixels must be"):
            make()


def test_the_limit_of_pillow_holds_in_every_command_unless_max_pixels_is_given(album, fields, tmp_path, low):
    request, documented = tmp_path / "request.json", tmp_path / "documented.json"
    request.write_text(json.dumps(fields))
    images = {name: base64.b64encode(Path(fields[name]).read_bytes()).decode() for name in ("init_image", "mask_image")}
    documented.write_text(json.dumps({"model_id": "intarsia-tiny", "steps": 2, "base64": True} | fields | images))
    null = ["--backend", "null"]
    for command in (
        ["plan", str(request)],
        ["inpaint", fields["init_image"], fields["mask_image"], "-o", str(tmp_path / "a.png"), *null],
        ["request", str(documented), *null],
        ["batch", "validate", str(album.manifest([album.row(0)]))],
    ):
        command += ["--weights", str(album.weights)]
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code != 0
        assert BEYOND in f"{refused.output} {refused.exception}"
        allowed = CliRunner().invoke(app, [*command, "--max-pixels", "2000"])
        assert allowed.exit_code == 0, (command, allowed.output)


@pytest.mark.parametrize("command", ["run", "retry"])
def test_batch_commands_pass_it_on(album, tmp_path, monkeypatch, command):
    asked = []

    def record(place: Path, out: Path, options: Options, watch: object, **more: Any) -> RunStats:
        asked.append(options.max_pixels)
        return RunStats()

    monkeypatch.setattr(batch, command, record)
    words = ["batch", command, str(album.manifest([album.row(0)])), "--out", str(tmp_path / "out")]
    for more in ([], ["--max-pixels", "2000"]):
        assert CliRunner().invoke(app, [*words, *more]).exit_code == 0
    assert asked == [None, 2000]


def test_workers_get_the_limit(monkeypatch):
    options = batch.Options(max_pixels=5)
    assert batch.Options.of(options.for_workers()) == options
    assert batch.Options().for_workers()["max_pixels"] == 8192 * 8192
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert batch.Options().for_workers()["max_pixels"] == 1000
    assert options.for_workers()["max_pixels"] == 5
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    json.dumps(batch.Options().for_workers())
    assert batch.Options.of(batch.Options().for_workers()).max_pixels > 10**12


def test_the_callers_limit_holds_in_workers(album, tmp_path, low):
    stats = batch.run(album.manifest(album.rows(1)), tmp_path / "out", album.options)
    assert stats.errors == {"decode": 1}
    assert BEYOND in (tmp_path / "out/results.jsonl").read_text()


def test_a_row_runner_looks_at_changed_images_within_the_limit(album, tmp_path, low):
    row = album.row(0, init_image=str(album.folder / "photos/0.png"), mask_image=str(album.folder / "masks/0.png"))
    runner = RowRunner(album.with_options(max_pixels=2000), tmp_path, "cpu")
    try:
        request = intarsia.InpaintRequest.parse({key: value for key, value in row.items() if key != "id"})
        assert set(runner._look(request)) == {"init_image", "mask_image"}
    finally:
        runner.close()
