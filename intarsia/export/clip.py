"""CLIP's two towers (Radford et al. 2021) as plain networks, parameter names as in transformers.

The torch backend runs transformers' own; these are for export, which its masks and collected outputs would hinder. A
test compares the two. :mod:`intarsia.models.clip_config` reads their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ClipImage", "ClipSafety", "ClipText"]


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """``[B, n, D]`` → the same shape."""
        query = self._heads(self.q_proj(x))
        key = self._heads(self.k_proj(x))
        value = self._heads(self.v_proj(x))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)

        joined = attended.transpose(1, 2).flatten(2)
        out: Tensor = self.out_proj(joined)
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """``[B, n, D]`` → ``[B, heads, n, d]``."""
        heads: Tensor = x.unflatten(2, (self.heads, -1))  # type: ignore[no-untyped-call]
        return heads.transpose(1, 2)


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.quick = activation == "quick_gelu"
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x)
        out: Tensor = self.fc2(x)
        return out


class _Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = int(config["hidden_size"])
        inner = int(config["intermediate_size"])
        heads = int(config["num_attention_heads"])
        eps = float(config.get("layer_norm_eps", 1e-5))
        activation = config.get("hidden_act", "quick_gelu")

        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.layer_norm2 = nn.LayerNorm(width, eps)
        self.self_attn = _SelfAttention(width, heads)
        self.mlp = _Mlp(width, inner, activation)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        count = int(config["num_hidden_layers"])
        self.layers = nn.ModuleList(_Layer(config) for _ in range(count))

    def forward(self, x: Tensor, causal: bool) -> list[Tensor]:
        """The embeddings and the output of every layer."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], causal))
        return states


class _TextEmbeddings(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = int(config["hidden_size"])
        tokens = int(config["vocab_size"])
        positions = int(config["max_position_embeddings"])
        self.token_embedding = nn.Embedding(tokens, width)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, ids: Tensor, extra: Tensor) -> Tensor:
        """Ids ``[B, n]``; -1, -2, … are the rows of ``extra`` ``[m, D]``, which has one at least."""
        is_extra = ids < 0
        own: Tensor = self.token_embedding(ids.clamp(min=0))
        others = F.embedding((-1 - ids).clamp(min=0), extra.to(own.dtype))
        tokens = torch.where(is_extra[:, :, None], others, own)
        positions = self.position_embedding.weight[: ids.shape[1]]
        return tokens + positions


class ClipText(nn.Module):
    """A text encoder; :class:`intarsia.models.text.TextEncoders` says what ``clip_skip`` and ``penultimate`` mean."""

    def __init__(self, config: Mapping[str, Any], *, penultimate: bool, projected: bool) -> None:
        super().__init__()
        width = int(config["hidden_size"])
        eps = float(config.get("layer_norm_eps", 1e-5))
        self.penultimate = penultimate
        self.end = int(config.get("eos_token_id", 49407))

        self.embeddings = _TextEmbeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(width, eps)
        self.text_projection: nn.Linear | None = None
        if projected:
            pooled_width = int(config.get("projection_dim", 512))
            self.text_projection = nn.Linear(width, pooled_width, bias=False)

    def forward(self, ids: Tensor, skip: Tensor, extra: Tensor) -> tuple[Tensor, ...]:
        """``[B, n, D]``, and ``[B, P]`` where it projects.

        Args:
            ids: ``[B, n]``; -1, -2, … are the rows of ``extra``.
            skip: ``clip_skip`` ``[1]``, int64 as the ids.
            extra: vectors of embeddings ``[m, D]``, one at least.
        """
        states = self.encoder(self.embeddings(ids, extra), True)
        if self.penultimate:
            skip = skip.clamp(min=2)
        index = len(states) - skip
        hidden = torch.stack(states).index_select(0, index)[0]
        if not self.penultimate:
            hidden = self.final_layer_norm(hidden)
        hidden = hidden.float()

        if self.text_projection is None:
            return (hidden,)
        return hidden, self._pooled(ids, states[-1], self.text_projection)

    def _pooled(self, ids: Tensor, last: Tensor, projection: nn.Linear) -> Tensor:
        """The last layer's output ``[B, n, D]`` at the end token, projected: ``[B, P]``."""
        # old configs have 2 although the end token has the highest id (huggingface/transformers pull 24773)
        is_end = ids if self.end == 2 else (ids == self.end).int()
        position = is_end.argmax(dim=1)
        index = position[:, None, None].expand(-1, 1, last.shape[2])
        hidden = last.gather(1, index)[:, 0]
        pooled: Tensor = projection(self.final_layer_norm(hidden))
        return pooled.float()


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = int(config["hidden_size"])
        patch = int(config["patch_size"])
        patches_per_side = int(config["image_size"]) // patch
        positions = 1 + patches_per_side**2

        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, pixels: Tensor) -> Tensor:
        grid = self.patch_embedding(pixels)
        patches = grid.flatten(2).transpose(1, 2)
        # len() would make the batch a constant of the graph
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([first, patches], dim=1)
        return tokens + self.position_embedding.weight


class _Vision(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = int(config["hidden_size"])
        eps = float(config.get("layer_norm_eps", 1e-5))
        self.embeddings = _VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(width, eps)

    def states(self, pixels: Tensor) -> list[Tensor]:
        """What each layer takes, and what the last one gives."""
        embeddings = self.pre_layrnorm(self.embeddings(pixels))
        states: list[Tensor] = self.encoder(embeddings, False)
        return states

    def forward(self, pixels: Tensor) -> Tensor:
        class_token = self.states(pixels)[-1][:, 0]
        pooled: Tensor = self.post_layernorm(class_token)
        return pooled


class ClipImage(nn.Module):
    """The image encoder of an IP adapter.

    Args:
        penultimate: it gives the last layer's inputs, which a resampler takes, and not the image's embedding.
    """

    def __init__(self, config: Mapping[str, Any], *, penultimate: bool) -> None:
        super().__init__()
        self.penultimate = penultimate
        self.patches = 1 + (int(config["image_size"]) // int(config["patch_size"])) ** 2
        self.vision_model = _Vision(config)
        self.visual_projection = nn.Linear(int(config["hidden_size"]), int(config["projection_dim"]), bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """``[1, 3, size, size]`` → ``[1, n, H]`` of the class token and the patches, or the embedding ``[1, P]``."""
        if self.penultimate:
            return self.vision_model.states(pixels)[-2]
        out: Tensor = self.visual_projection(self.vision_model(pixels))
        return out


class ClipSafety(nn.Module):
    """A safety checker's network (:mod:`intarsia.models.safety`)."""

    def __init__(self, vision: Mapping[str, Any], width: int, concepts: int, special: int) -> None:
        super().__init__()
        self.vision_model = _Vision(vision)
        self.visual_projection = nn.Linear(int(vision["hidden_size"]), width, bias=False)
        self.concept_embeds = nn.Parameter(torch.empty(concepts, width))
        self.special_care_embeds = nn.Parameter(torch.empty(special, width))
        self.concept_embeds_weights = nn.Parameter(torch.empty(concepts))
        self.special_care_embeds_weights = nn.Parameter(torch.empty(special))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, 3, crop, crop]`` → cosines less thresholds: special-care concepts ``[N, 3]``, others ``[N, 17]``."""
        projected = self.visual_projection(self.vision_model(pixels))
        embedding = F.normalize(projected)

        special_cosines = embedding @ F.normalize(self.special_care_embeds).T
        special = special_cosines - self.special_care_embeds_weights

        cosines = embedding @ F.normalize(self.concept_embeds).T
        others = cosines - self.concept_embeds_weights
        return special, others
