"""Other forms of the same convolutions, off by default: for measuring which of them is fast on a device.

- ``padded``: channels that are no multiple of 8 (9 and 4 of a UNet, 3 and 4 of an autoencoder) are padded with zero
  weights, so that tensor cores take them;
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
# Positions of the largest feature map that is unfolded: 16x16.
_MOST_POSITIONS = 256


class PaddedConvolution(nn.Module):
    """A convolution whose channels, in and out, are padded to a multiple of 8.

    ``weight`` and ``bias`` are views of the padded ones, with the names and shapes of ``layer``, so that values written
    into them in place are computed with.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.stride = layer.stride
        self.padding = layer.padding
        self.outputs, self.inputs = layer.weight.shape[:2]
        self._more_inputs = _padded(self.inputs) - self.inputs
        more_outputs = _padded(self.outputs) - self.outputs

        # from the last dimension to the first: [outputs, inputs, kh, kw]
        weight = F.pad(layer.weight.detach(), (0, 0, 0, 0, 0, self._more_inputs, 0, more_outputs))
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(self._weight[: self.outputs, : self.inputs], requires_grad=False)

        self._bias: Tensor | None = None
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            self._bias = F.pad(layer.bias.detach(), (0, more_outputs))
            self.bias = nn.Parameter(self._bias[: self.outputs], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` → ``[B, outputs, H', W']``, channels_last."""
        return self.convolve(x, self._bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """The same without the bias."""
        return self.convolve(x, None)

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another bias, of the padded number of outputs."""
        padded = F.pad(x, (0, 0, 0, 0, 0, self._more_inputs))
        out = F.conv2d(padded, self._weight, bias, self.stride, self.padding)
        return out[:, : self.outputs].contiguous(memory_format=torch.channels_last)


class UnfoldedConvolution(nn.Module):
    """A convolution computed as a matrix product where its result has at most 256 positions, else as usual.

    With channels_last memory the neighborhoods are copied once, the weights not at all.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.stride = layer.stride
        self.padding = layer.padding
        self.weight = layer.weight
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` → ``[B, outputs, H', W']``."""
        return self.convolve(x, self.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """The same without the bias."""
        return self.convolve(x, None)

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with another bias."""
        vertical, horizontal = (int(side) for side in self.padding)
        padded = F.pad(x, (horizontal, horizontal, vertical, vertical))

        # [B, C, H', W', kh, kw]
        rows, columns = self.weight.shape[2:]
        windows = padded.unfold(2, rows, self.stride[0])
        windows = windows.unfold(3, columns, self.stride[1])

        count = len(x)
        height, width = windows.shape[2:4]
        if height * width > _MOST_POSITIONS:
            return F.conv2d(x, self.weight, bias, self.stride, self.padding)

        # channels innermost: the order of both in memory
        neighborhoods = windows.permute(0, 2, 3, 4, 5, 1)
        neighborhoods = neighborhoods.reshape(count * height * width, -1)
        weight = self.weight.permute(0, 2, 3, 1)
        weight = weight.reshape(len(weight), -1)

        out = F.linear(neighborhoods, weight, bias)
        out = out.view(count, height, width, -1)
        return out.permute(0, 3, 1, 2)


def check_forms(forms: Sequence[str]) -> frozenset[str]:
    """The same as a set.

    Raises:
        BackendError: an unknown form.
    """
    for form in forms:
        if form not in FORMS:
            raise BackendError(f"convolutions must be of {', '.join(FORMS)}, not {form!r}")
    return frozenset(forms)


def use_forms(unet: nn.Module, vae: nn.Module, forms: frozenset[str]) -> None:
    """Replace a model's convolutions by other forms; names and shapes of its weights stay the same."""
    for network in (unet, vae):
        for parent, name, layer in _convolutions(network):
            if "padded" in forms and not _is_full(layer):
                setattr(parent, name, PaddedConvolution(layer))
            elif "unfolded" in forms and network is unet and layer.kernel_size == (3, 3):
                setattr(parent, name, UnfoldedConvolution(layer))


def _convolutions(network: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    """(parent module, attribute name, convolution) of a network's convolutions."""
    convolutions = []
    for parent in network.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Conv2d):
                convolutions.append((parent, name, layer))
    return convolutions


def _is_full(layer: nn.Conv2d) -> bool:
    return all(count == _padded(count) for count in layer.weight.shape[:2])


def _padded(count: int) -> int:
    return -(-count // _MULTIPLE) * _MULTIPLE
