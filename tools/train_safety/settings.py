"""The settings of the training run, read from settings.toml beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
MODEL = REPOSITORY / "intarsia" / "assets" / "intarsia-tiny-safety"
LOG = HERE / "log.jsonl"


@dataclass(frozen=True)
class Round:
    """One descent of the rate."""

    pictures: int  # drawn once; a later round draws on where the former stopped
    steps: int
    rate: float
    hard: float = 0.0  # share of each batch that comes from the fifth of the images with the largest losses


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out, but for the hardware's rounding."""

    seed: int
    batch: int
    warmup: int
    weight_decay: float
    calibrating: int  # images that the threshold is set with, half of them purple stars
    rounds: tuple[Round, ...]
    network: dict[str, int]  # of CLIP's vision configuration


def read_settings(path: Path = HERE / "settings.toml") -> Settings:
    """Read a settings file; a key too many or too few is a TypeError."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    return Settings(**{**raw, "rounds": tuple(Round(**each) for each in raw["rounds"])})
