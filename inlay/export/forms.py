"""Layers of our networks in operations that ONNX Runtime's CPU kernels do in one go; the mathematics is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from inlay.models.attention import Context, CrossAttention, SelfAttention
from inlay.models.layers import GatedProjection

__all__ = ["cpu_forms"]


@contextmanager
def cpu_forms() -> Iterator[None]:
    """What is exported in here says attention and gates as below."""
    with (
        patch.object(SelfAttention, "forward", _self_attention),
        patch.object(CrossAttention, "forward", _cross_attention),
        patch.object(GatedProjection, "forward", _gated),
    ):
        yield


def _self_attention(layer: SelfAttention, x: Tensor) -> Tensor:
    query, key, value = (F.linear(x, weight) for weight in layer.qkv.chunk(3))
    out: Tensor = layer.to_out(_attend(query, key, value, layer.heads))
    return out


def _cross_attention(layer: CrossAttention, x: Tensor, context: Context) -> Tensor:
    key, value = context.text[:, :, layer.columns].chunk(2, dim=2)
    out: Tensor = layer.to_out(_attend(layer.to_q(x), key, value, layer.heads))
    return out


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[B, T, C], [B, n, C] twice → [B, T, C]: heads are taken apart inside, scores never leave the cache."""
    found: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query, key, value),
        {"num_heads": heads},
        dtype=query.dtype,
        shape=query.shape,
        version=1,
    )
    return found


def _gated(layer: GatedProjection, x: Tensor) -> Tensor:
    """Two products, so that their result need not be taken apart."""
    weights, biases = layer.proj.weight.chunk(2), layer.proj.bias.chunk(2)
    value, gate = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
    return value * F.gelu(gate)
