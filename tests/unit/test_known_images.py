"""Plans of images that were opened before: the same as if they were opened again, and no image is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia.engine import request_images
from intarsia.engine.known_images import KnownImages
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import plan_of, resolve
from intarsia.errors import RequestError
from intarsia.images.access import Access
from intarsia.registry.registry import Registry

REGISTRY, ACCESS = Registry(), Access(allow_paths=False)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG")
    return file.getvalue()


def drawn(seed: int, *shape: int) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


IMAGE, OTHER, LARGE = drawn(1, 64, 96, 3), drawn(2, 64, 96, 3), drawn(3, 128, 192, 3)
MASK, OTHER_MASK = drawn(4, 64, 96), drawn(5, 32, 48)
CUT_OUT = png(np.dstack([np.zeros((64, 96, 3), np.uint8), np.eye(64, 96, dtype=np.uint8) * 255]))


def request(**fields: Any) -> InpaintRequest:
    return InpaintRequest(**{"prompt": "a cat", "seed": 1, "init_image": IMAGE, "mask_image": MASK, **fields})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fields of the images that are opened."""
    fields: list[str] = []

    def counted(field: str, value: object, access: Access) -> Any:
        fields.append(field)
        return open_image(field, value, access)

    open_image = request_images.open_image
    monkeypatch.setattr(request_images, "open_image", counted)
    return fields


VARIANTS: list[dict[str, Any]] = [
    {},
    {"init_image": OTHER},
    {"init_image": LARGE},
    {"mask_image": OTHER_MASK},
    {"init_image": CUT_OUT},
    {"mask_image": CUT_OUT},
    {"mask_image": CUT_OUT, "mask_source": "alpha"},
    {"invert_mask": True},
    {"mask_padding": 8},
    {"mask_min_area": "1%"},
    {"width": 128, "height": 64},
    {"mask_image": None, "extend": {"left": 32}},
    {"mask_image": None, "extend": {"right": 32}},
    {"ip_adapter": {"id": "tiny-look", "image": OTHER}},
    {"ip_adapter": {"id": "tiny-look", "image": LARGE, "scale": 0.5}},
]


def test_plans_are_those_of_images_that_are_opened_each_time(opened):
    known = KnownImages()
    expected = [resolve(request(**fields), REGISTRY, ACCESS).plan for fields in VARIANTS]
    assert len(set(expected)) == len(VARIANTS)

    first = [plan_of(request(**fields), REGISTRY, ACCESS, known) for fields in VARIANTS]
    opened.clear()
    again = [plan_of(request(**fields), REGISTRY, ACCESS, known) for fields in reversed(VARIANTS)]
    assert first == expected == list(reversed(again))
    assert opened == []


def test_another_prompt_seed_and_scheduler_open_nothing(opened):
    known = KnownImages()
    plan_of(request(), REGISTRY, ACCESS, known)
    opened.clear()
    other = request(prompt="a dog", seed=2, scheduler="heun", steps=7, samples=2)
    assert plan_of(other, REGISTRY, ACCESS, known) == resolve(other, REGISTRY, ACCESS).plan
    assert opened == ["init_image", "mask_image"]  # by resolve


def test_images_that_are_no_bytes_are_opened_each_time(opened):
    known = KnownImages()
    array = request(init_image=np.zeros((64, 64, 3), np.uint8), mask_image=np.full((64, 64), 255, np.uint8))
    for _ in range(2):
        plan_of(array, REGISTRY, ACCESS, known)
    assert opened == ["init_image", "mask_image"] * 2


def test_what_is_refused_is_refused_again(opened):
    known = KnownImages()
    plan_of(request(), REGISTRY, ACCESS, known)
    few = Access(allow_paths=False, max_pixels=1000)
    for wrong, access in (
        (request(), few),
        (request(init_image=b"no image"), ACCESS),
        (request(mask_image=None), ACCESS),
    ):
        for _ in range(2):
            with pytest.raises(RequestError) as refused:
                plan_of(wrong, REGISTRY, access, known)
            with pytest.raises(RequestError) as expected:
                resolve(wrong, REGISTRY, access)
            assert str(refused.value) == str(expected.value)


def test_only_the_last_ones_are_kept(opened, monkeypatch):
    monkeypatch.setattr("intarsia.engine.known_images._KEPT", 2)
    known = KnownImages()
    for fields in VARIANTS[:3]:
        plan_of(request(**fields), REGISTRY, ACCESS, known)
    opened.clear()
    for fields in (VARIANTS[2], VARIANTS[1], VARIANTS[0]):
        plan_of(request(**fields), REGISTRY, ACCESS, known)
    assert opened == ["init_image", "mask_image"]  # of the one that was forgotten
