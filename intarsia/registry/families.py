"""Model families: what a registry entry means without opening its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all models of one family share.

    Attributes:
        in_channels: of the network's first convolution; 9 takes latents, mask and masked image, 4 latents.
        native_size: side in pixels that the family was trained at.
        latent_channels, factor: of its autoencoder; latents are ``size / factor``.
        schedule: what its published scheduler configuration has besides SD1.5's.
    """

    in_channels: int
    native_size: int
    latent_channels: int = 4
    factor: int = 8
    schedule: Mapping[str, Any] = field(default_factory=dict)


# SDXL's published configuration: leading spacing (Podell et al. 2023; its scheduler_config.json).
_SDXL: dict[str, Any] = {"timestep_spacing": "leading"}

FAMILIES: dict[str, Family] = {
    "sd15": Family(in_channels=4, native_size=512),
    "sd15-inpaint": Family(in_channels=9, native_size=512),
    "sd21": Family(in_channels=4, native_size=768),
    "sd21-inpaint": Family(in_channels=9, native_size=512),
    "sdxl": Family(in_channels=4, native_size=1024, schedule=_SDXL),
    "sdxl-inpaint": Family(in_channels=9, native_size=1024, schedule=_SDXL),
    "tiny": Family(in_channels=4, native_size=512),
    "tiny-inpaint": Family(in_channels=9, native_size=512),
}
