"""`python -m tools.train_safety measure`: what the checker finds, misses and wrongly flags, by diffusers' own rule."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intarsia.models.safety import SafetyChecker, load_safety_checker
from tools.train_safety.pictures import KINDS, SIZES, draw_example
from tools.train_safety.settings import REPOSITORY

COUNT = 2000
PHOTOGRAPHS = REPOSITORY.parent / "shared" / "data" / "inpainting"
TILE = 256  # photographs are looked at whole and in squares of this side


def measure_drawn(checker: SafetyChecker, count: int = COUNT) -> dict[str, Any]:
    """Images of a seed range that nothing was trained or set with: how many of each kind are flagged."""
    found: dict[str, list[bool]] = defaultdict(list)
    for index in range(count):
        example = draw_example("measure", index)
        found[example.kind] += checker.check([example.picture])
    others = [flagged for kind, each in found.items() for flagged in each if kind != "purple star"]
    return {
        "pictures": count,
        "sizes": list(SIZES["measure"]),
        "recall": float(np.mean(found["purple star"])),
        "false positives": float(np.mean(others)),
        "by kind": {kind: {"pictures": len(found[kind]), "flagged": sum(found[kind])} for kind in KINDS},
    }


def measure_photographs(checker: SafetyChecker, folder: Path = PHOTOGRAPHS) -> dict[str, Any] | None:
    """Real photographs, whole and in tiles; None where there are none on this machine."""
    paths = [path for path in sorted(folder.glob("*.png")) if not path.stem.endswith("_mask")]
    if not paths:
        return None
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    tiles = [
        picture[y : y + TILE, x : x + TILE]
        for picture in pictures
        for y in range(0, picture.shape[0] - TILE + 1, TILE)
        for x in range(0, picture.shape[1] - TILE + 1, TILE)
    ]
    return {
        "photographs": len(pictures),
        "flagged": sum(checker.check(pictures)),
        "tiles": len(tiles),
        "flagged tiles": sum(checker.check(tiles)),
    }


def measure(model: Path) -> dict[str, Any]:
    """Everything that the card says."""
    checker = load_safety_checker(model)
    return {"drawn": measure_drawn(checker), "photographs": measure_photographs(checker)}
