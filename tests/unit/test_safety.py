"""The safety stage without a network: what replaces a flagged image, and that a checker is never silently off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia.backends.null import NullBackend, NullChecker
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import resolve
from intarsia.engine.safety import ACTIONS, replace, screen
from intarsia.registry.registry import Registry

SIZES = [(64, 64), (512, 512), (777, 513), (64, 2048), (2048, 64), (8, 8)]


@pytest.fixture
def photo() -> Image.Image:
    """Sharp detail over slow changes, as a photograph has it."""
    rng = np.random.default_rng(3)
    coarse = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((384, 256)), np.int16)
    return Image.fromarray(np.clip(coarse + rng.integers(-60, 60, coarse.shape), 0, 255).astype(np.uint8))


def detail(image: Image.Image) -> float:
    """Mean absolute difference between neighboring pixels, in levels."""
    pixels = np.asarray(image, np.int16)
    return np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()


def test_the_actions_are_those_of_a_request():
    annotation = InpaintRequest.model_fields["safety_action"].annotation
    assert set(ACTIONS) == set(annotation.__args__)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_every_action_keeps_the_size_and_repeats_its_bytes(action, size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    before = image.tobytes()
    made = replace(image, action)
    assert (made.size, made.mode) == (size, "RGB")
    assert made.tobytes() == replace(image, action).tobytes()
    assert image.tobytes() == before, "the original is not changed in place"


def test_black_is_black_and_the_card_holds_nothing_of_the_image(photo):
    assert np.asarray(replace(photo, "black")).max() == 0
    other = Image.new("RGB", photo.size, (1, 2, 3))
    card = replace(photo, "sensitive_content_text")
    assert card.tobytes() == replace(other, "sensitive_content_text").tobytes()
    colors = card.getcolors(1 << 16)
    most, ground = max(colors)
    assert ground == (128, 128, 128)
    written = 1 - most / (photo.width * photo.height)
    assert 0.02 < written < 0.5, "there are words on it"
    box = Image.fromarray((np.asarray(card)[..., 0] != 128).astype(np.uint8)).getbbox()
    assert box is not None
    assert min(box[0], box[1], photo.width - box[2], photo.height - box[3]) > 5, "and they are not cut"


def test_blur_leaves_no_detail(photo):
    blurred = replace(photo, "blur")
    assert detail(photo) > 50
    assert detail(blurred) < 3
    sharp, soft = np.asarray(photo, np.float64), np.asarray(blurred, np.float64)
    np.testing.assert_allclose(soft.mean((0, 1)), sharp.mean((0, 1)), atol=8)
    # A period of a 32nd of the side is gone: what the filter leaves of it is below one level.
    stripes = np.where(np.arange(512) // 8 % 2, 255, 0).astype(np.uint8)
    flat = np.asarray(replace(Image.fromarray(np.tile(stripes[None, :, None], (512, 1, 3))), "blur"), np.int16)
    assert np.ptp(flat[:, 96:-96]) <= 1


def test_pixelate_leaves_16_blocks_along_the_longer_side(photo):
    pixels = np.asarray(replace(photo, "pixelate"))
    columns = np.abs(np.diff(pixels.astype(np.int16), axis=1)).max(axis=(0, 2)) > 0
    rows = np.abs(np.diff(pixels.astype(np.int16), axis=0)).max(axis=(1, 2)) > 0
    assert columns.sum() == 15
    assert rows.sum() == round(256 / 24) - 1
    np.testing.assert_allclose(pixels[5, 5], np.asarray(photo)[:23, :24].mean((0, 1)), atol=3)


def test_transparency_hides_nothing_and_does_not_come_back():
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[..., :3] = (200, 0, 200)
    hidden = Image.fromarray(pixels)
    hidden.info["icc_profile"] = b"profile"
    done = screen(NullChecker().check, "black", [hidden], [pixels[..., :3]])
    assert done.nsfw == (True,)
    assert done.images[0].mode == "RGB"
    assert done.images[0].info["icc_profile"] == b"profile"


def test_either_form_of_an_image_counts_and_both_are_replaced():
    clean, purple = Image.new("RGB", (32, 32), (90, 90, 90)), Image.new("RGB", (48, 48), (180, 20, 180))
    drawn = [np.asarray(image) for image in (clean, purple, clean)]
    done = screen(NullChecker().check, "black", [clean, clean, purple], drawn)
    assert done.nsfw == (False, True, True)
    assert done.images[0] is clean
    assert done.drawn[0] is drawn[0]
    for image in (*done.images[1:], *done.drawn[1:]):
        assert np.asarray(image).max() == 0
    assert [image.shape for image in done.drawn] == [(32, 32, 3), (48, 48, 3), (32, 32, 3)]
    assert done.warnings == ("the safety checker flagged image 2, 3 of 3; black was applied",)
    assert screen(NullChecker().check, "black", [clean], drawn[:1]).warnings == ()


PURPLE, GRAY = (150, 40, 190), (120, 125, 118)


def arrays_in(ticket: object) -> list[str]:
    """Names of the ticket's attributes that hold arrays of pixels, by themselves or in a container."""
    found = []
    for name, value in vars(ticket).items():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, np.ndarray) for each in values):
            found.append(name)
    return found


