"""The settings of these trainings, read from settings.toml beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """How a LoRA or LoHa is trained."""

    kind: str  # "lora" or "loha"
    effect: str  # a name of effects.EFFECTS
    rank: int
    alpha: float
    steps: int
    batch: int
    rate: float
    scenes: int


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings:
    """How the embedding is trained."""

    token: str  # what stands in a prompt
    effect: str  # a name of effects.EFFECTS, and the shape: what it means
    shape: str
    start: list[str]  # the words whose vectors it starts from, one for each of its own
    steps: int
    batch: int
    rate: float
    scenes: int  # drawn, of which those with the shape are kept


@dataclass(frozen=True, kw_only=True)
class IPAdapterSettings:
    """How the IP adapter and its image encoder are trained."""

    name: str  # its id and its folder
    references: int  # images that the encoder is trained on, and as many others for the adapter
    encoder_steps: int
    encoder_batch: int
    encoder_rate: float
    steps: int
    batch: int
    rate: float
    scenes: int


@dataclass(frozen=True, kw_only=True)
class TextOnlySettings:
    """How intarsia-tiny-base is trained."""

    steps: int
    batch: int
    rate: float
    decay: float  # of the moving average
    scenes: int


@dataclass(frozen=True, kw_only=True)
class FewStepSettings:
    """How intarsia-tiny-lcm is trained."""

    steps: int
    batch_256: int
    batch_512: int
    large_share: float
    rate: float
    decay: float
    scenes_256: int
    scenes_512: int
    two_step_share: float
    image_share: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides what comes out, but for the hardware's rounding."""

    seed: int
    adapters: dict[str, AdapterSettings]
    embedding: EmbeddingSettings
    ip_adapter: IPAdapterSettings
    few_steps: FewStepSettings
    text_only: TextOnlySettings


def read_settings(path: Path = HERE / "settings.toml") -> Settings:
    """Read a settings file; TypeError where a key is missing or unknown."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    adapters = {name: AdapterSettings(**values) for name, values in raw["adapters"].items()}
    return Settings(
        seed=int(raw["seed"]),
        adapters=adapters,
        embedding=EmbeddingSettings(**raw["embedding"]),
        ip_adapter=IPAdapterSettings(**raw["ip_adapter"]),
        few_steps=FewStepSettings(**raw["few_steps"]),
        text_only=TextOnlySettings(**raw["text_only"]),
    )
