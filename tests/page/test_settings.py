"""The settings: what they mean to the server, what it says about wrong ones, and settings from files and history."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import expect

from intarsia.canvas.geometry import geometry
from intarsia.canvas.options import CanvasOptions
from tests.page.conftest import PIXELS
from tests.page.workbench import Workbench, png

pytestmark = pytest.mark.slow  # a minute in all; painting and running are quick tests

SMALL = {"width": 64, "height": 64}


@pytest.fixture
def masked(tab: Workbench, photo: bytes) -> Workbench:
    tab.open(photo)
    tab.brush(24)
    tab.stroke((50, 40), (80, 50))
    tab.settings(prompt="a red circle", steps=3, seed=7, other=SMALL)
    return tab


def test_every_control_reaches_the_server(masked, server):
    masked.settings(
        negative_prompt="a blue star",
        model="intarsia-tiny-lcm",
        scheduler="EulerDiscreteScheduler",
        steps=2,
        guidance_scale=2.5,
        strength=0.9,
        seed=2**64 - 2,
        samples=2,
        token_merging=0.25,
        mask_padding=32,
        masked_content="fill",
        mask_blur=1.5,
        color_match=True,
        other={"clip_skip": 1},
    )
    masked.lora("pastel", "0.5")
    masked.paint()
    request = masked.request_of_last_job(server)
    sent = {
        "negative_prompt": "a blue star",
        "model": "intarsia-tiny-lcm",
        "scheduler": "EulerDiscreteScheduler",
        "steps": 2,
        "guidance_scale": 2.5,
        "strength": 0.9,
        "seed": 2**64 - 2,
        "samples": 2,
        "token_merging": 0.25,
        "mask_padding": 32,
        "masked_content": "fill",
        "mask_blur": 1.5,
        "color_match": True,
        "clip_skip": 1,
        "loras": [{"id": "pastel", "strength": 0.5}],
    }
    assert {name: request[name] for name in sent} == sent
    assert f"seed {2**64 - 2}" in masked.seen("#result-note")


def test_a_wrong_value_is_said_beside_its_control_in_the_server_s_words(masked):
    wrong = [("steps", "151"), ("steps", "many"), ("guidance_scale", "21"), ("seed", "seven"), ("samples", "5")]
    for field, value in [*wrong, ("mask_blur", "-1"), ("mask_padding", "some")]:
        before = masked.at(f"#field-{field}").input_value()
        masked.settings(**{field: value})
        masked.at("#settings summary").click()
        masked.at("#run").click()
        said = masked.seen(f"#field-{field}-error")
        assert said.startswith(f"{field} must be ")
        assert value in said
        assert masked.at(f"#field-{field}").get_attribute("aria-invalid") == "true"
        expect(masked.at(f"#field-{field}")).to_be_focused()
        masked.at(f"#field-{field}").fill(before)
        assert masked.at(f"#field-{field}-error").is_hidden()


def test_other_fields_are_checked_too(masked):
    masked.settings(other="{broken")
    masked.at("#run").click()
    assert masked.seen("#field-other-error") == "This is not a JSON object."
    masked.settings(other={"clip_skip": 99})
    masked.at("#run").click()
    assert masked.seen("#field-other-error").startswith("clip_skip must be")
    masked.settings(other={"nonsense": 1})
    masked.at("#run").click()
    assert masked.seen("#run-error").startswith("nonsense is not a field")


def test_limits_defaults_and_meanings_come_with_each_control(tab):
    tab.unfold("settings")
    assert tab.at("#field-steps-limits").inner_text() == "1 to 150"
    assert tab.at("#field-guidance_scale-limits").inner_text() == "0 to 20. Default: 7.5"
    for control in tab.at("#settings-fields [id^=field-]:is(input, select, textarea)").all():
        assert control.get_attribute("title")
    tab.settings(guidance_scale=3, model="intarsia-tiny-lcm", color_match=True)
    tab.at("#reset").click()
    assert tab.at("#field-guidance_scale").input_value() == "7.5"
    assert tab.at("#field-model").input_value() == ""
    assert not tab.at("#field-color_match").is_checked()


def test_loras_can_be_searched(tab):
    tab.unfold("settings")
    tab.at("#lora-search").fill("STR")
    assert tab.at(".loras label").all_inner_texts() == ["stripes"]
    tab.lora("stripes", "1")
    tab.at("#lora-search").fill("past")
    assert tab.at(".loras label").all_inner_texts() == ["stripes", "pastel"]


def test_the_box_that_is_shown_is_the_one_that_will_be_generated(tab):
    rng = np.random.default_rng(5)
    script = """async ([picture, box, padding, options]) => {
        const { followsMask, generatedBox } = await import('/page/generated_box.js');
        const whole = [0, 0, picture.width, picture.height];
        const isPart = followsMask(picture, { padding: String(padding), ...options });
        return isPart ? generatedBox(picture, box, { padding: Number(padding) || 0, ...options }) : whole;
    }"""
    # sixteen pixels above the area that is generated whole, and one row more
    sizes = [(730, 808), (730, 809), *rng.integers(64, 3000, (118, 2)).tolist()]
    for (width, height), padding in zip(sizes, ["auto", "auto", *["whole", "auto", 0, 40] * 30], strict=False):
        x = sorted(int(value) for value in rng.integers(0, width, 2))
        y = sorted(int(value) for value in rng.integers(0, height, 2))
        box = [x[0], y[0], x[1] + 1, y[1] + 1]
        blur = float(rng.choice([0, 2.5, 16]))
        side = [None, int(rng.integers(64, 2048))][int(rng.integers(2))]
        if width == 730:
            side, box = None, [0, 0, 9, 9]
        options = CanvasOptions(
            width=side, mask_padding=None if padding == "whole" else padding, mask_blur=blur, native_size=512
        )
        expected = geometry((width, height), (width, height), tuple(box), options).crop
        shown = {"blur": blur, "native": 512, "width": side, "height": None}
        found = tab.page.evaluate(script, [{"width": width, "height": height}, box, padding, shown])
        assert tuple(found) == expected


def test_the_box_is_drawn_on_the_image_once_only_the_surroundings_are_generated(tab):
    tab.open(png(np.full((1200, 1600, 3), 128, np.uint8)))
    tab.brush(100)
    tab.stroke((800, 600))
    tab.page.mouse.move(5, 5)
    tab.page.wait_for_timeout(100)
    edge = (800 - 256, 600)
    around = [(edge[0] + dx, edge[1] + dy) for dx in range(-4, 5) for dy in range(-12, 13, 2)]
    assert most_opaque(tab, around) > 0
    tab.settings(mask_padding="whole")
    tab.page.wait_for_timeout(100)
    assert most_opaque(tab, around) == 0
    tab.settings(mask_padding=0)
    tab.page.wait_for_timeout(100)
    assert most_opaque(tab, around) > 0


def most_opaque(tab: Workbench, points: list[tuple[float, float]]) -> int:
    """Of the marks at these pixels."""
    return max(tab.pixels("#marks-canvas", points))


def test_a_result_gives_its_settings_back_when_it_is_dropped(masked, server, open_tab, tmp_path):
    masked.settings(guidance_scale=3, negative_prompt="a blue star", scheduler="UniPCMultistepScheduler", mask_blur=2)
    masked.lora("stripes", "0.8")
    masked.paint()
    file = masked.result_file(server)
    mask = {"name": "mask.png", "mimeType": "image/png", "buffer": png(masked.mask(tmp_path))}

    other = open_tab(server)
    other.drop("#panel", file, "result.png")
    assert other.seen("#notice").startswith("Settings taken from result.png")
    assert other.at("#prompt").input_value() == "a red circle"
    # With the same picture and mask it is the same picture again.
    other.open(png(PIXELS))
    other.page.set_input_files("#mask-file", mask)
    expect(other.at("#coverage")).not_to_have_text("0.0 % masked")
    other.settings(other={**json.loads(other.at("#field-other").input_value()), **SMALL})
    other.paint()
    np.testing.assert_array_equal(other.result(server), masked.result(server))


def test_a_result_that_is_opened_as_an_image_offers_its_settings(masked, server, open_tab):
    masked.paint()
    other = open_tab(server)
    other.open(masked.result_file(server), "result.png")
    assert other.at("#prompt").input_value() == ""
    assert other.seen("#notice").startswith("This file was made with settings.")
    other.at("#notice button").first.click()
    expect(other.at("#prompt")).to_have_value("a red circle")
    assert other.at("#field-seed").input_value() == "7"


def test_settings_of_another_tool_are_read_from_every_kind_of_text_chunk(tab):
    text = (
        'a "quoted" cat,\nand a dog\nNegative prompt: blurry, low\nSteps: 20, Sampler: DPM++ 2M SDE Karras, '
        "CFG scale: 6.5, Seed: 18446744073709551615, Size: 512x768, Model hash: abc, "
        'Model: "some, model", Denoising strength: 0.75, '
        "Clip skip: 2, Mask blur: 8, Version: v1.10.1"
    )
    tab.unfold("settings")
    for chunk in ("tEXt", "zTXt", "iTXt"):
        info = PngImagePlugin.PngInfo()
        if chunk == "iTXt":
            info.add_itxt("parameters", text, zip=True)
        else:
            info.add_text("parameters", text, zip=chunk == "zTXt")
        tab.at("#reset").click()
        tab.drop("#panel", png(PIXELS, pnginfo=info), f"{chunk}.png")
        tab.shows("#notice span", f"Settings taken from {chunk}.png")
        values = {
            name: tab.at(f"#field-{name}").input_value()
            for name in ("steps", "scheduler", "seed", "model", "mask_blur")
        }
        assert values == {
            "steps": "20",
            "scheduler": "DPMSolverMultistepScheduler",
            "seed": "18446744073709551615",
            "model": "some, model",
            "mask_blur": "8",
        }
        assert tab.at("#prompt").input_value() == 'a "quoted" cat,\nand a dog'
        assert tab.at("#field-negative_prompt").input_value() == "blurry, low"
        other = json.loads(tab.at("#field-other").input_value())
        assert other == {"clip_skip": 2, "algorithm_type": "sde-dpmsolver++", "karras_sigmas": True}


def test_a_file_without_settings_is_said(tab, photo):
    tab.drop("#panel", photo, "plain.png")
    assert tab.seen("#notice").startswith("plain.png holds no settings.")


def test_history_brings_settings_and_mask_of_each_result_back(masked, server, tmp_path):
    masked.paint()
    first_mask, first = masked.mask(tmp_path), masked.result(server)
    masked.at("#discard").click()
    masked.stroke((20, 80))
    masked.settings(prompt="", guidance_scale=2, seed="")
    masked.paint()
    masked.load()

    masked.unfold("history")
    assert masked.at("#history-list li").count() == 2
    masked.at("#history-list li").nth(1).get_by_role("button", name="Restore").click()
    expect(masked.at("#prompt")).to_have_value("a red circle")
    assert masked.at("#field-guidance_scale").input_value() == "7.5"
    assert masked.at("#field-seed").input_value() == "7"
    np.testing.assert_array_equal(masked.mask(tmp_path), first_mask)
    masked.at("#history-list li").nth(1).get_by_role("button", name="Show").click()
    masked.wait_for_result()
    np.testing.assert_array_equal(masked.result(server), first)


def test_the_last_seed_can_be_taken(masked, server):
    masked.settings(seed="")
    masked.paint()
    masked.at("#last-seed").click()
    assert masked.at("#field-seed").input_value() == str(masked.request_of_last_job(server)["seed"])


def code(tab: Workbench, form: str) -> str:
    tab.unfold("code")
    tab.at("#code-form").select_option(form)
    return tab.at("#code-text").input_value()


def test_the_settings_as_code_give_the_same_image(masked, server, photo, tmp_path, monkeypatch):
    masked.settings(
        prompt="a red 'circle', \"round\"", guidance_scale=3, color_match=True, other={**SMALL, "karras_sigmas": False}
    )
    masked.lora("stripes", "1")
    masked.paint()
    expected = masked.result(server)
    (tmp_path / "photo.png").write_bytes(photo)
    Image.fromarray(masked.mask(tmp_path)).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)

    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code(masked, "python"), "page", "exec"), {})
    np.testing.assert_array_equal(np.asarray(Image.open("result-1.png")), expected)

    words = shlex.split(code(masked, "command"))
    assert words[:2] == ["intarsia", "inpaint"]
    subprocess.run([sys.executable, "-m", *words, "--out", "cli.png", "-q"], check=True, timeout=120)
    np.testing.assert_array_equal(np.asarray(Image.open("cli.png")), expected)

    row = json.loads(code(masked, "row"))
    assert Path(row.pop("init_image")).name == "photo.png"
    assert row["loras"] == [{"id": "stripes", "strength": 1}]


def test_curl_posts_the_same_job(masked, server, photo, tmp_path):
    words = shlex.split(code(masked, "curl").replace("\\\n", " "))
    assert words[0] == "curl"
    assert words[-1] == f"{server.url}/jobs"
    (tmp_path / "photo.png").write_bytes(photo)
    Image.fromarray(masked.mask(tmp_path)).save(tmp_path / "mask.png")
    try:
        done = subprocess.run(words, check=True, cwd=tmp_path, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("needs curl")
    assert json.loads(done.stdout)["request"]["steps"] == 3
