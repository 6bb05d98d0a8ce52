"""An image of the packaged model is made again from its own file, on each backend, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest

import intarsia
from tests.noise_request import noise_request

NEEDS = {"onnx": ("onnxruntime", "cpu"), "torch": ("torch", "torch")}


@pytest.mark.parametrize("backend", NEEDS)
def test_one_of_two_images_with_a_lora_is_made_again_alone(tmp_path: Path, backend: str) -> None:
    package, extra = NEEDS[backend]
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[{extra}]'")
    request = noise_request(
        64, slice(16, 40), slice(24, 48), prompt="a red circle <lora:stripes:0.5>", samples=2, steps=3,
        scheduler="DPM++ 2M SDE Karras", mask_padding=8, color_match=True,
    )  # fmt: skip
    with intarsia.Engine(backend, "cpu") as engine:
        made = engine.run(request)
        made.save(tmp_path / "made.png", 1)
        images = {"init_image": request.init_image, "mask_image": request.mask_image}
        again = engine.run(intarsia.request_from(tmp_path / "made.png", **images))
    assert again.images[0].tobytes() == made.images[1].tobytes()
    assert again.images[0].tobytes() != made.images[0].tobytes()
