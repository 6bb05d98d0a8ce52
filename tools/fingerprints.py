"""Hashes of a fixed set of images: ``python -m tools.fingerprints FILE [--compare EARLIER]``.

For changes that must not change an image. The set: every documented scheduler on both backends, with and without
token merging; a batch of 60 rows; each endpoint's documented example fields. A hash covers the pixels alone, not the
file around them. Hashes hold for one machine and one set of package versions.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image

import intarsia
from benchmarks.jobs import PROMPT, pictures
from intarsia import batch

SIZE, STEPS, ROWS = 128, 4, 60
# The least that every endpoint takes.
ENDPOINT_SIZE = 512
BACKENDS = ("torch", "onnx")

# What the documents' examples set, but for the model, the addresses of the images and the size.
EXAMPLES: dict[str, dict[str, Any]] = {
    "community": {
        "samples": "1",
        "num_inference_steps": "30",
        "safety_checker": "no",
        "guidance_scale": 7.5,
        "strength": 0.7,
        "scheduler": "DPMSolverMultistepScheduler",
    },
    "enterprise-pony": {"samples": "1", "steps": "21", "safety_checker": "no", "tomesd": "yes", "strength": "0.7"},
    "pony": {"samples": "1", "num_inference_steps": "21", "safety_checker": "no", "guidance_scale": 5},
    "realtime": {"samples": "1", "guidance_scale": 5, "strength": 0.7},
}


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of an image's mode, size and pixels."""
    head = f"{image.mode} {image.size} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def schedulers() -> Iterator[tuple[str, str]]:
    """(name, hash) for every scheduler on each backend."""
    image, mask = pictures(SIZE, SIZE)
    for backend in BACKENDS:
        with intarsia.Engine(backend, "cpu") as engine:
            for place, scheduler in enumerate(intarsia.schedulers.NAMES):
                request = intarsia.InpaintRequest(
                    prompt=PROMPT,
                    init_image=image,
                    mask_image=mask,
                    width=SIZE,
                    height=SIZE,
                    steps=STEPS,
                    scheduler=scheduler,
                    seed=place,
                    token_merging=0.5 if place % 3 == 0 else None,
                )
                [made] = engine.run(request).images
                yield f"{backend} {scheduler}", pixel_hash(made)


def batch_rows() -> Iterator[tuple[str, str]]:
    """(name, hash) for every image of a batch on the onnx backend."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_manifest(folder)
        options = batch.Options(backend="onnx", device="cpu", workers=1)
        batch.run(folder / "rows.jsonl", folder / "out", options)
        for path in sorted((folder / "out").rglob("*.png")):
            with Image.open(path) as made:
                yield f"batch {path.name}", pixel_hash(made)


def _write_manifest(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(ROWS):
        width, height = (8 * int(rng.integers(8, 17)) for _ in range(2))
        image, mask = pictures(width, height)
        image.save(folder / f"{number}.png")
        mask.save(folder / f"{number}-mask.png")
        row = {
            "id": f"row-{number:02d}",
            "init_image": f"{number}.png",
            "mask_image": f"{number}-mask.png",
            "prompt": f"a blue square {number}",
            "width": width,
            "height": height,
            "steps": 2 + number % 3,
            "scheduler": intarsia.schedulers.NAMES[number % len(intarsia.schedulers.NAMES)],
        }
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def endpoints() -> Iterator[tuple[str, str]]:
    """(name, hash) for the image of each endpoint's example."""
    image, mask = (_base64(each) for each in pictures(ENDPOINT_SIZE, ENDPOINT_SIZE))
    model = intarsia.Registry().find(None).id
    common = {"key": "", "model_id": model, "prompt": PROMPT, "seed": 5, "base64": True}
    common |= {"init_image": image, "mask_image": mask, "width": ENDPOINT_SIZE, "height": ENDPOINT_SIZE}
    with intarsia.Engine("onnx", "cpu") as engine:
        for endpoint, fields in EXAMPLES.items():
            reply = engine.reply({**common, **fields}, endpoint)
            if reply["status"] != "success":
                raise SystemExit(f"{endpoint}: {reply['message']}")
            encoded = reply["output"][0].rpartition(",")[2]
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as made:
                yield f"endpoint {endpoint}", pixel_hash(made)


def _base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> int:
    """Write the hashes; 1 where they differ from earlier ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--compare", type=Path, help="hashes written earlier")
    asked = parser.parse_args()

    hashes = {name: value for part in (schedulers, batch_rows, endpoints) for name, value in part()}
    asked.file.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
    print(f"{len(hashes)} images: {asked.file}")
    if asked.compare is None:
        return 0

    earlier = json.loads(asked.compare.read_text(encoding="utf-8"))
    differing = sorted(name for name in hashes.keys() | earlier if hashes.get(name) != earlier.get(name))
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(differing)} of {len(hashes)} differ from {asked.compare}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
