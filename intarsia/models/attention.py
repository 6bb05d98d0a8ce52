"""Attention over picture tokens and over a prompt, and the transformer built of both.

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
    """[B, C, H, W] → [B, H*W, C]; a view where ``x`` is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def feature_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B, H*W, C] → [B, C, H, W] in channels_last memory; always a view."""
    batch, _, channels = tokens.shape
    return tokens.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """[B, T, parts*heads*d] → [parts, B, heads, T, d], a view."""
    batch, count, _ = x.shape
    return x.view(batch, count, parts, heads, -1).permute(2, 0, 3, 1, 4)


def _joined(heads: Tensor) -> Tensor:
    """[B, heads, T, d] → [B, T, heads*d]."""
    return heads.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Self-attention with one packed projection.

    The parameter ``qkv`` [3C, C] holds the rows of ``to_q``, ``to_k`` and ``to_v``, one below the other: one
    matrix product instead of three, and no second copy of the weights. State dicts keep the three published
    names: reading splits it, loading joins them. ``float8`` is that product in e4m3, which has taken the place of
    ``qkv`` then.
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
        """[B, T, C] → [B, T, C]; ``log_size`` [L, T] is added to the logits of each key (token merging).

        L divides B; samples ``i * B / L …`` have row i.
        """
        query, key, value = _heads(self._packed(x), 3, self.heads)
        if log_size is None:
            found = attend(query, key, value)
        else:
            found = _proportional(query, key, value, log_size)
        out: Tensor = self.to_out(_joined(found))
        return out

    def _packed(self, x: Tensor | Float8) -> Tensor:
        if isinstance(x, Tensor) and self.float8 is None:
            return F.linear(x, self.qkv)
        return cast(Tensor, cast(Float8Linear, self.float8)(x))


def _proportional(query: Tensor, key: Tensor, value: Tensor, log_size: Tensor) -> Tensor:
    """Attention to keys that stand for several tokens each (Bolya et al. 2023, section 3).

    The logarithm rides as one more column of the keys against a one in the queries. An attention mask would say
    the same and send the fast kernels away; those want heads of a multiple of eight, so all three are padded.
    """
    width = query.shape[3]
    room = (0, 8 - width % 8)
    query, key, value = F.pad(query, room), F.pad(key, room), F.pad(value, room)
    query[..., width] = 1
    added = (log_size * width**0.5).repeat_interleave(len(key) // len(log_size), 0)
    key[..., width] = added[:, None].to(key.dtype)
    return attend(query, key, value, scale=width**-0.5)[..., :width]


def _split_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    for packed, kind in (("qkv", "weight"), ("float8.weight", "weight"), ("float8.scale", "scale")):
        if prefix + packed in state:
            names = (prefix + name.replace("weight", kind) for name in SelfAttention.NAMES)
            state.update(zip(names, state.pop(prefix + packed).chunk(3), strict=True))


def _join_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    names = [prefix + name for name in SelfAttention.NAMES]
    # an incomplete set is left as it is, so that torch names what is missing
    if all(name in state for name in names):
        state[prefix + "qkv"] = torch.cat([state.pop(name) for name in names])


class Context(NamedTuple):
    """What transformers are told beside their tokens.

    Cross-attention looks at keys and values of all layers, side by side, computed once. What only cross-attention
    tells apart (the guided halves of a lane) is one sample of a feature map before the first, and ``halves`` behind it.

    Attributes:
        text: [B, n, K], of the prompt.
        image: [B, m, K], of an IP adapter's picture, the values times its scale; None without one.
        matchers: token merging of this evaluation, one for each resolution that merges; none merges nothing.
        halves: B over the samples that a feature map has before the first cross-attention.
    """

    text: Tensor
    image: Tensor | None = None
    matchers: Sequence[Matcher] = ()
    halves: int = 1

    def matcher(self, height: int, width: int) -> Matcher | None:
        """That of a feature map's size. Compared, not looked up: while a network is exported, sizes have no hash."""
        for matcher in self.matchers:
            if matcher.level.height == height and matcher.level.width == width:
                return matcher
        return None

    def repeated(self, x: Tensor, other: Tensor) -> Tensor:
        """``x`` with as many samples as ``other``: each once for each of its halves, where it is still one for all."""
        # halves first: while a network is exported, batches have no numbers
        if self.halves == 1 or len(x) == len(other):
            return x
        return _repeated(x, self.halves)

    def own_rows(self, emb: Tensor, x: Tensor) -> Tensor:
        """Those of ``emb`` [B, T], equal for all halves, that go with the samples of ``x``; a view."""
        if self.halves == 1 or len(x) == len(emb):
            return emb
        return emb[:: self.halves]


