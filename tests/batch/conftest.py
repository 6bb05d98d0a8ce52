"""Batches of small images on the null backend."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia.batch import Options
from tests.command_line import run_intarsia

FAULTS = Path(__file__).parent / "faults"


def python_path(first: Path) -> str:
    """A ``PYTHONPATH`` for a new interpreter: what it has now (tests/conftest.py puts the tested tree there) behind."""
    return os.pathsep.join([str(first), os.environ["PYTHONPATH"]])


@dataclass(frozen=True)
class Album:
    """A folder with six images of two sizes, their masks, and manifests that name them."""

    folder: Path
    weights: Path

    @property
    def options(self) -> Options:
        return self.with_options()

    def with_options(self, **changes: Any) -> Options:
        return Options(**{"backend": "null", "weights": str(self.weights), "threads": 2, **changes})

    def row(self, number: int, **fields: Any) -> dict[str, Any]:
        """A quick one: generated at 64 × 64, two steps."""
        image = number % 6
        return {
            "id": f"row-{number}",
            "init_image": f"photos/{image}.png",
            "mask_image": f"masks/{image}.png",
            "prompt": f"thing {number}",
            "width": 64,
            "height": 64 + 8 * (number % 2),
            "steps": 2 + number % 3,
            "scheduler": ("EulerDiscreteScheduler", "DDIMScheduler")[number % 2],
            "strength": 1.0,
            **fields,
        }

    def rows(self, count: int) -> list[dict[str, Any]]:
        return [self.row(number) for number in range(count)]

    def manifest(self, rows: list[Any], name: str = "manifest.jsonl") -> Path:
        """Rows as JSON lines; texts as they are."""
        path = self.folder / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def command(self, *arguments: object, faults: float | None = None) -> tuple[list[str], dict[str, str]]:
        """How to call ``intarsia batch`` in a process of its own, and its environment."""
        environment = {**os.environ, "INTARSIA_WEIGHTS": str(self.weights)}
        if faults is not None:
            environment |= {
                "PYTHONPATH": python_path(FAULTS),
                "INTARSIA_TEST_FAULTS": str(faults),
                "INTARSIA_TEST_MARKS": str(self.folder),
            }
        program = "from intarsia.cli import main; main()"
        return [sys.executable, "-c", program, "batch", *map(str, arguments)], environment

    def call(self, *arguments: object, faults: float | None = None) -> subprocess.CompletedProcess[str]:
        """What a call gives. Only its workers are new interpreters, and fail as their prompts say."""
        _, environment = self.command(*arguments, faults=faults)
        return run_intarsia(["batch", *arguments], cwd=self.folder, environment=environment)


@pytest.fixture
def album(tmp_path: Path, empty_registry: Path) -> Album:
    folder = tmp_path / "album"
    rng = np.random.default_rng(0)
    for sort in ("photos", "masks"):
        (folder / sort).mkdir(parents=True)
    for number in range(6):
        width, height = (40, 32) if number % 2 else (32, 32)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"photos/{number}.png")
        mask = np.zeros((height, width), np.uint8)
        mask[8:20, 8 : 20 + number] = 255
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
    return Album(folder, empty_registry)


@pytest.fixture
def with_faults(album: Album, monkeypatch: pytest.MonkeyPatch) -> Album:
    """Workers of this process's own runs fail as their prompts say."""
    monkeypatch.setenv("PYTHONPATH", python_path(FAULTS))
    monkeypatch.setenv("INTARSIA_TEST_FAULTS", "0")
    monkeypatch.setenv("INTARSIA_TEST_MARKS", str(album.folder))
    return album


def image_hashes(out: Path) -> dict[str, str]:
    """Every image below a folder by its hash; each must be whole."""
    found = {}
    for path in sorted(out.rglob("*.png")):
        data = path.read_bytes()
        with Image.open(path) as image:
            image.load()
        found[path.relative_to(out).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def lines(out: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]
