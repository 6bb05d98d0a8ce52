"""What a console and a notebook show of requests, results and engines."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

import intarsia


def test_a_request_is_one_short_line_without_its_pixels(image_and_mask):
    image, mask = image_and_mask
    request = intarsia.InpaintRequest(
        init_image=image, mask_image=Image.fromarray(mask), prompt="a " * 500, loras=["ink:0.5"], seed=7, steps=6
    )
    text = repr(request)
    assert text.startswith("InpaintRequest(prompt='a a a")
    assert "init_image=<array 96x128x3>, mask_image=<L image 128x96>, steps=6, seed=7" in text
    assert "strength" not in text.replace("Lora(id='ink', strength=0.5)", ""), "what is at its default is left out"
    assert len(text) < 300
    assert repr(intarsia.InpaintRequest(init_image=b"x" * 1000)) == "InpaintRequest(init_image=<1000 bytes>)"
    assert repr(intarsia.InpaintRequest()) == "InpaintRequest()"


def test_a_result_is_one_line_in_a_console_and_its_images_in_a_notebook(engine, request_of):
    result = engine.run(request_of(samples=2, prompt="a <cat>"))
    line = r"Result\(images=2, size='128x96', seeds=\(1, 2\), prompt='a <cat>', seconds=[0-9.]+\)"
    assert re.fullmatch(line, repr(result))

    page = result._repr_html_()
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    for source, image in zip(sources, result.images, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(source))) as shown:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == ["seed 1", "seed 2"]


def test_an_engine_says_what_it_is_and_whether_it_is_open(empty_registry):
    with intarsia.Engine("null", weights=empty_registry, slots=3) as engine:
        assert repr(engine) == "<Engine(backend='null', device='cpu', slots=3), open>"
    assert repr(engine) == "<Engine(backend='null', device='cpu', slots=3), closed>"
