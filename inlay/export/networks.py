"""The networks of a model, as the graphs that the onnx backend runs: what goes in, what comes out.

Everything that goes in or comes out is float32, whatever a network computes in, so that the host knows one format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from inlay.export.stored import Stored
from inlay.export.translate import Signature, translate
from inlay.models.unet import UNet

__all__ = ["Network", "decoder_graph", "encoder_graph", "safety_graph", "text_graph", "unet_graphs"]


@dataclass(frozen=True, eq=False)
class Network:
    """A network without its weights, and where those lie.

    Attributes:
        module: its parameters are allocated and hold nothing.
        places: by parameter names.
    """

    module: nn.Module
    places: Mapping[str, Sequence[Stored]]


class _Wrapper(nn.Module):
    """What is exported: the network and the casts around it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.dtype = next(network.parameters()).dtype


class _Denoise(_Wrapper):
    def forward(self, sample: Tensor, embeddings: Tensor, row: Tensor, context: Tensor) -> Tensor:
        emb = embeddings.index_select(0, row)[0]
        out: Tensor = self.network(sample.to(self.dtype), emb.to(self.dtype), context.to(self.dtype))
        return out.float()


class _Embed(_Wrapper):
    def forward(self, timesteps: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None) -> Tensor:
        return cast(UNet, self.network).embed(timesteps, pooled, time_ids).float()


class _Context(_Wrapper):
    def forward(self, hidden: Tensor) -> Tensor:
        return cast(UNet, self.network).context(hidden.to(self.dtype)).float()


class _Encode(_Wrapper):
    def forward(self, pictures: Tensor) -> Tensor:
        latents: Tensor = cast(Any, self.network).encode(pictures.to(self.dtype))
        return latents.float()


class _Decode(_Wrapper):
    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = cast(Any, self.network).decode(latents.to(self.dtype))
        return pictures.float()


class _Text(_Wrapper):
    def forward(self, ids: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.network(ids, skip)
        return found


class _Safety(_Wrapper):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.network(pixels)
        return found


# Examples have sides that differ, so that no dimension is taken for another, and are not square numbers of anything.
_BATCH, _ROWS, _TOKENS, _HEIGHT, _WIDTH = 2, 3, 77, 40, 48


def unet_graphs(network: Network) -> Iterator[tuple[str, bytes]]:
    """``unet``, and what is computed beforehand: ``unet_embed`` for all steps, ``unet_context`` for a prompt."""
    unet = cast(UNet, network.module)
    config = unet.config
    timesteps, hidden = torch.ones(_ROWS), torch.zeros(_BATCH, _TOKENS, config.cross_attention_dim[0])
    inputs = {"timesteps": timesteps}
    dynamic: dict[str, dict[int, str]] = {"timesteps": {0: "rows"}}
    if config.added_inputs:
        width = config.added_inputs - 6 * cast(int, config.addition_time_embed_dim)
        inputs |= {"pooled": torch.zeros(1, width), "time_ids": torch.zeros(1, 6)}
    embed = Signature(inputs, dynamic, ["embeddings"])
    yield "unet_embed", translate(_Embed(unet), network.places, embed)
    context = Signature({"hidden": hidden}, {"hidden": {0: "batch", 1: "tokens"}}, ["context"])
    yield "unet_context", translate(_Context(unet), network.places, context)
    columns = sum(layer.columns.stop - layer.columns.start for layer in unet._resnets)
    keys = sum(layer.columns.stop - layer.columns.start for layer in unet._cross)
    step = Signature(
        {
            "sample": torch.zeros(_BATCH, config.in_channels, _HEIGHT, _WIDTH),
            "embeddings": torch.zeros(_ROWS, _BATCH, columns),
            "row": torch.zeros(1, dtype=torch.int64),
            "context": torch.zeros(_BATCH, _TOKENS, keys),
        },
        {
            "sample": {0: "batch", 2: "height", 3: "width"},
            "embeddings": {0: "rows", 1: "batch"},
            "context": {0: "batch", 1: "tokens"},
        },
        ["output"],
    )
    yield "unet", translate(_Denoise(unet), network.places, step)


def encoder_graph(network: Network) -> bytes:
    """Pictures [B, 3, H, W] in -1…1 → scaled latents."""
    factor = cast(Any, network.module).factor
    pictures = torch.zeros(_BATCH, 3, factor * _HEIGHT, factor * _WIDTH)
    signature = Signature({"pictures": pictures}, {"pictures": {0: "batch", 2: "height", 3: "width"}}, ["latents"])
    return translate(_Encode(network.module), network.places, signature)


def decoder_graph(network: Network) -> bytes:
    """Scaled latents [B, C, h, w] → pictures, about -1…1."""
    latents = torch.zeros(_BATCH, cast(Any, network.module).latent_channels, _HEIGHT, _WIDTH)
    signature = Signature({"latents": latents}, {"latents": {0: "batch", 2: "height", 3: "width"}}, ["pictures"])
    return translate(_Decode(network.module), network.places, signature)


def text_graph(network: Network, *, projected: bool) -> bytes:
    """Token ids [B, n] and ``clip_skip`` [1] → [B, n, D], and [B, P] where it projects."""
    ids = torch.ones(_BATCH, 7, dtype=torch.int64)
    signature = Signature(
        {"ids": ids, "skip": torch.ones(1, dtype=torch.int64)},
        {"ids": {0: "batch", 1: "tokens"}},
        ["hidden", "pooled"] if projected else ["hidden"],
    )
    return translate(_Text(network.module), network.places, signature)


def safety_graph(network: Network, crop: int) -> bytes:
    """Squares [N, 3, crop, crop] → cosines less thresholds: special-care concepts, the others."""
    signature = Signature(
        {"pixels": torch.zeros(_BATCH, 3, crop, crop)}, {"pixels": {0: "batch"}}, ["special", "concepts"]
    )
    return translate(_Safety(network.module), network.places, signature)
