"""`make demo`: draw a scene, paint what its caption says into it, print the image's path and what opens the page.

The scene comes from the code that drew the model's training images, from a range that it never saw.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tools.train_tiny.scenes import MEASURING, draw_scene

SCENE, SIZE, SEED = 5, 512, 7
PAGE = "http://127.0.0.1:8765/"


def main(folder: Path) -> int:
    """Write scene.png, mask.png and the result into ``folder``; print the result's path, and what opens the page."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = draw_scene("measure", SCENE, SIZE, MEASURING)
    image, mask = folder / "scene.png", folder / "mask.png"
    Image.fromarray(scene.background).save(image)
    Image.fromarray(scene.mask).save(mask)
    print(f"painting {scene.caption!r} into {image} under {mask}", file=sys.stderr)
    intarsia = Path(sys.executable).with_name("intarsia")
    command = [intarsia, "inpaint", image, mask, "--prompt", scene.caption]
    command += ["--strength", "1", "--guidance-scale", "4", "--seed", str(SEED), "--out", folder / "result.png"]
    status = subprocess.run([*map(str, command), "--overwrite"], check=False).returncode
    if status == 0:
        print(f"paint your own: {shown(intarsia)} serve, then open {PAGE}")
    return status


def shown(command: Path) -> str:
    """A command's path as it can be typed here."""
    here = Path.cwd()
    return str(command.relative_to(here) if command.is_relative_to(here) else command)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.exit(main(parser.parse_args().folder))
