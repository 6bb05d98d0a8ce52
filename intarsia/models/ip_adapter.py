"""IP adapters (Ye et al. 2023): an image beside the prompt, as tokens that every cross-attention looks at.

Parameter names are those of the published ``ip-adapter*.safetensors``. Two layouts are known: the plain one,
which makes 4 tokens of CLIP's image embedding, and "plus", which resamples CLIP's patches to 16 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.models.attention import CrossAttention
from intarsia.models.unet import UNet

_HEAD = 64
"""Channels of a head of the resampler's attention, in all published adapters."""


class ImageProjection(nn.Module):
    """The plain layout: an image embedding → tokens, by one linear layer and a norm."""

    def __init__(self, embedding: int, tokens: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.proj = nn.Linear(embedding, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, embedding: Tensor) -> Tensor:
        """``[B, P]`` → ``[B, tokens, D]``."""
        tokens = self.proj(embedding).view(len(embedding), -1, self.width)
        out: Tensor = self.norm(tokens)
        return out


class PerceiverAttention(nn.Module):
    """Attention of the resampler's tokens to the image's patches and to themselves."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_kv = nn.Linear(channels, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, channels, bias=False)

    def forward(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """``[B, n, H]`` and ``[B, m, H]`` → ``[B, m, H]``."""
        patches = self.norm1(patches)
        tokens = self.norm2(tokens)

        query = self.to_q(tokens)
        context = torch.cat([patches, tokens], dim=1)
        key, value = self.to_kv(context).chunk(2, dim=2)
        attended = F.scaled_dot_product_attention(_heads(query), _heads(key), _heads(value))

        joined = attended.transpose(1, 2).flatten(2)
        out: Tensor = self.to_out(joined)
        return out


def _heads(x: Tensor) -> Tensor:
    """``[B, n, heads*64]`` → ``[B, heads, n, 64]``."""
    return x.view(*x.shape[:2], -1, _HEAD).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class ResamplerShape:
    """Sizes of a resampler, read off its weights.

    Attributes:
        patch: channels of CLIP's patches.
        hidden: channels of its tokens.
        inner: channels of its attention, all heads together.
    """

    patch: int
    hidden: int
    inner: int
    tokens: int
    depth: int
    feed_forward: int
    width: int


class Resampler(nn.Module):
    """The "plus" layout: CLIP's patches → tokens, by attention from learned ones (Flamingo's resampler)."""

    def __init__(self, shape: ResamplerShape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.latents = nn.Parameter(torch.empty(1, shape.tokens, hidden))
        self.proj_in = nn.Linear(shape.patch, hidden)
        self.layers = nn.ModuleList(_resampler_layer(shape) for _ in range(shape.depth))
        self.proj_out = nn.Linear(hidden, shape.width)
        self.norm_out = nn.LayerNorm(shape.width)

    def forward(self, patches: Tensor) -> Tensor:
        """``[B, n, E]`` → ``[B, tokens, D]``."""
        tokens = self.latents.expand(len(patches), -1, -1)
        patches = self.proj_in(patches)
        for attention, feed_forward in cast(Any, self.layers):
            tokens = tokens + attention(patches, tokens)
            tokens = tokens + feed_forward(tokens)
        out: Tensor = self.norm_out(self.proj_out(tokens))
        return out


def _resampler_layer(shape: ResamplerShape) -> nn.ModuleList:
    feed_forward = nn.Sequential(
        nn.LayerNorm(shape.hidden),
        nn.Linear(shape.hidden, shape.feed_forward, bias=False),
        nn.GELU(),
        nn.Linear(shape.feed_forward, shape.hidden, bias=False),
    )
    return nn.ModuleList([PerceiverAttention(shape.hidden, shape.inner), feed_forward])


class ImageKeysValues(nn.Module):
    """One cross-attention's own keys and values of the image's tokens."""

    def __init__(self, attention: CrossAttention, width: int) -> None:
        super().__init__()
        self.columns = attention.columns
        channels = attention.to_q.out_features
        self.to_k_ip = nn.Linear(width, channels, bias=False)
        self.to_v_ip = nn.Linear(width, channels, bias=False)

    def forward(self, tokens: Tensor, scale: float | Tensor) -> Tensor:
        """``[B, m, D]`` → ``[B, m, 2C]``. Attention is linear in the values, so the scale may go into them."""
        key = self.to_k_ip(tokens)
        value = scale * self.to_v_ip(tokens)
        return torch.cat([key, value], dim=2)


class IPAdapter(nn.Module):
    """Projection of the image, and keys and values for each cross-attention of one UNet."""

    def __init__(self, projection: ImageProjection | Resampler, unet: UNet) -> None:
        super().__init__()
        width = unet.config.cross_attention_dim[0]
        self.image_proj = projection
        self.ip_adapter = nn.ModuleDict()
        for i, attention in enumerate(unet.cross_attentions()):
            # numbered as in the files: every attention counts, and only each second one is a cross-attention
            number = 2 * i + 1
            self.ip_adapter[str(number)] = ImageKeysValues(attention, width)

    def image_kv(self, features: Tensor, scale: float | Tensor) -> Tensor:
        """Keys and values ``[B, m, K]`` of images, packed for the UNet.

        Args:
            features: CLIP's embeddings ``[B, P]``; for a resampler its hidden states ``[B, n, E]``.
            scale: weight of the images' attention.
        """
        tokens = self.image_proj(features)
        layers = cast("list[ImageKeysValues]", list(self.ip_adapter.values()))
        layers.sort(key=lambda layer: layer.columns.start)
        return torch.cat([layer(tokens, scale) for layer in layers], dim=2)


@dataclass(frozen=True, eq=False)
class ImagePrompts:
    """An IP adapter with the CLIP image encoder that it was trained with.

    Attributes:
        processor: resizes, crops and normalizes images for the encoder.
    """

    adapter: IPAdapter
    encoder: nn.Module
    processor: Any

    def image_kv(self, image: np.ndarray, scale: float) -> Tensor:
        """Keys and values ``[2, m, K]`` of uint8 ``[H, W, 3]``: of no image (the unconditional branch), and of it."""
        weight = next(self.encoder.parameters())
        encoder = cast(Any, self.encoder)
        processed = self.processor(Image.fromarray(image), return_tensors="pt")
        pixels = processed.pixel_values.to(weight)

        if isinstance(self.adapter.image_proj, Resampler):
            both_branches = torch.cat([torch.zeros_like(pixels), pixels])
            features = encoder(both_branches, output_hidden_states=True).hidden_states[-2]
        else:
            embedding = encoder(pixels).image_embeds
            features = torch.cat([torch.zeros_like(embedding), embedding])
        return self.adapter.image_kv(features, scale)


def resampler_shape(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> ResamplerShape:
    """Sizes of the resampler whose tensors have these shapes; KeyError or IndexError for anything else."""
    numbers = []
    for name in shapes:
        if "layers." in name:
            number, _, _ = name.removeprefix(prefix + "layers.").partition(".")
            numbers.append(int(number))
    depth = 1 + max(numbers)

    return ResamplerShape(
        patch=shapes[prefix + "proj_in.weight"][1],
        hidden=shapes[prefix + "latents"][2],
        inner=shapes[prefix + "layers.0.0.to_q.weight"][0],
        tokens=shapes[prefix + "latents"][1],
        depth=depth,
        feed_forward=shapes[prefix + "layers.0.1.1.weight"][0],
        width=shapes[prefix + "proj_out.weight"][0],
    )
