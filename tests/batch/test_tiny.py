"""Real rows on the packaged model, killed and run again: twelve, and sixty with photographs in `make test-slow`."""

from __future__ import annotations

import json
import random
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from intarsia import batch
from tests.batch.conftest import Album, image_hashes, lines

if find_spec("onnxruntime") is None and find_spec("torch") is None:
    pytest.skip("the packaged model needs a backend: pip install 'intarsia[cpu]'", allow_module_level=True)

SCHEDULERS = (
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
)


def scenes(folder: Path, photos: list[tuple[Path, Path]]) -> list[tuple[str, str]]:
    """Photographs and drawn images with masks, in two sizes."""
    folder.mkdir()
    made = []
    for number, (image, mask) in enumerate(photos):
        side = 128 if number % 2 else 160
        for path, name in ((image, f"photo-{number}.png"), (mask, f"photo-{number}_mask.png")):
            with Image.open(path) as image:
                image.resize((side, side)).save(folder / name)
        made.append((f"photo-{number}.png", f"photo-{number}_mask.png"))
    for number in range(4):
        side = 128 if number % 2 else 160
        ramp = np.linspace(0, 255, side * side * 3).reshape(side, side, 3).astype(np.uint8)
        Image.fromarray(np.roll(ramp, number, axis=2)).save(folder / f"drawn-{number}.png")
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).ellipse((30, 30, 90 + 6 * number, 100), fill=255)
        mask.save(folder / f"drawn-{number}_mask.png")
        made.append((f"drawn-{number}.png", f"drawn-{number}_mask.png"))
    return made


@pytest.mark.slow
def test_sixty_rows_killed_three_times(tmp_path, photos):
    stats = kill_and_compare(tmp_path, photos, count=60, kills=3)
    assert stats.fill >= 0.9, "the network waited for decoded rows"


@pytest.mark.slow
def test_twelve_rows_killed_once(tmp_path):
    kill_and_compare(tmp_path, [], count=12, kills=1)


def kill_and_compare(tmp_path: Path, photos: list[tuple[Path, Path]], count: int, kills: Any) -> Any:
    """The numbers of an uninterrupted run, whose images are those of one that was killed."""
    names = scenes(tmp_path / "album", photos)
    rows = [
        {
            "id": f"row-{number}",
            "init_image": names[number % len(names)][0], "mask_image": names[number % len(names)][1],
            "prompt": f"a {('red', 'blue', 'green')[number % 3]} {('circle', 'ring', 'square')[number // 3 % 3]}",
            "scheduler": SCHEDULERS[number % 4], "steps": 3 + number % 3, "strength": 1.0,
            **({"seed": number} if number % 5 == 0 else {}),
        }
        for number in range(count)
    ]  # fmt: skip
    (tmp_path / "album/manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest, out, chance = tmp_path / "album/manifest.jsonl", tmp_path / "out", random.Random(3)
    command, environment = Album(tmp_path, tmp_path).command("run", manifest, "--out", out, "--slots", 4)
    del environment["INTARSIA_WEIGHTS"]
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        goal = (len(lines(out)) if (out / "results.jsonl").exists() else 0) + chance.randint(1, count // 7)
        while process.poll() is None and (not (out / "results.jsonl").exists() or _count(out) < goal):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.wait()
        image_hashes(out)
    assert _count(out) < count
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert sorted(line["id"] for line in lines(out)) == sorted(row["id"] for row in rows)

    random.Random(1).shuffle(rows)
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stats = batch.run(manifest, tmp_path / "reference", batch.Options(slots=4))
    assert stats.status == {"ok": count}
    assert image_hashes(out) == image_hashes(tmp_path / "reference")
    return stats


def _count(out: Path) -> int:
    return (out / "results.jsonl").read_bytes().count(b"\n")