def _repeated(x: Tensor, times: int) -> Tensor:
    """[L, …] → [L*times, …], each sample beside its copies; feature maps in channels_last memory."""
    if x.ndim != 4:
        return x.repeat_interleave(times, 0)
    return x.permute(0, 2, 3, 1).repeat_interleave(times, 0).permute(0, 3, 1, 2)


class CrossAttention(nn.Module):
    """Attention of picture tokens to a prompt, whose keys and values were computed once (:meth:`key_value`).

    To a picture beside the prompt attention is paid separately, and added (Ye et al. 2023, section 3.2.2).
    ``columns`` says where this layer's keys and values lie in the packed context; the network sets it.
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
        """[B, n, D] → [B, n, 2C]: keys, then values."""
        return torch.cat([self.to_k(hidden), self.to_v(hidden)], dim=2)

    def forward(self, x: Tensor | Float8, context: Context) -> Tensor:
        """Tokens [B or B/halves, T, C] and the packed context of all layers → [B, T, C]."""
        (query,) = _heads(context.repeated(self.to_q(x), context.text), 1, self.heads)
        found = self._look(query, context.text)
        if context.image is not None:
            found = found + self._look(query, context.image)
        out: Tensor = self.to_out(_joined(found))
        return out

    def _look(self, query: Tensor, packed: Tensor) -> Tensor:
        key, value = _heads(packed[:, :, self.columns], 2, self.heads)
        return attend(query, key, value)


class FeedForward(nn.Module):
    """[.., C] → [.., C] by way of 4C. The empty middle entry of ``net`` keeps the published names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GatedProjection(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor | Float8) -> Tensor:
        """[.., C] → [.., C]."""
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
        self, x: Tensor, delta: Tensor | None, context: Context, matcher: Matcher | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B or B/halves, T, C] and the packed context → tokens [B, T, C], and what is to be added to them.

        That last addition is left to the norm of the next block, as each addition is to the norm behind it: one
        pass over memory does both. ``delta`` is what the block before left to this one.
        """
        # tokens that merge are quantized when they have merged
        x, normed = self.norm1(x, delta, float8=self.float8 and matcher is None)
        x, normed = self.norm2(x, self._attend(normed, matcher.match(x) if matcher else None), float8=self.float8)
        found = self.attn2(normed, context)
        x, normed = self.norm3(context.repeated(x, found), found, float8=self.float8)
        return x, self.ff(normed)

    def _attend(self, x: Tensor | Float8, matching: Matching | None) -> Tensor:
        if matching is None:
            return cast(Tensor, self.attn1(x))
        return matching.unmerge(self.attn1(matching.merge(cast(Tensor, x)), matching.log_size))


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

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Feature map [B or B/halves, C, H, W] and the packed context → [B, C, H, W]."""
        height, width = x.shape[-2:]
        tokens = _project(self.proj_in, tokens_of(self.norm(x)))
        matcher = context.matcher(height, width)
        delta = None
        for block in self.transformer_blocks:
            tokens, delta = block(tokens, delta, context, matcher)
        if delta is not None:
            tokens = delta.add_(tokens)
        out = feature_map(_project(self.proj_out, tokens), height, width)
        return out + context.repeated(x, out)


def _project(layer: nn.Module, tokens: Tensor) -> Tensor:
    weight = cast(Tensor, layer.weight)
    return F.linear(tokens, weight.flatten(1), cast(Tensor, layer.bias))
