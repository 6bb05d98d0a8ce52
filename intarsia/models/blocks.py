"""Residual blocks and the levels of a UNet, down and up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.kernels.launch import runs_fused
from intarsia.kernels.residual import residual
from intarsia.models.attention import AttentionInputs, SpatialTransformer
from intarsia.models.layers import GroupNorm, convolve, packed


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, added to the input; the UNet's also take the timestep.

    ``columns`` says where this block's time projection lies in the packed embedding; the network sets it. The bias
    of the first convolution is in there too: both are the same for every place.
    """

    fused: bool | None = None

    def __init__(
        self, inputs: int, channels: int, *, groups: int, eps: float, time_channels: int | None = None
    ) -> None:
        super().__init__()
        self.columns = slice(0, channels)
        self.norm1 = GroupNorm(groups, inputs, eps=eps, silu=True)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, channels)
        self.norm2 = GroupNorm(groups, channels, eps=eps, silu=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, channels, 1) if inputs != channels else None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Feature map ``[B, inputs, H, W]`` and the packed time embedding ``[B, T]`` → ``[B, channels, H, W]``."""
        fused = runs_fused(self.fused, x, self.conv1.weight)
        h = self.norm1(x)
        if emb is not None:
            h = convolve(self.conv1, h)
            h = self.norm2(h, emb[:, self.columns])
        elif fused:
            h = convolve(self.conv1, h)
            bias = cast(Tensor, self.conv1.bias)
            h = self.norm2(h, bias.expand(len(x), -1))
        else:
            h = self.conv1(h)
            h = self.norm2(h)

        if fused:
            return self._joined_biases(h, x)
        return self._joined(h, x)

    def _joined(self, h: Tensor, x: Tensor) -> Tensor:
        h = self.conv2(h)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        h += x
        return h

    def _joined_biases(self, h: Tensor, x: Tensor) -> Tensor:
        """The same; the biases of both convolutions are added together with their outputs."""
        h = packed(convolve(self.conv2, h))
        bias = cast(Tensor, self.conv2.bias)
        if self.conv_shortcut is None:
            return residual(h, packed(x), bias, fused=True)

        shortcut = packed(convolve(self.conv_shortcut, x))
        return residual(h, shortcut, bias, self.conv_shortcut.bias, fused=True)


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution of stride 2.

    The UNet pads both sides by one; the KL autoencoder pads below and right only (``one_sided``).
    """

    def __init__(self, channels: int, *, one_sided: bool = False) -> None:
        super().__init__()
        self.one_sided = one_sided
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if one_sided else 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, ⌈H/2⌉, ⌈W/2⌉]`` (one-sided: ⌊⌋)."""
        if self.one_sided:
            x = F.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Nearest-neighbor enlargement to a given size, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, *size]``, twice the size where none is given."""
        target = size or (2 * x.shape[-2], 2 * x.shape[-1])
        enlarged = F.interpolate(x, size=target, mode="nearest")
        out: Tensor = self.conv(enlarged)
        return out


@dataclass(frozen=True, kw_only=True)
class Level:
    """Sizes and options of one level of a UNet, the same for all of its blocks."""

    channels: int
    layers: int
    time_channels: int
    context_channels: int
    heads: int
    depth: int
    """transformer blocks per attention layer"""
    attention: bool
    groups: int
    eps: float
    linear: bool

    def res_block(self, inputs: int) -> ResBlock:
        """A residual block of this level that takes ``inputs`` channels."""
        return ResBlock(inputs, self.channels, groups=self.groups, eps=self.eps, time_channels=self.time_channels)

    def transformer(self) -> SpatialTransformer:
        """One attention layer of this level."""
        return SpatialTransformer(
            self.channels,
            self.context_channels,
            heads=self.heads,
            depth=self.depth,
            groups=self.groups,
            linear=self.linear,
        )

    def transformers(self, count: int) -> nn.ModuleList:
        """``count`` attention layers, none where the level has no attention."""
        if not self.attention:
            return nn.ModuleList()
        return nn.ModuleList(self.transformer() for _ in range(count))


class DownBlock(nn.Module):
    """One level on the way down; pushes every feature map that the way up needs on ``skips``."""

    def __init__(self, level: Level, inputs: int, *, last: bool) -> None:
        super().__init__()
        self.attentions = level.transformers(level.layers)
        self.resnets = nn.ModuleList()
        for _ in range(level.layers):
            self.resnets.append(level.res_block(inputs))
            inputs = level.channels

        self.downsamplers = nn.ModuleList()
        if not last:
            self.downsamplers.append(Downsample(level.channels))

    def forward(self, x: Tensor, emb: Tensor, attention: AttentionInputs, skips: list[Tensor]) -> Tensor:
        """``[B, inputs, H, W]`` → ``[B, C, ⌈H/2⌉, ⌈W/2⌉]`` (the last level keeps its size).

        Before the first cross-attention ``x`` may be one for all branches of a lane (:class:`AttentionInputs`).
        """
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, attention.rows_of(x, emb))
            if len(self.attentions):
                x = self.attentions[i](x, attention)
            skips.append(x)

        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """Residual block, transformer, residual block, at the lowest resolution."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([level.transformer()])
        self.resnets = nn.ModuleList(level.res_block(level.channels) for _ in range(2))

    def forward(self, x: Tensor, emb: Tensor, attention: AttentionInputs) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, H, W]``; ``x`` may be one for all branches, as on the way down."""
        before, after = self.resnets
        x = before(x, attention.rows_of(x, emb))
        x = self.attentions[0](x, attention)
        out: Tensor = after(x, attention.rows_of(x, emb))
        return out


class UpBlock(nn.Module):
    """One level on the way up; pops the feature maps that the way down left on ``skips``."""

    def __init__(self, level: Level, inputs: int, skip_widths: list[int], *, last: bool) -> None:
        super().__init__()
        self.attentions = level.transformers(len(skip_widths))
        self.resnets = nn.ModuleList()
        for skip_width in skip_widths:
            self.resnets.append(level.res_block(inputs + skip_width))
            inputs = level.channels

        self.upsamplers = nn.ModuleList()
        if not last:
            self.upsamplers.append(Upsample(level.channels))

    def forward(self, x: Tensor, emb: Tensor, attention: AttentionInputs, skips: list[Tensor]) -> Tensor:
        """``[B, inputs, H, W]`` → ``[B, C, H', W']``, the size of the next map on ``skips``."""
        for i, resnet in enumerate(self.resnets):
            x = torch.cat([x, skips.pop()], dim=1)
            x = resnet(x, emb)
            if len(self.attentions):
                x = self.attentions[i](x, attention)

        for upsample in self.upsamplers:
            # odd sizes were rounded up on the way down, so twice the size can be one too many
            height, width = skips[-1].shape[-2:]
            x = upsample(x, (height, width))
        return x
