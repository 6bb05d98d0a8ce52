"""Other forms of the same convolutions, off by default: which of them a device is fast with is to be measured.

- ``padded``: channels that are no multiple of 8 (9 and 4 of a UNet, 3 and 4 of an autoencoder) are filled up with zero
  weights, as tensor cores want them;
- ``unfolded``: 3x3 convolutions of the UNet's small maps as one matrix product, which can be split along its sums;
- ``searched``: cuDNN measures its algorithms when a step is captured for the second time
  (:mod:`intarsia.backends.torch`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.errors import BackendError

__all__ = ["FORMS", "PaddedConvolution", "UnfoldedConvolution", "check_forms", "use_forms"]

FORMS = ("padded", "searched", "unfolded")
"""Forms that may be asked for, any of them together."""

_MULTIPLE = 8
# Largest map, in places of one sample, that is unfolded: 16x16.
_MOST_PLACES = 256


class PaddedConvolution(nn.Module):
    """A convolution whose channels, in and out, are filled up to a multiple of 8.

    ``weight`` and ``bias`` are views of the filled ones, under the names and with the shapes of ``layer``, so that what
    is written into them in place is what is computed with.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding = layer.stride, layer.padding
        self.outputs, self.inputs = layer.weight.shape[:2]
        outputs, self._inputs = _filled(self.outputs), _filled(self.inputs)
        fill = (0, 0, 0, 0, 0, self._inputs - self.inputs, 0, outputs - self.outputs)
        self._weight = F.pad(layer.weight.detach(), fill).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(self._weight[: self.outputs, : self.inputs], requires_grad=False)
        self._bias = None if layer.bias is None else F.pad(layer.bias.detach(), (0, outputs - self.outputs))
        self.bias = None if self._bias is None else nn.Parameter(self._bias[: self.outputs], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` → ``[B, outputs, H', W']``, channels_last."""
        return self.convolve(x, self._bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """The same without the bias."""
        return self.convolve(x, None)

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another bias, of the filled number of outputs."""
        filled = F.pad(x, (0, 0, 0, 0, 0, self._inputs - self.inputs))
        out = F.conv2d(filled, self._weight, bias, self.stride, self.padding)
        return out[:, : self.outputs].contiguous(memory_format=torch.channels_last)


class UnfoldedConvolution(nn.Module):
    """A convolution that is a matrix product where its result has at most 256 places, else as it was.

    Of a map in channels_last memory the neighborhoods are one copy, the weights none.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding = layer.stride, layer.padding
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` → ``[B, outputs, H', W']``."""
        return self.convolve(x, self.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """The same without the bias."""
        return self.convolve(x, None)

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another bias."""
        below, beside = (int(each) for each in self.padding)
        padded = F.pad(x, (beside, beside, below, below))
        rows, columns = self.weight.shape[2:]
        places = padded.unfold(2, rows, self.stride[0]).unfold(3, columns, self.stride[1])  # [B, C, H', W', kh, kw]
        count, height, width = len(x), *places.shape[2:4]
        if height * width > _MOST_PLACES:
            return F.conv2d(x, self.weight, bias, self.stride, self.padding)

        # channels innermost, in which order both lie in memory
        neighbors = places.permute(0, 2, 3, 4, 5, 1).reshape(count * height * width, -1)
        out = F.linear(neighbors, self.weight.permute(0, 2, 3, 1).reshape(len(self.weight), -1), bias)
        return out.view(count, height, width, -1).permute(0, 3, 1, 2)


def check_forms(asked: Sequence[str]) -> frozenset[str]:
    """The forms asked for.

    Raises:
        BackendError: one that there is not.
    """
    for each in asked:
        if each not in FORMS:
            raise BackendError(f"convolutions must be of {', '.join(FORMS)}, not {each!r}")
    return frozenset(asked)


def use_forms(unet: nn.Module, vae: nn.Module, forms: frozenset[str]) -> None:
    """Put other forms in the place of a model's convolutions; names and shapes of its weights stay as they are."""
    for network in (unet, vae):
        for parent, name, layer in _convolutions(network):
            if "padded" in forms and not _is_full(layer):
                setattr(parent, name, PaddedConvolution(layer))
            elif "unfolded" in forms and network is unet and layer.kernel_size == (3, 3):
                setattr(parent, name, UnfoldedConvolution(layer))


def _convolutions(network: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    """Convolutions of a network, each with what it is an attribute of."""
    every = [(module, *child) for module in network.modules() for child in module.named_children()]
    return [(parent, name, layer) for parent, name, layer in every if isinstance(layer, nn.Conv2d)]


def _is_full(layer: nn.Conv2d) -> bool:
    return all(count == _filled(count) for count in layer.weight.shape[:2])


def _filled(count: int) -> int:
    return -(-count // _MULTIPLE) * _MULTIPLE
