"""Attention over image tokens and over a prompt, and the transformer built of both.

Tokens are ``[B, H*W, C]``. In channels_last memory they are a view of the ``[B, C, H, W]`` feature map, so
that going in and out of a transformer copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.kernels.attention import attend
from intarsia.kernels.float8 import Float8
from intarsia.models.layers import Float8Linear, GatedProjection, GroupNorm, LayerNorm
from intarsia.models.merging import Matcher, Matching


def tokens_of(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` → ``[B, H*W, C]``; a view where ``x`` is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def feature_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """``[B, H*W, C]`` → ``[B, C, H, W]`` in channels_last memory; always a view."""
    batch, _, channels = tokens.shape
    channels_innermost = tokens.view(batch, height, width, channels)
    return channels_innermost.permute(0, 3, 1, 2)


def _heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """``[B, T, parts*heads*d]`` → [parts, B, heads, T, d], a view."""
    batch, count, _ = x.shape
    split = x.view(batch, count, parts, heads, -1)
    return split.permute(2, 0, 3, 1, 4)


def _joined(heads: Tensor) -> Tensor:
    """``[B, heads, T, d]`` → ``[B, T, heads*d]``."""
    return heads.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Self-attention with one packed projection.

    The parameter ``qkv`` ``[3C, C]`` holds the rows of ``to_q``, ``to_k`` and ``to_v``, one below the other: one
    matrix product instead of three, and no second copy of the weights. State dicts keep the three published
    names: reading splits it, loading joins them. ``float8`` is that product in e4m3; it then replaces ``qkv``.
    """

    NAMES = ("to_q.weight", "to_k.weight", "to_v.weight")

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Parameter(torch.empty(3 * channels, channels))
        nn.init.xavier_uniform_(self.qkv)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))
        self.float8: Float8Linear | None = None
        self.register_state_dict_post_hook(_split_qkv)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_join_qkv)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor | Float8, log_size: Tensor | None = None) -> Tensor:
        """``[B, T, C]`` → ``[B, T, C]``; ``log_size`` ``[L, T]`` is added to the logits of each key (token merging).

        L divides B; samples ``i * B / L …`` have row i.
        """
        qkv = self._packed(x)
        query, key, value = _heads(qkv, 3, self.heads)
        if log_size is None:
            attended = attend(query, key, value)
        else:
            attended = _proportional(query, key, value, log_size)
        out: Tensor = self.to_out(_joined(attended))
        return out

    def _packed(self, x: Tensor | Float8) -> Tensor:
        if isinstance(x, Tensor) and self.float8 is None:
            return F.linear(x, self.qkv)
        projection = cast(Float8Linear, self.float8)
        return cast(Tensor, projection(x))


def _proportional(query: Tensor, key: Tensor, value: Tensor, log_size: Tensor) -> Tensor:
    """Attention to keys that stand for several tokens each (Bolya et al. 2023, section 3).

    log(size) is appended to K, and 1 to Q, so Q·Kᵀ adds it. A mask would do the same, but disables the flash kernels.
    Those need heads whose width is a multiple of eight, so all three are padded.
    """
    width = query.shape[3]
    padding = (0, 8 - width % 8)
    query = F.pad(query, padding)
    key = F.pad(key, padding)
    value = F.pad(value, padding)

    samples_per_lane = len(key) // len(log_size)
    logits = log_size * width**0.5
    logits = logits.repeat_interleave(samples_per_lane, 0)
    query[..., width] = 1
    key[..., width] = logits[:, None].to(key.dtype)

    attended = attend(query, key, value, scale=width**-0.5)
    return attended[..., :width]


# Names of packed tensors, and what stands for ``weight`` in the names of their parts.
_PACKED = {"qkv": "weight", "float8.weight": "weight", "float8.scale": "scale"}