def request_of(color: tuple[int, int, int], **fields: Any) -> InpaintRequest:
    noise = np.random.default_rng(8).integers(-30, 31, (64, 96, 3))
    image = (noise + color).clip(0, 255).astype(np.uint8)
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40, 30:60] = 255
    return InpaintRequest(**{"init_image": image, "mask_image": mask, "seed": 4, "safety_checker": True, **fields})


def registry_with(
    folder: Path, safety: str = 'safety = "guard"', section: str = '[safety.guard]\npath = "guard"\n'
) -> Path:
    (folder / "nothing").mkdir(exist_ok=True)
    (folder / "nothing" / "model_index.json").write_text("{}")
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard" / "config.json").write_text("{}")
    path = folder / "weights.toml"
    models = f'[models.nothing]\nfamily = "sd15-inpaint"\npath = "nothing"\n{safety}\n'
    path.write_text(f'schema = 1\ndefault = "nothing"\n{models}{section}')
    return path


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_a_flagged_request_shows_nothing_of_its_image(tmp_path, action, strength):
    with intarsia.Engine("null", weights=registry_with(tmp_path)) as engine:
        asked = request_of(PURPLE, samples=2, strength=strength, safety_action=action)
        ticket = engine.submit(asked)
        result = ticket.result()
    assert result.nsfw == (True, True)
    assert any("safety checker" in warning and action in warning for warning in result.warnings)
    assert result.timings["safety"] > 0
    assert [image.size for image in result.images] == [(96, 64)] * 2
    geometry = result.plan.canvas.geometry
    assert [image.size for image in result.generated] == [(geometry.width, geometry.height)] * 2
    original = Image.fromarray(asked.init_image)
    if strength == 0:
        assert result.images[0].tobytes() == replace(original, action).tobytes()
    for image in (*result.images, *result.generated):
        same = np.asarray(image) == np.asarray(original.resize(image.size))
        assert same.all(axis=2).mean() < 0.02
        if action == "black":
            assert np.asarray(image).max() == 0
    assert arrays_in(ticket) == [], "nor is it to be found in the ticket"
    assert (result.plan.safety, result.plan.safety_action) == ("guard", action)
    assert result.meta["safety_checker"] is True


def test_a_clean_request_is_untouched_by_the_check(tmp_path):
    with intarsia.Engine("null", weights=registry_with(tmp_path)) as engine:
        checked = engine.run(request_of(GRAY, strength=0.7))
        plain = engine.run(request_of(GRAY, strength=0.7, safety_checker=False))
        still = engine.run(request_of(GRAY, strength=0.0))
    assert checked.nsfw == plain.nsfw == (False,)
    assert checked.images[0].tobytes() == plain.images[0].tobytes()
    assert checked.generated[0].tobytes() == plain.generated[0].tobytes()
    np.testing.assert_array_equal(still.images[0], request_of(GRAY).init_image)
    assert "safety" in checked.timings
    assert "safety" not in plain.timings
    assert plain.plan.safety == "off"
    assert plain.meta["safety_checker"] is False


def test_plans_differ_with_checker_and_its_content(tmp_path):
    registry = registry_with(tmp_path)
    on, off = (resolve(request_of(GRAY, safety_checker=asked), Registry(registry)).plan for asked in (True, False))
    assert on.sha256 != off.sha256
    assert (on.safety, len(on.safety_sha256), off.safety, off.safety_sha256) == ("guard", 64, "off", "")
    (tmp_path / "guard" / "config.json").write_text('{"another": 1}')
    again = resolve(request_of(GRAY), Registry(registry)).plan
    assert again.safety_sha256 != on.safety_sha256


