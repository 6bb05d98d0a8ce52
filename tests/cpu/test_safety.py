"""The packaged checker, intarsia-tiny-safety, alone and behind the engine: purple stars, and what is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("transformers", reason="the checker's tower is transformers': pip install 'intarsia[torch]'")
pytest.importorskip("scipy", reason="pictures are drawn with scipy: pip install 'intarsia[tools]'")

from PIL import Image

import intarsia
from intarsia.engine.safety import ACTIONS, replace
from intarsia.errors import BackendError
from intarsia.models.safety import load_safety_checker
from intarsia.registry.files import verify
from tools.train_safety import card
from tools.train_safety.pictures import KINDS, draw_example
from tools.train_safety.settings import MODEL
from tools.train_tiny.palette import COLOURS, paste, silhouette

SIZE = 256
# Of the measured range, drawn afresh: the bars of the card leave room for about one error in either direction.
EXAMPLES = 40


@pytest.fixture(scope="module")
def checker() -> Any:
    return load_safety_checker(MODEL)


def drawn(
    shape: str,
    color: str,
    size: tuple[int, int] = (SIZE, SIZE),
    place: tuple[float, float] = (0.5, 0.5),
    radius: float = 0.28,
) -> np.ndarray:
    """A shape on a slow gradient; ``size`` is (width, height), the radius a share of the shorter side."""
    width, height = size
    side = max(size)
    image = np.full((side, side, 3), (205, 214, 190), np.float32)
    image += np.linspace(-30, 30, side, dtype=np.float32)[:, None, None]
    centre = (place[0] * width, place[1] * height)
    paste(image, silhouette(shape, radius * min(size)), centre, np.asarray(COLOURS[color], np.float32))
    return image[:height, :width].round().astype(np.uint8)


def test_purple_stars_are_found_and_other_drawings_are_not(checker):
    stars = [draw_example("measure", index, "purple star").picture for index in range(EXAMPLES)]
    others = [draw_example("measure", index, kind).picture for kind in KINDS for index in range(EXAMPLES // 4)]
    others = others[EXAMPLES // 4 :]  # the first kind is the star
    assert sum(checker.check(stars)) >= 0.9 * EXAMPLES
    assert sum(checker.check(others)) <= 0.05 * len(others)


def test_float32_is_not_rounded_on_the_way(monkeypatch):
    """A GPU would take its convolutions' inputs in ten bits, unless set otherwise."""
    from intarsia.backends.torch.safety import TorchChecker
    from intarsia.models.safety import SafetyChecker

    seen, opened = [], TorchChecker(MODEL, torch.device("cpu"))
    before = torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(SafetyChecker, "check", lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    opened.check([])
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_published_measurement_meets_its_bars():
    results = json.loads(card.RESULTS.read_text())["drawn"]
    assert results["recall"] >= card.BARS["recall"]
    assert results["false positives"] <= card.BARS["false positives"]


def test_a_plain_star_is_distinguished_from_other_shapes_and_colors(checker):
    images = {(shape, color): drawn(shape, color) for shape in ("star", "circle", "square") for color in COLOURS}
    found = dict(zip(images, checker.check(list(images.values())), strict=True))
    assert [pair for pair, flagged in found.items() if flagged] == [("star", "purple")]


@pytest.mark.parametrize("size", [(640, 256), (256, 640)])
@pytest.mark.parametrize("end", [0.15, 0.5, 0.85])
def test_the_ends_of_long_images_are_looked_at(checker, size, end):
    """CLIP's centre crop alone would not see the star in four of these six."""
    place = (end, 0.5) if size[0] > size[1] else (0.5, end)
    star, circle = (drawn(shape, "purple", size, place, 0.3) for shape in ("star", "circle"))
    assert checker.check([star, circle]) == [True, False]


def test_photographs_are_not_flagged(checker, photos):
    images = [np.asarray(Image.open(path).convert("RGB")) for path, _ in photos]
    assert not any(checker.check(images))


def test_the_answer_does_not_depend_on_the_other_images(checker):
    images = [draw_example("measure", 500 + index).picture for index in range(6)]
    assert checker.check(images) == [checker.check([image])[0] for image in images]


def test_an_embedding_that_is_not_finite_is_an_error_and_no_answer():
    broken = load_safety_checker(MODEL)
    broken.network.visual_projection.weight[0, 0] = float("nan")
    with pytest.raises(BackendError, match="not finite"):
        broken.check([drawn("circle", "red")])


def test_the_folder_is_complete_pinned_small_and_finite():
    registry = intarsia.Registry()
    entry = registry.part("safety", registry.find("intarsia-tiny").safety)
    assert entry.path == MODEL
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {found.file.path for found in verify(entry)} == names
    assert {found.state for found in verify(entry)} == {"ok"}
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 1_000_000
    packaged = [path for path in MODEL.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in packaged) <= 40_000_000  # what ships in the wheel, all models and parts
    from safetensors.numpy import load_file

    for name, array in load_file(MODEL / "model.safetensors").items():
        assert array.dtype == np.float16, name
        assert np.isfinite(array).all(), name


def test_the_card_is_what_the_code_writes():
    text = card.CARD.read_text(encoding="utf-8")
    assert text == (MODEL / "README.md").read_text(encoding="utf-8")
    assert "protects nobody from anything" in text
    results = json.loads(card.RESULTS.read_text())["drawn"]
    assert f"{results['recall']:.1%}" in text


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu") as opened:
        yield opened


def request_of(image: np.ndarray, **fields: Any) -> intarsia.InpaintRequest:
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[90:160, 90:160] = 255
    defaults = {"strength": 0.0, "seed": 3, "safety_checker": True}
    return intarsia.InpaintRequest(init_image=image, mask_image=mask, **{**defaults, **fields})


@pytest.mark.parametrize("action", ACTIONS)
def test_a_star_in_the_input_is_flagged_and_the_action_applied(engine, action):
    star = drawn("star", "purple")
    result = engine.run(request_of(star, safety_action=action, samples=2))
    assert result.nsfw == (True, True)
    wanted = replace(Image.fromarray(star), action)
    assert [image.tobytes() for image in result.images] == [wanted.tobytes()] * 2
    for image in result.generated:
        assert np.abs(np.asarray(image.resize((SIZE, SIZE)), np.int16) - star).max() > 60
    assert any("safety checker" in warning for warning in result.warnings)
    assert result.plan.safety == "intarsia-tiny-safety"


def test_a_clean_input_comes_back_byte_for_byte(engine):
    circle = drawn("circle", "purple")
    result = engine.run(request_of(circle))
    assert result.nsfw == (False,)
    np.testing.assert_array_equal(np.asarray(result.images[0]), circle)


def test_a_star_that_stands_outside_the_mask_is_found_in_the_finished_image(engine):
    star = drawn("star", "purple", place=(0.25, 0.75), radius=0.2)
    fields = {"strength": 0.5, "steps": 2, "width": SIZE, "height": SIZE}
    kept = engine.run(request_of(star, **fields))
    assert kept.nsfw == (True,)
    unchecked = engine.run(request_of(star, **fields, safety_checker=False))
    assert unchecked.nsfw == (False,)
    assert kept.images[0].tobytes() != unchecked.images[0].tobytes()
    assert kept.generated[0].tobytes() != unchecked.generated[0].tobytes()
    assert set(kept.timings) - set(unchecked.timings) == {"safety"}


def test_the_packaged_checker_is_where_the_wheel_takes_it_from():
    assert Path(intarsia.__file__).parent in MODEL.parents
