"""The ``parameters`` text, read back by the rules that AUTOMATIC1111's web UI publishes for it."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from PIL import Image

from intarsia.images.encode import encode
from intarsia.images.metadata import a1111_parameters

# A pair: key, colon, then a JSON string or anything without a comma.
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
META = {
    "steps": 21, "scheduler": "EulerAncestralDiscreteScheduler", "guidance_scale": 7.5, "seed": 2**64 - 1, "width": 512,
    "height": 768, "model": "m", "strength": 0.7, "clip_skip": 2, "mask_blur": 4.0, "version": "intarsia 1",
}  # fmt: skip


def read(text: str) -> tuple[str, str, dict[str, Any]]:
    """Prompt, negative prompt, and the pairs of the last line."""
    *lines, last = text.strip().split("\n")
    if len(PAIR.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompts, which = [[], []], 0
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            which, line = 1, line[16:].strip()
        prompts[which].append(line)
    pairs = {key: json.loads(value) if value[:1] == value[-1:] == '"' else value for key, value in PAIR.findall(last)}
    return *map("\n".join, prompts), pairs


TEXTS = [
    ("a cat", "bad"), ("a\nb\n\nc", "x\ny"), ('a, b: c "q"', "(x:1.2)"), ("café 🐶 猫", "naïve"), ("", ""), ("", "x"),
    ("a", "Steps: 3, Sampler: X, Seed: 5"), ("Steps: 3, Sampler: X, Seed: 5", ""), ("x" * 3000, "y" * 3000),
    ("back\\slash", "tab\tin"), ("100% {a} %s", "a\u2028line"), ("a\rb", "c\x85d"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "negative"), TEXTS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_prompts_of_any_text(kind, prompt, negative):
    meta = META | {"prompt": prompt, "negative_prompt": negative}
    data, _ = encode(Image.new("RGB", (8, 8)), kind, metadata=meta, parameters=a1111_parameters(meta))
    image = Image.open(io.BytesIO(data))
    text = (
        image.text["parameters"] if kind == "PNG" else image.getexif().get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
    )
    one, two, pairs = read(text)
    assert (one, two) == (prompt, negative)
    assert pairs == {
        "Steps": "21", "Sampler": "Euler a", "CFG scale": "7.5", "Seed": str(2**64 - 1), "Size": "512x768",
        "Model": "m", "Denoising strength": "0.7", "Clip skip": "2", "Mask blur": "4", "Version": "intarsia 1",
    }  # fmt: skip


@pytest.mark.parametrize(
    "model", ["a, b", "a: b", 'a "b"', '"a"', '"', "a\nb", "a\r", " a ", "a\\", "🐶, 猫", "Seed: 5", "a\tb", "x=1"]
)
def test_names_of_any_text(model):
    _, _, pairs = read(a1111_parameters(META | {"model": model, "prompt": "p"}))
    assert (pairs["Model"], pairs["Seed"], pairs["Version"]) == (model, str(2**64 - 1), "intarsia 1")


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456789, "0.123456789"), (7.0, "7"), (1e-05, "1e-05"), (0.1 + 0.2, "0.3")]
)
def test_numbers_keep_their_digits(value, text):
    assert read(a1111_parameters(META | {"strength": value}))[2]["Denoising strength"] == text
