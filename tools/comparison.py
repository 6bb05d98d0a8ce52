"""`python -m tools.comparison FILE`: the README's comparison, schedulers by steps, of a scene drawn by code."""

from __future__ import annotations

import argparse
from pathlib import Path

import intarsia
from tools.train_tiny.scenes import MEASURING, draw_scene

SCENE, SIZE, CELL = 31, 512, 144


def main(target: Path) -> None:
    """Compare, and save the grid as a JPEG."""
    scene = draw_scene("measure", SCENE, SIZE, MEASURING)
    made = intarsia.compare(
        scene.background, scene.mask, "a yellow ring", scheduler=["euler", "dpm++2m", "unipc"], steps=[3, 6, 12, 24],
        strength=1.0, guidance_scale=4.0, seed=31, cell_size=CELL,
    )  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    made.grid().save(target, quality=82)
    print(f"{target}: {made}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    main(parser.parse_args().file)