def _split_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    for packed, kind in _PACKED.items():
        if prefix + packed not in state:
            continue
        parts = state.pop(prefix + packed).chunk(3)
        for name, part in zip(SelfAttention.NAMES, parts, strict=True):
            part_name = name.replace("weight", kind)
            state[prefix + part_name] = part


def _join_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    names = [prefix + name for name in SelfAttention.NAMES]
    # an incomplete set is left as it is, so that torch names what is missing
    if all(name in state for name in names):
        parts = [state.pop(name) for name in names]
        state[prefix + "qkv"] = _together(parts)


def _together(parts: Sequence[Tensor]) -> Tensor:
    """The tensors, one below the other: the one that they are parts of, where they lie so in memory, or a copy."""
    whole = parts[0]._base
    if whole is not None and whole.ndim == 2:
        expected = whole.chunk(len(parts))
        pairs = zip(parts, expected, strict=False)
        lie_so = all(part.data_ptr() == other.data_ptr() and part.shape == other.shape for part, other in pairs)
        if len(expected) == len(parts) and lie_so:
            return whole
    return torch.cat(list(parts))


class AttentionInputs(NamedTuple):
    """Inputs of all transformers of an evaluation, beside their tokens.

    Keys and values of all cross-attentions lie side by side, computed once. The branches of guidance differ only by
    their prompts: before the first cross-attention a feature map has one sample for all branches of a lane, behind it
    one for each.

    Attributes:
        cross_kv: ``[B, n, K]``, keys and values of the prompts.
        image_kv: ``[B, m, K]``, those of an IP adapter's image, the values times its scale; None without one.
        matchers: token merging of this evaluation, one for each resolution that merges; none merges nothing.
        branches: B over the samples that a feature map has before the first cross-attention.
    """

    cross_kv: Tensor
    image_kv: Tensor | None = None
    matchers: Sequence[Matcher] = ()
    branches: int = 1

    def matcher(self, height: int, width: int) -> Matcher | None:
        """The matcher of a feature map's size. Compared, not looked up: during an export sizes have no hash."""
        for matcher in self.matchers:
            if matcher.level.height == height and matcher.level.width == width:
                return matcher
        return None

    def repeated(self, x: Tensor, other: Tensor) -> Tensor:
        """``x`` with as many samples as ``other``: repeated for each branch, if it is still one for all of them."""
        # branches first: during an export batches have no numbers
        if self.branches == 1 or len(x) == len(other):
            return x
        return _repeated(x, self.branches)

    def rows_of(self, x: Tensor, emb: Tensor) -> Tensor:
        """The rows of ``emb`` ``[B, T]``, equal for all branches, that belong to the samples of ``x``; a view."""
        if self.branches == 1 or len(x) == len(emb):
            return emb
        return emb[:: self.branches]


def _repeated(x: Tensor, times: int) -> Tensor:
    """``[L, …]`` → ``[L*times, …]``, each sample beside its copies; feature maps in channels_last memory."""
    if x.ndim != 4:
        return x.repeat_interleave(times, 0)
    channels_innermost = x.permute(0, 2, 3, 1)
    repeated = channels_innermost.repeat_interleave(times, 0)
    return repeated.permute(0, 3, 1, 2)


