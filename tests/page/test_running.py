"""From the button to the result: what is sent and shown, on the packaged model."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import intarsia
from tests.page.conftest import PIXELS
from tests.page.workbench import Workbench, png

SMALL = {"width": 64, "height": 64}


@pytest.fixture
def masked(tab: Workbench, photo: bytes) -> Workbench:
    """A picture with a painted mask and settings that are quickly run."""
    tab.open(photo)
    tab.brush(24)
    tab.stroke((50, 40), (80, 50))
    tab.settings(prompt="a red circle", steps=3, seed=7, other=SMALL)
    return tab


def test_the_image_is_the_library_s_for_the_same_request(masked, server, photo, tmp_path):
    masked.settings(samples=2, guidance_scale=3, mask_blur=2)
    masked.paint()
    mask = masked.mask(tmp_path)
    with intarsia.Engine() as engine:
        request = intarsia.InpaintRequest(
            init_image=photo,
            mask_image=png(mask),
            prompt="a red circle",
            steps=3,
            seed=7,
            samples=2,
            guidance_scale=3.0,
            mask_blur=2.0,
            **SMALL,
        )
        expected = engine.run(request).images
    np.testing.assert_array_equal(masked.result(server), np.asarray(expected[0]))
    assert (masked.result(server) != PIXELS).any()
    masked.at("#samples button").nth(1).click()
    masked.page.wait_for_selector("#samples button:nth-child(2)[aria-pressed=true]")
    np.testing.assert_array_equal(masked.result(server), np.asarray(expected[1]))


def test_what_is_at_its_default_is_not_sent(masked, server):
    masked.paint()
    with_defaults = masked.request_of_last_job(server)
    assert with_defaults["guidance_scale"] == 7.5
    masked.unfold("code")
    masked.at("#code-form").select_option("row")
    row = json.loads(masked.at("#code-text").input_value())
    assert (
        row
        == {"init_image": "photo.png", "mask_image": "mask.png", "prompt": "a red circle", "steps": 3, "seed": 7}
        | SMALL
    )


def test_a_turned_photograph_is_painted_upright(tab, server, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif, quality=95)
    tab.page.set_input_files("#file", {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
    tab.shows("#picture-size", "96 × 128")
    tab.brush(16)
    tab.stroke((30, 100))
    tab.settings(steps=2, other=SMALL, mask_blur=0)
    tab.paint()
    result = tab.result(server)
    upright = np.asarray(Image.open(io.BytesIO(file.getvalue())).transpose(Image.Transpose.ROTATE_270))
    assert result.shape == upright.shape == (128, 96, 3)
    unmasked = tab.mask(tmp_path) < 128
    np.testing.assert_array_equal(result[unmasked], upright[unmasked])
    assert (result[~unmasked] != upright[~unmasked]).any()


@pytest.mark.slow
def test_the_slider_shows_before_on_its_left_and_after_on_its_right(masked, server):
    masked.paint()
    result = masked.result(server)
    changed = np.argwhere((np.abs(result.astype(int) - PIXELS) > 40).any(axis=2))
    row, column = next((int(y), int(x)) for y, x in changed if 40 <= x <= 90)
    for split, shown in ((100, PIXELS), (0, result)):
        masked.at("#split").fill(str(split))
        masked.page.wait_for_timeout(100)
        seen = masked.pixel("#picture-canvas", (column + 0.5, row + 0.5))[:3]
        assert np.abs(np.asarray(seen) - shown[row, column]).max() <= 2


def test_keep_goes_on_from_the_result(masked, server, tmp_path):
    masked.paint()
    first = masked.result(server)
    masked.at("#keep").click()
    masked.page.wait_for_selector("#result", state="hidden")
    assert masked.mask(tmp_path).max() == 0
    masked.brush(16)
    masked.stroke((100, 70))
    masked.settings(prompt="", mask_blur=0)
    masked.paint()
    unmasked = masked.mask(tmp_path) < 128
    np.testing.assert_array_equal(masked.result(server)[unmasked], first[unmasked])


def test_discard_brings_image_and_mask_back(masked, tmp_path):
    before = masked.mask(tmp_path)
    masked.paint()
    assert masked.at("#undo").is_disabled()
    masked.at("#discard").click()
    masked.page.wait_for_selector("#result", state="hidden")
    np.testing.assert_array_equal(masked.mask(tmp_path), before)
    assert masked.at("#undo").is_enabled()


@pytest.mark.slow
def test_vary_draws_a_new_seed_and_leaves_the_settings(masked, server):
    masked.paint()
    assert masked.request_of_last_job(server)["seed"] == 7
    masked.at("#vary").click()
    masked.page.wait_for_selector("#running:not([hidden])")
    masked.wait_for_result()
    assert masked.request_of_last_job(server)["seed"] != 7
    assert masked.at("#field-seed").input_value() == "7"


def test_the_download_is_the_server_s_file_with_its_metadata(masked, server, tmp_path):
    masked.paint()
    with masked.page.expect_download() as saved:
        masked.at("#download").click()
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    assert path.name == "intarsia-7.png"
    assert path.read_bytes() == masked.result_file(server)
    assert json.loads(Image.open(path).text["intarsia"])["steps"] == 3


@pytest.mark.slow
def test_samples_stand_side_by_side(masked):
    masked.settings(samples=3)
    masked.paint()
    masked.at("#toggle-grid").click()
    masked.page.wait_for_selector("#side-by-side:not([hidden])")
    texts = masked.at("#side-by-side span").all_inner_texts()
    assert texts == ["Sample 1, seed 7", "Sample 2, seed 8", "Sample 3, seed 9"]
    sizes = masked.at("#side-by-side img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert sizes == [128, 128, 128]
    masked.at("#side-by-side button").nth(2).click()
    masked.page.wait_for_selector("#side-by-side", state="hidden")
    expect(masked.at("#download")).to_have_attribute("download", "intarsia-9.png")


def test_a_image_is_opened_by_a_drop_the_clipboard_and_as_an_example(tab, photo):
    tab.drop("#empty", photo)
    tab.shows("#picture-size", "128 × 96")
    tab.page.evaluate(
        """bytes => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([new Uint8Array(bytes)], 'pasted.png', { type: 'image/png' }));
            document.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }));
        }""",
        list(png(np.zeros((40, 60, 3), np.uint8))),
    )
    tab.shows("#picture-size", "60 × 40")
    tab.load()
    tab.shows("#picture-size", "60 × 40")


@pytest.mark.slow
def test_an_example_brings_a_prompt(tab):
    tab.at("[data-example=stripes]").click()
    tab.shows("#picture-size", "512 × 512")
    expect(tab.at("#prompt")).to_have_value("a red circle")


def test_nothing_is_asked_of_any_other_host(masked, server):
    masked.paint()
    masked.at("#keep").click()
    assert {host for host in masked.hosts if not host.startswith((f"{server.url}/", "blob:", "data:"))} == set()
