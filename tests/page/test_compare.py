"""The comparison grid: parameters × parameters in one set of jobs, as a picture and as a manifest."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import intarsia
import intarsia.batch
from tests.page.workbench import Workbench, png
from tests.server.running import Running

pytestmark = pytest.mark.slow  # half a minute; painting and running are quick tests

SCHEDULERS = ["euler", "dpm++ 2m", "unipc"]
STEPS = [4, 6, 8]
SMALL = {"width": 64, "height": 64}


@pytest.fixture
def compared(tab: Workbench, photo: bytes) -> Workbench:
    """The grid of three schedulers and three numbers of steps."""
    tab.open(photo)
    tab.brush(24)
    tab.stroke((50, 40), (80, 50))
    tab.settings(prompt="a red circle", seed=7, other=SMALL)
    tab.unfold("compare")
    tab.at("#across-values").fill(", ".join(SCHEDULERS))
    tab.at("#down-values").fill(", ".join(map(str, STEPS)))
    return tab


def counters(server: Running) -> dict[str, float]:
    assert server.services.host is not None
    return {name: server.services.host.statistics[name] for name in ("evaluations", "lane_rows")}


def test_the_grid_is_one_mixed_batch_of_the_library_s_images(compared, server, photo, tmp_path):
    before = counters(server)
    compared.at("#compare-run").click()
    compared.page.wait_for_selector("#compare-result:not([hidden])")
    gained = {name: value - before[name] for name, value in counters(server).items()}
    assert gained["lane_rows"] == 3 * (2 + 4 + 5)  # strength 0.7 of the steps
    assert gained["evaluations"] < gained["lane_rows"]

    assert compared.at("#compare-table th[scope=col]").all_inner_texts() == SCHEDULERS
    assert compared.at("#compare-table th[scope=row]").all_inner_texts() == [str(steps) for steps in STEPS]
    alt = compared.at("#compare-table img").nth(5).get_attribute("alt")
    assert alt == "Scheduler unipc, Steps 6"

    jobs = server.client.get("/jobs?limit=9").json()["jobs"]
    by_cell = {(job["request"]["scheduler"], job["request"]["steps"]): job for job in jobs}
    assert len(by_cell) == 9
    with intarsia.Engine() as engine:
        request = intarsia.InpaintRequest(
            init_image=photo,
            mask_image=png(compared.mask(tmp_path)),
            prompt="a red circle",
            seed=7,
            scheduler="unipc",
            steps=6,
            **SMALL,
        )
        expected = np.asarray(engine.run(request).images[0])
    file = server.client.get(by_cell["unipc", 6]["result"]["images"][0]).content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), expected)

    with compared.page.expect_download() as saved:
        compared.at("#save-grid").click()
    path = tmp_path / "grid.png"
    saved.value.save_as(path)
    grid = np.asarray(Image.open(path).convert("RGB"))
    # Every cell is in it, once: nine areas of the picture's size that hold the jobs' images.
    for (scheduler, steps), job in by_cell.items():
        image = np.asarray(Image.open(io.BytesIO(server.client.get(job["result"]["images"][0]).content)))
        column, row = SCHEDULERS.index(scheduler), STEPS.index(steps)
        left = grid.shape[1] - (3 - column) * (128 + 8)
        top = grid.shape[0] - (3 - row) * (96 + 8)
        np.testing.assert_array_equal(grid[top : top + 96, left : left + 128], image)


def test_the_manifest_makes_the_grid_again(compared, server, photo, tmp_path):
    compared.at("#compare-run").click()
    compared.page.wait_for_selector("#compare-result:not([hidden])")
    with compared.page.expect_download() as saved:
        compared.at("#save-manifest").click()
    manifest = tmp_path / "comparison.jsonl"
    saved.value.save_as(manifest)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [(row["scheduler"], row["steps"]) for row in rows] == [
        (name, steps) for steps in STEPS for name in SCHEDULERS
    ]

    (tmp_path / "photo.png").write_bytes(photo)
    Image.fromarray(compared.mask(tmp_path)).save(tmp_path / "mask.png")
    assert intarsia.batch.validate(manifest).problems == ()
    request = intarsia.InpaintRequest.parse({**{n: v for n, v in rows[4].items() if n != "id"}, **images_of(tmp_path)})
    with intarsia.Engine() as engine:
        expected = np.asarray(engine.run(request).images[0])
    jobs = server.client.get("/jobs?limit=9").json()["jobs"]
    job = next(job for job in jobs if (job["request"]["scheduler"], job["request"]["steps"]) == ("dpm++ 2m", 6))
    file = server.client.get(job["result"]["images"][0]).content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), expected)


def images_of(folder: Path) -> dict[str, str]:
    return {"init_image": str(folder / "photo.png"), "mask_image": str(folder / "mask.png")}


@pytest.mark.parametrize(
    ("across", "down", "said"),
    [
        ("scheduler", "scheduler", "Choose two different parameters."),
        ("scheduler", "steps", "Give each parameter at least one value."),
    ],
)
def test_what_is_no_grid_is_refused(compared, across, down, said):
    compared.at("#across-name").select_option(across)
    compared.at("#down-name").select_option(down)
    compared.at("#down-values").fill("")
    compared.at("#compare-run").click()
    assert compared.seen("#compare-error") == said


def test_a_value_that_the_server_refuses_is_said_and_leaves_no_job_running(compared, server):
    compared.at("#down-values").fill("2, 151")
    compared.at("#compare-run").click()
    assert "151" in compared.seen("#field-steps-error")
    assert not compared.at("#compare-run").is_disabled()