class CrossAttention(nn.Module):
    """Attention of image tokens to a prompt, whose keys and values were computed once (:meth:`key_value`).

    Attention to an IP adapter's image is computed separately, and added (Ye et al. 2023, section 3.2.2).
    ``columns`` says where this layer's keys and values lie among those of all layers; the network sets it.
    """

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.columns = slice(0, 2 * channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def key_value(self, hidden: Tensor) -> Tensor:
        """``[B, n, D]`` → ``[B, n, 2C]``: keys, then values."""
        return torch.cat([self.to_k(hidden), self.to_v(hidden)], dim=2)

    def forward(self, x: Tensor | Float8, inputs: AttentionInputs) -> Tensor:
        """Tokens ``[B or B/branches, T, C]`` → ``[B, T, C]``."""
        projected = inputs.repeated(self.to_q(x), inputs.cross_kv)
        (query,) = _heads(projected, 1, self.heads)

        attended = self._attend(query, inputs.cross_kv)
        if inputs.image_kv is not None:
            attended = attended + self._attend(query, inputs.image_kv)
        out: Tensor = self.to_out(_joined(attended))
        return out

    def _attend(self, query: Tensor, packed_kv: Tensor) -> Tensor:
        """Attention ``[B, heads, T, d]`` to this layer's part of ``[B, n, K]``."""
        own_kv = packed_kv[:, :, self.columns]
        key, value = _heads(own_kv, 2, self.heads)
        return attend(query, key, value)


class FeedForward(nn.Module):
    """``[.., C]`` → ``[.., C]`` by way of 4C. The empty middle entry of ``net`` keeps the published names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 4 * channels
        self.net = nn.Sequential(
            GatedProjection(channels, inner),
            nn.Identity(),
            nn.Linear(inner, channels),
        )

    def forward(self, x: Tensor | Float8) -> Tensor:
        """``[.., C]`` → ``[.., C]``."""
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, attention to the prompt, feed-forward; each behind a LayerNorm, each added.

    ``float8``: the products behind the norms, and behind the gate, are in e4m3 (:mod:`.float8`).
    """

    float8 = False

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn1 = SelfAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_channels, heads)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(
        self, x: Tensor, delta: Tensor | None, inputs: AttentionInputs, matcher: Matcher | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``[B or B/branches, T, C]`` → tokens ``[B, T, C]``, and what is to be added to them.

        That last addition is left to the norm of the next block, as each addition is to the norm behind it: one
        pass over memory does both. ``delta`` is what the block before left to this one.
        """
        # tokens that merge are quantized when they have merged
        x, normed = self.norm1(x, delta, float8=self.float8 and matcher is None)
        matching = matcher.match(x) if matcher else None

        delta = self._self_attention(normed, matching)
        x, normed = self.norm2(x, delta, float8=self.float8)

        delta = self.attn2(normed, inputs)
        x = inputs.repeated(x, delta)
        x, normed = self.norm3(x, delta, float8=self.float8)
        return x, self.ff(normed)

    def _self_attention(self, x: Tensor | Float8, matching: Matching | None) -> Tensor:
        if matching is None:
            return cast(Tensor, self.attn1(x))
        merged = matching.merge(cast(Tensor, x))
        attended = self.attn1(merged, matching.log_size)
        return matching.unmerge(attended)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, added to it.

    ``proj_in`` and ``proj_out`` are 1x1 convolutions in SD1.x and linear layers in SD2.x and SDXL. Both are
    the same product over tokens; only the shape of the stored weight differs.
    """

    def __init__(
        self, channels: int, context_channels: int, *, heads: int, depth: int, groups: int, linear: bool
    ) -> None:
        super().__init__()

        def projection() -> nn.Module:
            return nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = projection()
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_channels, heads) for _ in range(depth)
        )
        self.proj_out = projection()

    def forward(self, x: Tensor, inputs: AttentionInputs) -> Tensor:
        """Feature map ``[B or B/branches, C, H, W]`` → ``[B, C, H, W]``."""
        height, width = x.shape[-2:]
        matcher = inputs.matcher(height, width)

        tokens = tokens_of(self.norm(x))
        tokens = _project(self.proj_in, tokens)

        delta = None
        for block in self.transformer_blocks:
            tokens, delta = block(tokens, delta, inputs, matcher)
        if delta is not None:
            tokens = delta.add_(tokens)

        tokens = _project(self.proj_out, tokens)
        out = feature_map(tokens, height, width)
        return out + inputs.repeated(x, out)


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    weight = cast(Tensor, layer.weight)
    bias = cast(Tensor, layer.bias)
    return F.linear(tokens, weight.flatten(1), bias)
