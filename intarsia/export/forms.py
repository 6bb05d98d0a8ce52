"""Attention and gate layers in operations that ONNX Runtime runs as one kernel; the mathematics is the same.

What goes before the first cross-attention is computed once for both branches of guidance. So a batch of one meets keys
of two branches there, and is repeated for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.models.attention import AttentionInputs, CrossAttention, SelfAttention
from intarsia.models.layers import GatedProjection
from intarsia.models.unet import UNet

__all__ = ["use_export_forms"]


def use_export_forms(network: nn.Module, *, cpu: bool) -> None:
    """Replace a network's attention layers, and for CPUs its gates, by the forms below.

    In place: the forms have the parameters of the layers that they replace, under the same names.
    """
    forms = _CPU if cpu else _GPU
    replaced: dict[nn.Module, nn.Module] = {}
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            form = forms.get(type(layer))
            if form is None:
                continue
            with torch.device("meta"):  # what the constructor allocates is not used
                replaced[layer] = form(layer)
            setattr(module, name, replaced[layer])

    for unet in network.modules():
        if isinstance(unet, UNet):
            unet._cross = [cast(CrossAttention, replaced.get(layer, layer)) for layer in unet._cross]


class _SelfAttention(SelfAttention):
    """Shares the parameters of another layer."""

    def __init__(self, layer: SelfAttention) -> None:
        super().__init__(layer.qkv.shape[1], layer.heads)
        self.qkv = layer.qkv
        self.to_out = layer.to_out


class _CrossAttention(CrossAttention):
    """Shares the parameters of another layer."""

    def __init__(self, layer: CrossAttention) -> None:
        super().__init__(layer.to_q.in_features, layer.to_k.in_features, layer.heads)
        self.columns = layer.columns
        self.to_q = layer.to_q
        self.to_k = layer.to_k
        self.to_v = layer.to_v
        self.to_out = layer.to_out


class _CpuSelfAttention(_SelfAttention):
    """Self-attention as one MultiHeadAttention; with one head, the products of weights are made beforehand."""

    def forward(self, x: Any, log_size: Tensor | None = None) -> Tensor:
        """``[B, T, C]`` → the same shape; ``log_size`` ``[T]`` is added to the logits of each key."""
        q_weight, k_weight, v_weight = self.qkv.chunk(3)
        if self.heads > 1:
            query = F.linear(x, q_weight)
            key = F.linear(x, k_weight)
            value = F.linear(x, v_weight)
            attended = _attend(query, key, value, self.heads, log_size)
            out: Tensor = self.to_out(attended)
            return out

        # x Q (x K)ᵀ = x (Q Kᵀ) xᵀ, and likewise for the output projection behind V
        projection = _projection(self)
        query = F.linear(x, k_weight.T @ q_weight)
        value = F.linear(x, projection.weight @ v_weight)
        return _attend(query, x, value, 1, log_size) + projection.bias


class _CpuCrossAttention(_CrossAttention):
    """Cross-attention as one MultiHeadAttention; with one head, Q and the output projection are in keys and values."""

    def key_value(self, hidden: Tensor) -> Tensor:
        """With one head, Q is folded into K and the output projection into V."""
        key_weight: Tensor = self.to_k.weight
        value_weight: Tensor = self.to_v.weight
        if self.heads == 1:
            key_weight = self.to_q.weight.T @ key_weight
            value_weight = _projection(self).weight @ value_weight

        key = F.linear(hidden, key_weight)
        value = F.linear(hidden, value_weight)
        return torch.cat([key, value], dim=2)

    def forward(self, x: Any, inputs: AttentionInputs) -> Tensor:
        """``[1 or B, T, C]`` → ``[B, T, C]``."""
        own_kv = inputs.cross_kv[:, :, self.columns]
        key, value = own_kv.chunk(2, dim=2)
        if self.heads == 1:
            query = _repeated(x, key)
            projected = _attend(query, key, value, 1) + _projection(self).bias
            if inputs.image_kv is not None:
                # an adapter's keys and values are its own: nothing is folded into them
                attended = self._attend_image(_repeated(self.to_q(x), key), inputs.image_kv)
                projected = projected + F.linear(attended, _projection(self).weight)
            return projected

        query = _repeated(self.to_q(x), key)
        attended = _attend(query, key, value, self.heads)
        if inputs.image_kv is not None:
            attended = attended + self._attend_image(query, inputs.image_kv)
        out: Tensor = self.to_out(attended)
        return out

    def _attend_image(self, query: Tensor, image_kv: Tensor) -> Tensor:
        key, value = image_kv[:, :, self.columns].chunk(2, dim=2)
        return _attend(query, key, value, self.heads)


class _CpuGatedProjection(GatedProjection):
    """Two products, so that their result need not be split."""

    def __init__(self, layer: GatedProjection) -> None:
        super().__init__(layer.proj.in_features, layer.proj.out_features // 2)
        self.proj = layer.proj

    def forward(self, x: Any) -> Tensor:
        """``[.., C]`` → ``[.., width]``."""
        value_weight, gate_weight = self.proj.weight.chunk(2)
        value_bias, gate_bias = self.proj.bias.chunk(2)
        value = F.linear(x, value_weight, value_bias)
        gate = F.linear(x, gate_weight, gate_bias)
        return value * F.gelu(gate)


class _GpuSelfAttention(_SelfAttention):
    """Self-attention whose sizes of merged tokens are a mask; without them the layer's own."""

    def forward(self, x: Any, log_size: Tensor | None = None) -> Tensor:
        """``[B, T, C]`` → the same shape; ``log_size`` ``[T]`` is added to the logits of each key."""
        if log_size is None:
            return super().forward(x)

        qkv = F.linear(x, self.qkv)
        split = qkv.view(*x.shape[:2], 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mask = log_size[None, None, None].to(x.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

        joined = attended.transpose(1, 2).flatten(2)
        out: Tensor = self.to_out(joined)
        return out


class _GpuCrossAttention(_CrossAttention):
    """The layer's own, which repeats a batch of one for the branches."""

    def forward(self, x: Any, inputs: AttentionInputs) -> Tensor:
        """``[1 or B, T, C]`` → ``[B, T, C]``."""
        return super().forward(_repeated(x, inputs.cross_kv), inputs)


def _projection(layer: SelfAttention | CrossAttention) -> nn.Linear:
    return cast(nn.Linear, layer.to_out[0])


def _repeated(x: Tensor, other: Tensor) -> Tensor:
    """A batch of one, as many times as ``other`` has samples; any other batch has as many already."""
    if x.shape[0] != 1:
        return x
    return x.expand(other.shape[0], -1, -1)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, log_size: Tensor | None = None) -> Tensor:
    """``[B, T, C]``, ``[B, n, C]`` twice → ``[B, T, C]``: heads are split inside, scores never leave the cache.

    ``log_size`` is one more column of the keys, as in :mod:`intarsia.models.attention`.
    """
    shape = query.shape
    head_width = shape[2] // heads
    scale = head_width**-0.5
    if log_size is not None:
        ones = torch.ones_like(log_size)
        unscaled = log_size / scale
        query = _with_column(query, ones, heads)
        key = _with_column(key, unscaled, heads)

    attended: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query, key, value),
        {"num_heads": heads, "scale": scale},
        dtype=query.dtype,
        shape=shape,
        version=1,
    )
    return attended


def _with_column(x: Tensor, column: Tensor, heads: int) -> Tensor:
    """``[B, T, heads*d]`` and ``[T]`` → ``[B, T, heads*(d + 1)]``."""
    split = x.view(*x.shape[:2], heads, -1)
    columns = column[None, :, None, None].expand(split.shape[0], -1, heads, -1)
    return torch.cat([split, columns], dim=3).flatten(2)


_Forms = Mapping[type[nn.Module], Any]
_CPU: _Forms = {
    SelfAttention: _CpuSelfAttention,
    CrossAttention: _CpuCrossAttention,
    GatedProjection: _CpuGatedProjection,
}
_GPU: _Forms = {SelfAttention: _GpuSelfAttention, CrossAttention: _GpuCrossAttention}
