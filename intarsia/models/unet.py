"""The denoising UNet of Stable Diffusion 1.x, 2.x and XL (Rombach et al. 2022; Podell et al. 2023).

Parameter names are those of diffusers' ``UNet2DConditionModel``, so that its checkpoints load by name.

What does not change from step to step is computed beforehand, once per image or prompt, and handed in:

- :meth:`UNet.embed` turns the timesteps of *all* steps of an image into rows, one per step;
- :meth:`UNet.cross_kv` turns encoded prompts into the keys and values of every cross-attention.

Both give one tensor whose first dimension counts steps or prompts. To batch, pick rows and concatenate:
``torch.cat([emb_a[3:4], emb_b[7:8]])``, ``torch.cat([cross_kv_a, cross_kv_b])``. The columns of all layers are packed
side by side; the network sets which of them belong to a layer.

With guidance a lane has two branches, one for each of two prompts. Where sample and time embedding are the same for
both, the sample is handed in once, and everything before the first cross-attention is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.models.attention import AttentionInputs, CrossAttention
from intarsia.models.blocks import DownBlock, Level, MidBlock, ResBlock, UpBlock
from intarsia.models.embeddings import TimestepEmbedding, sinusoid
from intarsia.models.layers import GroupNorm
from intarsia.models.merging import LevelMerging, Matcher
from intarsia.models.unet_config import UNetConfig


class UNet(nn.Module):
    """Predicts the noise (or velocity) in latents.

    ``channels_last`` (``unet.to(memory_format=torch.channels_last)``) is the memory format it is written for;
    the default one works too.
    """

    fused: bool | None = None

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.block_out_channels[0]
        emb_width = config.time_embedding_dim

        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.time_embedding = TimestepEmbedding(width, emb_width)
        self.add_embedding = TimestepEmbedding(config.added_inputs, emb_width) if config.added_inputs else None

        self.down_blocks = nn.ModuleList(_down_blocks(config))
        self.mid_block = MidBlock(_level(config, -1)) if config.mid_block else None
        self.up_blocks = nn.ModuleList(_up_blocks(config))
        self.conv_norm_out = GroupNorm(config.norm_num_groups, width, eps=config.norm_eps, silu=True)
        self.conv_out = nn.Conv2d(width, config.out_channels, 3, padding=1)

        self._resnets = [module for module in self.modules() if isinstance(module, ResBlock)]
        self._cross = [module for module in self.modules() if isinstance(module, CrossAttention)]
        _assign_columns(self._resnets)
        _assign_columns(self._cross)

    def embed(self, timesteps: Tensor, pooled: Tensor | None = None, time_ids: Tensor | None = None) -> Tensor:
        """Time embeddings, projected for every residual block; its first convolution's bias is already added.

        Args:
            timesteps: ``[R]``, one per row; they may be fractional.
            pooled: ``[R, P]`` or ``[1, P]``, pooled text of the added conditioning (SDXL); None for SD1.x and SD2.x.
            time_ids: ``[R, 6]`` or ``[1, 6]``, original height and width, crop top and left, target height and width.

        Returns:
            ``[R, T]``; row r goes with step r. Rows of different images may be stacked for one evaluation. The
            bits of a row can depend on how many rows are computed together: make one call per image.
        """
        config = self.config
        dtype = self.conv_in.weight.dtype
        proj = sinusoid(
            timesteps,
            config.block_out_channels[0],
            cosine_first=config.flip_sin_to_cos,
            shift=config.freq_shift,
        )
        emb: Tensor = self.time_embedding(proj.to(dtype))
        if self.add_embedding is not None:
            added = self._added(pooled, time_ids)
            emb = emb + self.add_embedding(added.to(dtype))
        emb = F.silu(emb)

        projected = torch.cat([resnet.time_emb_proj(emb) for resnet in self._resnets], dim=1)
        biases = torch.cat([cast(Tensor, resnet.conv1.bias) for resnet in self._resnets])
        return projected + biases

    def _added(self, pooled: Tensor | None, time_ids: Tensor | None) -> Tensor:
        """``[R, P + 6*width]``: pooled text beside the embedded sizes (Podell et al. 2023, section 2.2)."""
        if pooled is None or time_ids is None:
            raise TypeError("this UNet has added conditioning: embed() needs pooled and time_ids")

        config = self.config
        sizes = sinusoid(
            time_ids.flatten(),
            cast(int, config.addition_time_embed_dim),
            cosine_first=config.flip_sin_to_cos,
            shift=config.freq_shift,
        )
        sizes = sizes.view(time_ids.shape[0], -1)
        sizes = sizes.to(pooled.dtype)

        rows = max(len(pooled), len(sizes))
        pooled = pooled.expand(rows, -1)
        sizes = sizes.expand(rows, -1)
        return torch.cat([pooled, sizes], dim=1)

    def cross_kv(self, hidden: Tensor) -> Tensor:
        """Keys and values of all cross-attentions for encoded prompts.

        Args:
            hidden: ``[B, n, D]``, the text encoder's output.

        Returns:
            ``[B, n, K]``, valid until the weights change.
        """
        return torch.cat([attention.key_value(hidden) for attention in self._cross], dim=2)

    def cross_attentions(self) -> list[CrossAttention]:
        """In the order in which diffusers counts them: down, up, then the middle."""
        layers: list[CrossAttention] = []
        for blocks in (self.down_blocks, self.up_blocks, self.mid_block):
            if blocks is not None:
                layers += [module for module in blocks.modules() if isinstance(module, CrossAttention)]
        return layers

    def attention_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Heights and widths of the feature maps that have attention, for latents of that size, largest first."""
        sizes: list[tuple[int, int]] = []
        config = self.config
        up_attention = config.up_attention[::-1]
        for i, depth in enumerate(config.transformer_layers):
            is_last = i == len(config.transformer_layers) - 1
            has_mid_block = is_last and config.mid_block
            if depth and (config.down_attention[i] or up_attention[i] or has_mid_block):
                sizes.append((height, width))

            height = (height + 1) // 2
            width = (width + 1) // 2
        return sizes

    def forward(
        self,
        sample: Tensor,
        emb: Tensor,
        cross_kv: Tensor,
        image_kv: Tensor | None = None,
        merging: Sequence[LevelMerging] = (),
    ) -> Tensor:
        """One evaluation.

        Args:
            sample: ``[B or L, in_channels, h, w]``, any size, in the dtype of the weights. L divides B: prompts
                ``i * B / L …`` (the branches of a lane) see sample i, and their rows of ``emb`` are equal.
            emb: ``[B, T]``, rows of :meth:`embed`.
            cross_kv: ``[B, n, K]``, rows of :meth:`cross_kv`.
            image_kv: ``[B, m, K]``, of an IP adapter's image (:meth:`intarsia.models.ip_adapter.IPAdapter.image_kv`).
            merging: token merging of self-attention, one for each resolution (:meth:`attention_sizes`) that merges.

        Returns:
            ``[B, out_channels, h, w]``.
        """
        matchers = [Matcher(level, self.fused) for level in merging]
        attention = AttentionInputs(cross_kv, image_kv, matchers, branches=len(cross_kv) // len(sample))

        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, emb, attention, skips)
        if self.mid_block is not None:
            x = self.mid_block(x, emb, attention)

        x = attention.repeated(x, cross_kv)
        skips = [attention.repeated(skip, cross_kv) for skip in skips]
        for block in self.up_blocks:
            x = block(x, emb, attention, skips)

        x = self.conv_norm_out(x)
        out: Tensor = self.conv_out(x)
        return out


