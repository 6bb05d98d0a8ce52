"""`make demo`: draw a scene, paint what its caption says into it with the packaged model, print the image's path.

The scene comes from the code that drew the model's training images, from a range that it never saw.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from tools.train_tiny.scenes import MEASURING, draw_scene

SCENE, SIZE, SEED = 5, 512, 7


def main(folder: Path) -> int:
    """Write scene.png, mask.png and the result into ``folder``; the result's path is the last line printed."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = draw_scene("measure", SCENE, SIZE, MEASURING)
    image, mask = folder / "scene.png", folder / "mask.png"
    Image.fromarray(scene.background).save(image)
    Image.fromarray(scene.mask).save(mask)
    print(f"painting {scene.caption!r} into {image} under {mask}", file=sys.stderr)
    command = [Path(sys.executable).with_name("intarsia"), "inpaint", image, mask, "--prompt", scene.caption]
    command += ["--strength", "1", "--guidance-scale", "4", "--seed", str(SEED), "--out", folder / "result.png"]
    return subprocess.run([*map(str, command), "--overwrite"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
