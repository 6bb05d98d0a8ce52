"""Answer a hosted endpoint's request on this machine: ``python examples/documented_request.py FOLDER``."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

import intarsia


def as_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    image = Image.new("RGB", (128, 128), "olive")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rectangle((32, 32, 96, 96), fill=255)

    # As a client sends it; images are usually URLs. The key is required there and not looked at here.
    payload = {
        "key": "",
        "model_id": "intarsia-tiny",
        "prompt": "a yellow star",
        "init_image": as_base64(image),
        "mask_image": as_base64(mask),
        "width": "128",
        "height": "128",
        "num_inference_steps": "8",
        "scheduler": "EulerDiscreteScheduler",
        "seed": 7,
    }

    with intarsia.Engine() as engine:
        reply = engine.reply(payload, endpoint="community", out=folder)
        print(json.dumps(reply, indent=2))

        # What means nothing is an error that names field, value and what is allowed.
        wrong = engine.reply({**payload, "width": "512.5"}, endpoint="community", out=folder)
        print(wrong["status"], wrong["message"], sep=": ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
