"""`python -m tools.page_examples`: the page's example images, scenes of those that the packaged model never saw."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from tools.train_tiny.scenes import MEASURING, draw_scene

FOLDER = Path("intarsia/server/page/examples")
SIZE, QUALITY = 512, 45
SCENES = {"sky": 3, "stripes": 12, "dusk": 10}


def main() -> int:
    """Draw each scene without the shape that its caption names."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, index in SCENES.items():
        scene = draw_scene("measure", index, SIZE, MEASURING)
        Image.fromarray(scene.background).save(FOLDER / f"{name}.webp", "WEBP", quality=QUALITY, method=6)
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(main())
