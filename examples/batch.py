"""Run a manifest, look at what failed, mend it and run again: ``python examples/batch.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

import intarsia.batch


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest, out = folder / "manifest.jsonl", folder / "out"

    mask = Image.new("L", (128, 96))
    ImageDraw.Draw(mask).ellipse((32, 16, 96, 80), fill=255)
    mask.save(folder / "mask.png")
    for color in ("navy", "maroon"):
        Image.new("RGB", mask.size, color).save(folder / f"{color}.png")

    rows = [
        {"id": color, "init_image": f"{color}.png", "mask_image": "mask.png", "prompt": "a red circle", "steps": 4}
        for color in ("navy", "maroon", "olive")  # there is no olive.png yet
    ]
    manifest.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    # One process; `workers=4` is four, and on machines with GPUs the default is one for each.
    tally = intarsia.batch.run(manifest, out, intarsia.batch.Options())
    print(dict(tally.status))
    for failed in intarsia.batch.report(out)["failed"]:
        print(failed["id"], failed["error"], failed["text"], sep=": ")

    Image.new("RGB", mask.size, "olive").save(folder / "olive.png")
    tally = intarsia.batch.run(manifest, out, intarsia.batch.Options())  # only what is not done yet
    print(dict(tally.status), sorted(path.name for path in out.glob("*.png")))


if __name__ == "__main__":  # worker processes import this file
    main(Path(sys.argv[1]))
