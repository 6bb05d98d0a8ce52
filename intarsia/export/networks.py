"""The networks of a model, as the graphs that the onnx backend runs: what goes in, what comes out.

Everything that goes in or comes out is float32, whatever a network computes in, so that the host knows one format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.export.stored import Stored
from intarsia.export.token_matching import INPUTS, LevelMatcher, Tokens
from intarsia.export.translate import Signature, translate
from intarsia.models.attention import Context
from intarsia.models.merging import Matcher
from intarsia.models.unet import UNet

__all__ = [
    "Network",
    "attending",
    "decoder_graph",
    "denoiser_graph",
    "encoder_graph",
    "safety_graph",
    "text_graph",
    "unet_graphs",
]


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
    """One evaluation for the halves of a lane, which differ in nothing but the prompt they look at."""

    def __init__(self, network: UNet, levels: int = 0, reuse: int = 1) -> None:
        super().__init__(network)
        self.merging, self.reuse = attending(network)[:levels], reuse

    def forward(self, sample: Tensor, embeddings: Tensor, row: Tensor, context: Tensor, *tokens: Tensor) -> Tensor:
        unet = cast(UNet, self.network)
        emb = embeddings.index_select(0, row)[0].to(self.dtype)
        seen = self._seen(context.to(self.dtype), row, tokens)
        x = sample.to(self.dtype)
        if unet.config.added_inputs:  # then embeddings differ too
            x = _repeated(x, context)
        x = unet.conv_in(x)
        skips = [x]
        for block, looks in zip(unet.down_blocks, seen, strict=True):
            x = block(x, emb, looks, skips)
        if unet.mid_block is not None:
            x = unet.mid_block(x, emb, seen[-1])
        x, skips = _repeated(x, context), [_repeated(skip, context) for skip in skips]
        for block, looks in zip(unet.up_blocks, seen[::-1], strict=True):
            x = block(x, emb, looks, skips)
        out: Tensor = unet.conv_out(unet.conv_norm_out(x))
        return out.float()

    def _seen(self, context: Tensor, row: Tensor, tokens: Sequence[Tensor]) -> list[Context]:
        """What the transformers of each resolution are told."""
        found: list[Context] = [_Looks(context) for _ in cast(UNet, self.network).down_blocks]
        for place, level in enumerate(self.merging):
            sources, destinations, *others = tokens[place * len(INPUTS) : (place + 1) * len(INPUTS)]
            picked = (each.index_select(0, row)[0] for each in (sources, destinations))
            matcher = LevelMatcher(Tokens(*picked, *others), self.reuse)
            found[level] = _Looks(context, matchers=[cast(Matcher, matcher)])
        return found


class _Looks(Context):
    """Of one resolution; sizes are not known while a network is exported."""

    def matcher(self, height: int, width: int) -> Matcher | None:
        return self.matchers[0] if self.matchers else None


def _repeated(x: Tensor, context: Tensor) -> Tensor:
    """``[1 or B, C, H, W]`` → ``[B, C, H, W]``."""
    return x.expand(context.shape[0], -1, -1, -1) if x.shape[0] == 1 else x


def attending(unet: UNet) -> list[int]:
    """Resolutions that have attention, the highest first; 0 is the latents'."""
    height = 2 ** len(unet.down_blocks)
    return [(height // size).bit_length() - 1 for size, _ in unet.attention_sizes(height, height)]


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
# Sources and destinations differ from row to row.
_PICKED = 2


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
    yield "unet", denoiser_graph(network)


def denoiser_graph(network: Network, levels: int = 0, reuse: int = 1) -> bytes:
    """One evaluation of a UNet for the halves of a lane.

    Args:
        levels: how many resolutions merge tokens, weighted, from the highest that has attention downwards.
        reuse: how many attention blocks of a resolution share one matching.
    """
    unet = cast(UNet, network.module)
    columns = sum(layer.columns.stop - layer.columns.start for layer in unet._resnets)
    keys = sum(layer.columns.stop - layer.columns.start for layer in unet._cross)
    added = bool(unet.config.added_inputs)
    inputs = {
        "sample": torch.zeros(1, unet.config.in_channels, _HEIGHT, _WIDTH),
        "embeddings": torch.zeros(_ROWS, _BATCH if added else 1, columns),
        "row": torch.zeros(1, dtype=torch.int64),
        "context": torch.zeros(_BATCH, _TOKENS, keys),
    }
    dynamic = {
        "sample": {2: "height", 3: "width"},
        "embeddings": {0: "rows", 1: "halves"} if added else {0: "rows"},
        "context": {0: "halves", 1: "tokens"},
    }
    wrapper = _Denoise(unet, levels, reuse)
    for level in range(len(wrapper.merging)):
        for place, name in enumerate(INPUTS):
            # lengths are examples, and all differ
            length = 20 + 6 * place + 30 * level
            picked = place < _PICKED
            inputs[f"{name}_{level}"] = torch.zeros((_ROWS, length) if picked else length, dtype=torch.int64)
            dynamic[f"{name}_{level}"] = {0: "rows", 1: f"{name}_{level}"} if picked else {0: f"{name}_{level}"}
    return translate(wrapper, network.places, Signature(inputs, dynamic, ["output"]))


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