def _level(config: UNetConfig, i: int) -> Level:
    return Level(
        channels=config.block_out_channels[i],
        layers=config.layers_per_block[i],
        time_channels=config.time_embedding_dim,
        context_channels=config.cross_attention_dim[i],
        heads=config.heads[i],
        depth=config.transformer_layers[i],
        attention=config.down_attention[i],
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        linear=config.linear_projection,
    )


def _down_blocks(config: UNetConfig) -> list[DownBlock]:
    count = len(config.block_out_channels)
    inputs = config.block_out_channels[0]
    blocks = []
    for i in range(count):
        level = _level(config, i)
        blocks.append(DownBlock(level, inputs, last=i == count - 1))
        inputs = level.channels
    return blocks


def _up_blocks(config: UNetConfig) -> list[UpBlock]:
    """The way up: every block takes the feature maps of the way down in reverse order."""
    count = len(config.block_out_channels)
    up_attention = config.up_attention[::-1]

    # the first convolution's, those of each level's layers, and of its downsampling
    skips = [config.block_out_channels[0]]
    for i, width in enumerate(config.block_out_channels):
        skips += [width] * config.layers_per_block[i]
        if i < count - 1:
            skips.append(width)

    inputs = config.block_out_channels[-1]
    blocks = []
    for i in reversed(range(count)):
        level = replace(_level(config, i), attention=up_attention[i])
        widths = [skips.pop() for _ in range(level.layers + 1)]
        blocks.append(UpBlock(level, inputs, widths, last=i == 0))
        inputs = level.channels
    return blocks


def _assign_columns(layers: Sequence[ResBlock] | Sequence[CrossAttention]) -> None:
    """Lay the layers' columns side by side."""
    start = 0
    for layer in layers:
        width = layer.columns.stop - layer.columns.start
        stop = start + width
        layer.columns = slice(start, stop)
        start = stop