UNUSABLE = [
    ({"safety": ""}, r"no checker is installed for nothing; install one \(a \[safety\.<id>\] entry"),
    ({"section": ""}, "safety checker not found: guard; the registry has: intarsia-tiny-safety"),
    ({"section": '[safety.guard]\npath = "gone"\n'}, "guard: its folder .* does not exist"),
    ({"section": '[safety.guard]\npath = "nothing"\n'}, r"guard: .* has no config\.json; expected a safety checker"),
    ({"section": '[safety.guard]\npath = "guard"\nfamilies = ["sdxl"]\n'}, "fits the families sdxl, not sd15-inpaint"),
    ({"section": '[safety.guard]\npath = "guard.bin"\n'}, "pickled"),
]


@pytest.mark.parametrize(("changes", "sentence"), UNUSABLE)
def test_a_checker_that_is_not_there_refuses_the_request_at_once(tmp_path, changes, sentence):
    with intarsia.Engine("null", weights=registry_with(tmp_path, **changes)) as engine:
        with pytest.raises(intarsia.WeightsError, match=sentence) as caught:
            engine.submit(request_of(GRAY))
        assert "\n" not in str(caught.value)
        assert engine.run(request_of(GRAY, safety_checker=False)).nsfw == (False,)


def test_a_damaged_checker_fails_the_request_before_anything_is_computed(tmp_path):
    pins = '[safety.guard.files]\n"config.json" = {bytes = 2, sha256 = "' + "0" * 64 + '"}\n'
    registry = registry_with(tmp_path, section=f'[safety.guard]\npath = "guard"\n{pins}')
    for strength in (0.0, 0.7):
        with intarsia.Engine("null", weights=registry) as engine:
            with pytest.raises(intarsia.WeightsError, match=r"guard: config\.json does not have the registry's sha256"):
                engine.run(request_of(GRAY, strength=strength))
            assert engine.counters.evaluations == 0


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_a_check_that_fails_fails_the_request_and_no_other(tmp_path, monkeypatch, strength):
    registry = registry_with(tmp_path)
    with intarsia.Engine("null", weights=registry) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(NullChecker, "check", lambda self, images: 1 / 0)
            ticket = engine.submit(request_of(GRAY, strength=strength))
            with pytest.raises(ZeroDivisionError):
                ticket.result()
            assert arrays_in(ticket) == [], "what could not be checked is not to be found in the ticket"
        assert engine.run(request_of(GRAY, strength=strength)).nsfw == (False,)


def test_a_checker_is_opened_once_kept_and_closed_with_the_engine(tmp_path, monkeypatch):
    happened = []
    opened = NullBackend.open_checker
    monkeypatch.setattr(NullBackend, "open_checker", lambda self, at: happened.append("open") or opened(self, at))
    monkeypatch.setattr(NullChecker, "close", lambda self: happened.append("close"))
    with intarsia.Engine("null", weights=registry_with(tmp_path)) as engine:
        engine.run(request_of(GRAY))
        engine.run(request_of(GRAY, seed=5))
        assert happened == ["open"]
    assert happened == ["open", "close"]


def test_at_most_two_checkers_stay_open(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(NullChecker, "close", lambda self: closed.append(self))
    section = "".join(f'[safety.guard{n}]\npath = "guard{n}"\n' for n in range(3))
    models = "".join(
        f'[models.m{n}]\nfamily = "sd15-inpaint"\npath = "nothing"\nsafety = "guard{n}"\n' for n in range(3)
    )
    path = registry_with(tmp_path, section=section + models)
    for n in range(3):
        (tmp_path / f"guard{n}").mkdir()
        (tmp_path / f"guard{n}" / "config.json").write_text(str(n))
    with intarsia.Engine("null", weights=path) as engine:
        for n in range(3):
            engine.run(request_of(GRAY, model=f"m{n}"))
        assert len(closed) == 1
        assert engine.run(request_of(PURPLE, model="m0", strength=0.0)).nsfw == (True,), "opened again"
    assert len(closed) == 4


def test_the_null_backend_flags_no_color_of_its_own(tmp_path):
    """Of 40 colors at random, one in five would be purple: images of the null backend stand for harmless ones."""
    image, mask = Image.new("RGB", (64, 64), (90, 90, 90)), Image.new("L", (64, 64), 255)
    request = InpaintRequest(init_image=image, mask_image=mask, width=64, height=64, steps=4, safety_checker=True)
    with intarsia.Engine("null", weights=registry_with(tmp_path)) as engine:
        results = [engine.run(request.model_copy(update={"prompt": f"number {number}"})) for number in range(40)]
    assert not any(flag for result in results for flag in result.nsfw)
    assert len({result.images[0].tobytes() for result in results}) == 40
