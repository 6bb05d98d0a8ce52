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

from intarsia.export.clip import ClipText
from intarsia.export.stored import Stored
from intarsia.export.token_matching import INPUTS, LevelMatcher, Tokens
from intarsia.export.translate import Signature, translate
from intarsia.models.attention import AttentionInputs
from intarsia.models.merging import Matcher
from intarsia.models.unet import UNet

__all__ = [
    "Network",
    "Wrapper",
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


class Wrapper(nn.Module):
    """An exported network: the network and the casts around it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.dtype = next(network.parameters()).dtype


class _Denoise(Wrapper):
    """One evaluation for the branches of a lane, which differ only by their prompts."""

    def __init__(self, network: UNet, levels: int = 0, reuse: int = 1, *, image: bool = False) -> None:
        super().__init__(network)
        self.merging = attending(network)[:levels]
        self.reuse = reuse
        self.image = image

    def forward(self, sample: Tensor, embeddings: Tensor, row: Tensor, context: Tensor, *others: Tensor) -> Tensor:
        unet = cast(UNet, self.network)
        emb = embeddings.index_select(0, row)[0]
        emb = emb.to(self.dtype)
        cross_kv = context.to(self.dtype)
        if self.image:
            image_kv = others[0].to(self.dtype)
            by_level: list[AttentionInputs] = [_LevelInputs(cross_kv, image_kv) for _ in unet.down_blocks]
        else:
            by_level = self._attention_inputs(cross_kv, row, others)

        x = sample.to(self.dtype)
        if unet.config.added_inputs:  # then embeddings differ too
            x = _repeated(x, context)
        x = unet.conv_in(x)

        skips = [x]
        for block, inputs in zip(unet.down_blocks, by_level, strict=True):
            x = block(x, emb, inputs, skips)
        if unet.mid_block is not None:
            x = unet.mid_block(x, emb, by_level[-1])

        x = _repeated(x, context)
        skips = [_repeated(skip, context) for skip in skips]
        for block, inputs in zip(unet.up_blocks, by_level[::-1], strict=True):
            x = block(x, emb, inputs, skips)

        x = unet.conv_norm_out(x)
        out: Tensor = unet.conv_out(x)
        return out.float()

    def _attention_inputs(self, cross_kv: Tensor, row: Tensor, tokens: Sequence[Tensor]) -> list[AttentionInputs]:
        """The inputs of the transformers of each resolution."""
        unet = cast(UNet, self.network)
        by_level: list[AttentionInputs] = [_LevelInputs(cross_kv) for _ in unet.down_blocks]
        for number, level in enumerate(self.merging):
            first = number * len(INPUTS)
            sources, destinations, *others = tokens[first : first + len(INPUTS)]
            row_sources = sources.index_select(0, row)[0]
            row_destinations = destinations.index_select(0, row)[0]

            row_tokens = Tokens(row_sources, row_destinations, *others)
            matcher = cast(Matcher, LevelMatcher(row_tokens, self.reuse))
            by_level[level] = _LevelInputs(cross_kv, matchers=[matcher])
        return by_level


class _LevelInputs(AttentionInputs):
    """The inputs of one resolution's transformers; sizes are unknown while a network is exported."""

    def matcher(self, height: int, width: int) -> Matcher | None:
        if not self.matchers:
            return None
        return self.matchers[0]


def _repeated(x: Tensor, context: Tensor) -> Tensor:
    """``[1 or B, C, H, W]`` → ``[B, C, H, W]``."""
    if x.shape[0] != 1:
        return x
    return x.expand(context.shape[0], -1, -1, -1)


def attending(unet: UNet) -> list[int]:
    """Resolutions that have attention, the highest first; 0 is the latents'."""
    side = 2 ** len(unet.down_blocks)
    levels = []
    for height, _ in unet.attention_sizes(side, side):
        shrunk = side // height
        levels.append(shrunk.bit_length() - 1)
    return levels


class _Embed(Wrapper):
    def forward(self, timesteps: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None) -> Tensor:
        unet = cast(UNet, self.network)
        embeddings = unet.embed(timesteps, pooled, time_ids)
        return embeddings.float()


class _CrossKv(Wrapper):
    def forward(self, hidden: Tensor) -> Tensor:
        unet = cast(UNet, self.network)
        cross_kv = unet.cross_kv(hidden.to(self.dtype))
        return cross_kv.float()


class _Encode(Wrapper):
    def forward(self, pictures: Tensor) -> Tensor:
        latents: Tensor = cast(Any, self.network).encode(pictures.to(self.dtype))
        return latents.float()


class _Decode(Wrapper):
    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = cast(Any, self.network).decode(latents.to(self.dtype))
        return pictures.float()


class _Text(Wrapper):
    def forward(self, ids: Tensor, skip: Tensor, extra: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.network(ids, skip, extra)
        return outputs


class _Safety(Wrapper):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.network(pixels)
        return outputs


# Examples have sides that differ, so that no dimension is taken for another, and are not square numbers of anything.
_BATCH, _ROWS, _TOKENS, _HEIGHT, _WIDTH = 2, 3, 77, 40, 48
# Sources and destinations differ from row to row.
_PICKED = 2
_IMAGE_TOKENS = 5
# Vectors of embeddings beside the table of tokens.
_EXTRA = 3
_IMAGE_DYNAMIC = {0: "batch", 2: "height", 3: "width"}
# SDXL's original size, crop and target size.
_TIME_IDS = 6


def unet_graphs(network: Network) -> Iterator[tuple[str, bytes]]:
    """``unet``, and the graphs that run before it: ``unet_embed`` once for all steps, ``unet_context`` for a prompt."""
    unet = cast(UNet, network.module)
    config = unet.config
    inputs = {"timesteps": torch.ones(_ROWS)}
    if config.added_inputs:
        time_width = _TIME_IDS * cast(int, config.addition_time_embed_dim)
        inputs["pooled"] = torch.zeros(1, config.added_inputs - time_width)
        inputs["time_ids"] = torch.zeros(1, _TIME_IDS)
    embed = Signature(inputs, {"timesteps": {0: "rows"}}, ["embeddings"])
    yield "unet_embed", translate(_Embed(unet), network.places, embed)

    hidden = torch.zeros(_BATCH, _TOKENS, config.cross_attention_dim[0])
    context = Signature({"hidden": hidden}, {"hidden": {0: "batch", 1: "tokens"}}, ["context"])
    yield "unet_context", translate(_CrossKv(unet), network.places, context)

    yield "unet", denoiser_graph(network)


def denoiser_graph(network: Network, levels: int = 0, reuse: int = 1, *, image: bool = False) -> bytes:
    """One evaluation of a UNet for the branches of a lane.

    Args:
        levels: how many resolutions merge tokens, weighted, from the highest that has attention downwards.
        reuse: how many attention blocks of a resolution share one matching.
        image: it takes keys and values of an IP adapter's image, ``image_context``, and merges no tokens.
    """
    unet = cast(UNet, network.module)
    embedding_width = sum(layer.columns.stop - layer.columns.start for layer in unet._resnets)
    kv_width = sum(layer.columns.stop - layer.columns.start for layer in unet._cross)

    # Sizes are embedded beside the timestep, and differ between the branches.
    embeddings_dynamic = {0: "rows"}
    embeddings_batch = 1
    if unet.config.added_inputs:
        embeddings_dynamic = {0: "rows", 1: "halves"}
        embeddings_batch = _BATCH

    inputs = {
        "sample": torch.zeros(1, unet.config.in_channels, _HEIGHT, _WIDTH),
        "embeddings": torch.zeros(_ROWS, embeddings_batch, embedding_width),
        "row": torch.zeros(1, dtype=torch.int64),
        "context": torch.zeros(_BATCH, _TOKENS, kv_width),
    }
    dynamic = {
        "sample": {2: "height", 3: "width"},
        "embeddings": embeddings_dynamic,
        "context": {0: "halves", 1: "tokens"},
    }
    if image:
        inputs["image_context"] = torch.zeros(_BATCH, _IMAGE_TOKENS, kv_width)
        dynamic["image_context"] = {0: "halves", 1: "image_tokens"}
    wrapper = _Denoise(unet, levels, reuse, image=image)
    for level in range(len(wrapper.merging)):
        _add_token_inputs(level, inputs, dynamic)
    return translate(wrapper, network.places, Signature(inputs, dynamic, ["output"]))


def _add_token_inputs(level: int, inputs: dict[str, Tensor], dynamic: dict[str, dict[int, str]]) -> None:
    """What a graph that merges tokens takes for one resolution."""
    for place, input_name in enumerate(INPUTS):
        name = f"{input_name}_{level}"
        # lengths are examples, and all differ
        length = 20 + 6 * place + 30 * level
        if place < _PICKED:
            inputs[name] = torch.zeros(_ROWS, length, dtype=torch.int64)
            dynamic[name] = {0: "rows", 1: name}
        else:
            inputs[name] = torch.zeros(length, dtype=torch.int64)
            dynamic[name] = {0: name}


def encoder_graph(network: Network) -> bytes:
    """Images ``[B, 3, H, W]`` in -1…1 → scaled latents."""
    factor = cast(Any, network.module).factor
    pictures = torch.zeros(_BATCH, 3, factor * _HEIGHT, factor * _WIDTH)
    signature = Signature({"pictures": pictures}, {"pictures": _IMAGE_DYNAMIC}, ["latents"])
    return translate(_Encode(network.module), network.places, signature)


def decoder_graph(network: Network) -> bytes:
    """Scaled latents ``[B, C, h, w]`` → images, about -1…1."""
    channels = cast(Any, network.module).latent_channels
    latents = torch.zeros(_BATCH, channels, _HEIGHT, _WIDTH)
    signature = Signature({"latents": latents}, {"latents": _IMAGE_DYNAMIC}, ["pictures"])
    return translate(_Decode(network.module), network.places, signature)


def text_graph(network: Network, *, projected: bool) -> bytes:
    """Token ids, ``clip_skip`` and vectors of embeddings → ``[B, n, D]``, and ``[B, P]`` where it projects.

    See :class:`intarsia.export.clip.ClipText`.
    """
    text = cast(ClipText, network.module)
    inputs = {
        "ids": torch.ones(_BATCH, 7, dtype=torch.int64),
        "skip": torch.ones(1, dtype=torch.int64),
        "extra": torch.zeros(_EXTRA, text.embeddings.token_embedding.embedding_dim),
    }
    outputs = ["hidden", "pooled"] if projected else ["hidden"]
    dynamic = {"ids": {0: "batch", 1: "tokens"}, "extra": {0: "extra"}}
    signature = Signature(inputs, dynamic, outputs)
    return translate(_Text(network.module), network.places, signature)


def safety_graph(network: Network, crop: int) -> bytes:
    """Squares ``[N, 3, crop, crop]`` → cosines less thresholds: special-care concepts, the others."""
    pixels = torch.zeros(_BATCH, 3, crop, crop)
    signature = Signature({"pixels": pixels}, {"pixels": {0: "batch"}}, ["special", "concepts"])
    return translate(_Safety(network.module), network.places, signature)
