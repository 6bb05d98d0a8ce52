"""The graphs of an IP adapter: its image encoder, and keys and values of what that gives.

An image is one sample, of one size: nothing in them varies.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from intarsia.export.networks import Network, Wrapper
from intarsia.export.translate import Signature, translate

__all__ = ["image_context_graph", "image_encoder_graph"]


class _Image(Wrapper):
    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network(pixels.to(self.dtype))
        return features.float()


class _ImageContext(Wrapper):
    def forward(self, features: Tensor, scale: Tensor) -> Tensor:
        image_kv: Tensor = cast(Any, self.network).image_kv(features.to(self.dtype), scale.to(self.dtype))
        return image_kv.float()


def image_encoder_graph(network: Network, size: int) -> bytes:
    """An image ``[1, 3, size, size]`` → what an IP adapter takes of it."""
    signature = Signature({"pixels": torch.zeros(1, 3, size, size)}, {}, ["features"])
    return translate(_Image(network.module), network.places, signature)


def image_context_graph(network: Network, features: tuple[int, ...]) -> bytes:
    """What an image encoder gives, of that shape, and a scale ``[1]`` → keys and values ``[1, m, K]`` of the image."""
    inputs = {"features": torch.zeros(features), "scale": torch.ones(1)}
    return translate(_ImageContext(network.module), network.places, Signature(inputs, {}, ["image_context"]))
