"""The settings of a training run, read from settings.toml beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


@dataclass(frozen=True)
class AutoencoderSettings:
    """How the autoencoder is trained."""

    steps: int
    batch: int
    crop: int
    rate: float
    scenes: int
    latent_noise: float  # standard deviation of the noise added before decoding


@dataclass(frozen=True)
class LatentSettings:
    """How many scenes are drawn and encoded at each size."""

    scenes_256: int
    scenes_512: int
    shard: int


@dataclass(frozen=True)
class DenoiserSettings:
    """How the UNet and the text encoder are trained."""

    steps_256: int
    steps_512: int
    batch_256: int
    batch_512: int
    small_share: float  # share of 256² steps during the second part
    rate: float
    warmup: int
    decay: float  # of the moving average
    fall_from: float  # share of all steps after which the rate falls
    layout_share: float  # share of images whose timestep is drawn from the noisier half only
    blank_until: int  # the step up to which `blank_share_first` holds
    blank_share_first: float  # share of images whose input is noise alone, as at the start of sampling
    blank_share: float  # the same, afterwards
    centre_weight: float  # of errors where the mask says that a shape would stand
    outside_weight: float
    dropout_high: float  # captions dropped at timesteps of `dropout_from` and above
    dropout_low: float  # and below
    dropout_from: int
    own_share: float  # share of empty scenes whose input is the network's own step from a noisier one


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out, but for the hardware's rounding."""

    seed: int
    autoencoder: AutoencoderSettings
    latents: LatentSettings
    denoiser: DenoiserSettings


def _table(kind: type[T], values: dict[str, Any]) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if known != set(values):
        raise ValueError(f"settings of {kind.__name__}: {sorted(known ^ set(values))} missing or unknown")
    return kind(**values)


def read_settings(path: Path = HERE / "settings.toml") -> Settings:
    """Read and check a settings file."""
    raw = tomllib.loads(path.read_text())
    return Settings(
        seed=int(raw["seed"]),
        autoencoder=_table(AutoencoderSettings, raw["autoencoder"]),
        latents=_table(LatentSettings, raw["latents"]),
        denoiser=_table(DenoiserSettings, raw["denoiser"]),
    )
