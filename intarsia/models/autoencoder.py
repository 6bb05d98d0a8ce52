"""The interface of image autoencoders."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Autoencoder(Protocol):
    """Images to latents and back. Latents are *scaled* for the UNet, to about unit variance.

    Images are ``[B, 3, H, W]`` in -1..1, with H and W multiples of ``factor``.
    Latents are ``[B, latent_channels, H / factor, W / factor]``.
    """

    factor: int
    latent_channels: int

    def encode(self, images: Tensor) -> Tensor:
        """Images → scaled latents. Deterministic: where the encoder gives a distribution, its mode."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents → images; values may lie somewhat outside -1..1."""
        ...
