"""Layers of our networks in operations that ONNX Runtime does in one go, or not at all; the mathematics is the same.

Of a lane's two halves, what goes before the first attention to the prompt is computed once. So a batch of one meets
keys of two halves there, and is repeated for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.models.attention import AttentionInputs, CrossAttention, SelfAttention
from intarsia.models.layers import GatedProjection

__all__ = ["export_forms"]


@contextmanager
def export_forms(*, cpu: bool) -> Iterator[None]:
    """What is exported in here says attention, and for CPUs gates, as below."""
    with ExitStack() as stack:
        for kind, name, form in _CPU if cpu else _GPU:
            stack.enter_context(patch.object(kind, name, form))
        yield


def _out(layer: SelfAttention | CrossAttention) -> nn.Linear:
    return cast(nn.Linear, layer.to_out[0])


def _self_attention(layer: SelfAttention, x: Tensor, log_size: Tensor | None = None) -> Tensor:
    """``log_size`` [T] is added to the logits of each key."""
    weights, out = layer.qkv.chunk(3), _out(layer)
    if layer.heads > 1:
        query, key, value = (F.linear(x, weight) for weight in weights)
        found: Tensor = layer.to_out(_attend(query, key, value, layer.heads, log_size))
        return found
    # a single head's products of weights can be made beforehand: x Q (x K)ᵀ = x (Q Kᵀ) xᵀ, and likewise behind it
    query = F.linear(x, weights[1].T @ weights[0])
    return _attend(query, x, F.linear(x, out.weight @ weights[2]), 1, log_size) + out.bias


def _key_value(layer: CrossAttention, hidden: Tensor) -> Tensor:
    """A single head's take the query's projection along, and the one behind."""
    weights = [layer.to_k.weight, layer.to_v.weight]
    if layer.heads == 1:
        weights = [layer.to_q.weight.T @ weights[0], _out(layer).weight @ weights[1]]
    return torch.cat([F.linear(hidden, weight) for weight in weights], dim=2)


def _cross_attention(layer: CrossAttention, x: Tensor, inputs: AttentionInputs) -> Tensor:
    key, value = inputs.cross_kv[:, :, layer.columns].chunk(2, dim=2)
    if layer.heads == 1:
        return _attend(_repeated(x, key), key, value, 1) + _out(layer).bias
    out: Tensor = layer.to_out(_attend(_repeated(layer.to_q(x), key), key, value, layer.heads))
    return out


def _repeated(x: Tensor, others: Tensor) -> Tensor:
    """A batch of one for as many as there are of others; every other batch is as many already."""
    return x.expand(others.shape[0], -1, -1) if x.shape[0] == 1 else x


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, log_size: Tensor | None = None) -> Tensor:
    """[B, T, C], [B, n, C] twice → [B, T, C]: heads are taken apart inside, scores never leave the cache.

    Sizes ride as one more column of the keys, as in :mod:`intarsia.models.attention`.
    """
    shape, options = query.shape, {"num_heads": heads, "scale": (query.shape[2] // heads) ** -0.5}
    if log_size is not None:
        one, more = torch.ones_like(log_size), log_size / options["scale"]
        query, key = (_with_column(x, column, heads) for x, column in ((query, one), (key, more)))
    found: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention", (query, key, value), options, dtype=query.dtype, shape=shape, version=1
    )
    return found


def _with_column(x: Tensor, column: Tensor, heads: int) -> Tensor:
    """[B, T, heads*d] and [T] → [B, T, heads*(d + 1)]."""
    apart = x.view(*x.shape[:2], heads, -1)
    more = column[None, :, None, None].expand(apart.shape[0], -1, heads, -1)
    return torch.cat([apart, more], dim=3).flatten(2)


def _gated(layer: GatedProjection, x: Tensor) -> Tensor:
    """Two products, so that their result need not be taken apart."""
    weights, biases = layer.proj.weight.chunk(2), layer.proj.bias.chunk(2)
    value, gate = (F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
    return value * F.gelu(gate)


def _self_attention_gpu(layer: SelfAttention, x: Tensor, log_size: Tensor | None = None) -> Tensor:
    if log_size is None:
        return _SELF(layer, x)
    query, key, value = F.linear(x, layer.qkv).view(*x.shape[:2], 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=log_size[None, None, None].to(x.dtype))
    out: Tensor = layer.to_out(found.transpose(1, 2).flatten(2))
    return out


def _cross_attention_gpu(layer: CrossAttention, x: Tensor, inputs: AttentionInputs) -> Tensor:
    return _CROSS(layer, _repeated(x, inputs.cross_kv), inputs)


_Form = tuple[type[nn.Module], str, Callable[..., Any]]
_SELF, _CROSS = SelfAttention.forward, CrossAttention.forward
_CPU: tuple[_Form, ...] = (
    (SelfAttention, "forward", _self_attention),
    (CrossAttention, "forward", _cross_attention),
    (CrossAttention, "key_value", _key_value),
    (GatedProjection, "forward", _gated),
)
_GPU: tuple[_Form, ...] = (
    (SelfAttention, "forward", _self_attention_gpu),
    (CrossAttention, "forward", _cross_attention_gpu),
)
