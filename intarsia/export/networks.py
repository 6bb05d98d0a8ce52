"""The networks of a model as the graphs that the onnx backend runs.

Inputs and outputs are float32, whatever a network computes in, so that the host has one format. Arguments of
``forward`` have the names of the graph's inputs, which exported graphs keep: ``pictures`` are images, ``context`` is a
prompt's ``cross_kv``.
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
from intarsia.models.attention import AttentionInputs
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
    """A network without its weights, and the files that hold these.

    Attributes:
        module: its parameters are allocated and hold nothing.
        places: stored tensors by parameter names.
    """

    module: nn.Module
    places: Mapping[str, Sequence[Stored]]


class _Wrapper(nn.Module):
    """An exported network: the network and the casts around it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.dtype = next(network.parameters()).dtype


class _Denoise(_Wrapper):
    """One evaluation for the branches of a lane, which differ only by their prompts."""

    def __init__(self, network: UNet, levels: int = 0, reuse: int = 1) -> None:
        super().__init__(network)
        self.merging, self.reuse = attending(network)[:levels], reuse

    def forward(self, sample: Tensor, embeddings: Tensor, row: Tensor, context: Tensor, *tokens: Tensor) -> Tensor:
        unet = cast(UNet, self.network)
        emb = embeddings.index_select(0, row)[0].to(self.dtype)
        by_level = self._attention_inputs(context.to(self.dtype), row, tokens)

        x = sample.to(self.dtype)
        if unet.config.added_inputs:  # then embeddings differ too
            x = _repeated(x, context)
        x = unet.conv_in(x)
        skips = [x]
        for block, inputs in zip(unet.down_blocks, by_level, strict=True):
            x = block(x, emb, inputs, skips)
        if unet.mid_block is not None:
            x = unet.mid_block(x, emb, by_level[-1])

        x, skips = _repeated(x, context), [_repeated(skip, context) for skip in skips]
        for block, inputs in zip(unet.up_blocks, by_level[::-1], strict=True):
            x = block(x, emb, inputs, skips)
        out: Tensor = unet.conv_out(unet.conv_norm_out(x))
        return out.float()

    def _attention_inputs(self, cross_kv: Tensor, row: Tensor, tokens: Sequence[Tensor]) -> list[AttentionInputs]:
        """The inputs of the transformers of each resolution."""
        by_level: list[AttentionInputs] = [_LevelInputs(cross_kv) for _ in cast(UNet, self.network).down_blocks]
        for number, level in enumerate(self.merging):
            first = number * len(INPUTS)
            sources, destinations, *others = tokens[first : first + len(INPUTS)]
            row_sources = sources.index_select(0, row)[0]
            row_destinations = destinations.index_select(0, row)[0]
            matcher = LevelMatcher(Tokens(row_sources, row_destinations, *others), self.reuse)
            by_level[level] = _LevelInputs(cross_kv, matchers=[cast(Matcher, matcher)])
        return by_level


class _LevelInputs(AttentionInputs):
    """The inputs of one resolution's transformers; sizes are unknown while a network is exported."""

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


class _CrossKv(_Wrapper):
    def forward(self, hidden: Tensor) -> Tensor:
        return cast(UNet, self.network).cross_kv(hidden.to(self.dtype)).float()


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
        outputs: tuple[Tensor, ...] = self.network(ids, skip)
        return outputs


class _Safety(_Wrapper):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.network(pixels)
        return outputs


# Examples have sides that differ, so that no dimension is taken for another, and are not square numbers of anything.
_BATCH, _ROWS, _TOKENS, _HEIGHT, _WIDTH = 2, 3, 77, 40, 48
# Sources and destinations differ from row to row.
_PICKED = 2


def unet_graphs(network: Network) -> Iterator[tuple[str, bytes]]:
    """``unet``, and the graphs that run before it: ``unet_embed`` once for all steps, ``unet_context`` for a prompt."""
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
    yield "unet_context", translate(_CrossKv(unet), network.places, context)
    yield "unet", denoiser_graph(network)


def denoiser_graph(network: Network, levels: int = 0, reuse: int = 1) -> bytes:
    """One evaluation of a UNet for the branches of a lane.

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
    """Images ``[B, 3, H, W]`` in -1…1 → scaled latents."""
    factor = cast(Any, network.module).factor
    pictures = torch.zeros(_BATCH, 3, factor * _HEIGHT, factor * _WIDTH)
    signature = Signature({"pictures": pictures}, {"pictures": {0: "batch", 2: "height", 3: "width"}}, ["latents"])
    return translate(_Encode(network.module), network.places, signature)


def decoder_graph(network: Network) -> bytes:
    """Scaled latents ``[B, C, h, w]`` → images, about -1…1."""
    latents = torch.zeros(_BATCH, cast(Any, network.module).latent_channels, _HEIGHT, _WIDTH)
    signature = Signature({"latents": latents}, {"latents": {0: "batch", 2: "height", 3: "width"}}, ["pictures"])
    return translate(_Decode(network.module), network.places, signature)


def text_graph(network: Network, *, projected: bool) -> bytes:
    """Token ids ``[B, n]`` and ``clip_skip`` ``[1]`` → ``[B, n, D]``, and ``[B, P]`` where it projects."""
    ids = torch.ones(_BATCH, 7, dtype=torch.int64)
    signature = Signature(
        {"ids": ids, "skip": torch.ones(1, dtype=torch.int64)},
        {"ids": {0: "batch", 1: "tokens"}},
        ["hidden", "pooled"] if projected else ["hidden"],
    )
    return translate(_Text(network.module), network.places, signature)


def safety_graph(network: Network, crop: int) -> bytes:
    """Squares ``[N, 3, crop, crop]`` → cosines less thresholds: special-care concepts, the others."""
    signature = Signature(
        {"pixels": torch.zeros(_BATCH, 3, crop, crop)}, {"pixels": {0: "batch"}}, ["special", "concepts"]
    )
    return translate(_Safety(network.module), network.places, signature)
