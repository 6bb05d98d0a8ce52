"""The ``fp8`` precision of a UNet: the products behind its LayerNorms and gates in e4m3, all else as it was.

In each transformer block that is the packed projection of self-attention, the queries of cross-attention, and both
layers of the feed-forward: 16 of the 18 C² multiplications that a block's products have for each token.
Attention, its outgoing projections, convolutions, embeddings, first and last layers stay in half precision.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn

from intarsia.errors import BackendError
from intarsia.execution import FP8
from intarsia.models.attention import TransformerBlock
from intarsia.models.layers import Float8Linear, GatedProjection
from intarsia.models.loading import Parts

__all__ = ["in_float8"]

# torch._scaled_mm needs inputs and outputs of a layer to be multiples of it.
_MULTIPLE = 16


def in_float8(parts: Parts, written: torch.dtype) -> Parts:
    """Quantize the UNet in place, layer by layer: each layer's half-precision weight is freed as it is replaced.

    Args:
        written: dtype that the device's products write.

    Returns:
        The same networks with their precision; a note counts the blocks that cannot be quantized.

    Raises:
        BackendError: no block can be quantized, or there is none.
    """
    blocks = [module for module in parts.unet.modules() if isinstance(module, TransformerBlock)]
    fitting = [block for block in blocks if block.norm1.weight.shape[0] % _MULTIPLE == 0]
    misfit = f"have channels that are not multiples of {_MULTIPLE}"
    if not fitting:
        raise BackendError(
            f"precision fp8 needs transformer blocks that it fits: {len(blocks)} of {len(blocks)} {misfit}; "
            "ask for precision standard"
        )

    for block in fitting:
        _quantize(block, written)

    notes: tuple[str, ...] = ()
    others = len(blocks) - len(fitting)
    if others:
        notes = (f"precision fp8: {others} of {len(blocks)} transformer blocks {misfit} and stayed as they were",)
    return replace(parts, precision=FP8, precision_notes=notes)


def _quantize(block: TransformerBlock, written: torch.dtype) -> None:
    self_attention, cross_attention, net = block.attn1, block.attn2, block.ff.net
    self_attention.float8 = Float8Linear(self_attention.qkv, None, written)
    self_attention.register_parameter("qkv", None)

    cross_attention.to_q = _converted(cross_attention.to_q, written)  # type: ignore[assignment]

    gated = cast(GatedProjection, net[0])
    gated.proj = _converted(gated.proj, written)  # type: ignore[assignment]
    net[2] = _converted(net[2], written)
    block.float8 = True


def _converted(layer: nn.Module, written: torch.dtype) -> Float8Linear:
    linear = cast(nn.Linear, layer)
    return Float8Linear(linear.weight, linear.bias, written)
