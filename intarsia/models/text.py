"""Prompts to vectors: CLIP tokenizers, and text encoders by way of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from intarsia.errors import RequestError
from intarsia.models.prompt_chunks import Chunk
from intarsia.models.tokens import ClipTokens


@dataclass(frozen=True)
class TextEncoding:
    """Encoded prompts.

    Attributes:
        hidden: ``[B, n, D]``, one vector per token; what ``UNet.cross_kv`` takes.
        pooled: ``[B, P]``, one vector per prompt (SDXL), else None.
        warnings: one sentence for each prompt that was cut.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    warnings: tuple[str, ...] = ()

    def zeros(self) -> TextEncoding:
        """The same shape, all zeros: SDXL's absent negative prompt (``force_zeros_for_empty_prompt``)."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return TextEncoding(torch.zeros_like(self.hidden), pooled)


@dataclass(frozen=True)
class TextTower:
    """One tokenizer with its text encoder (transformers' ``CLIPTextModel`` or ``…WithProjection``)."""

    tokens: ClipTokens
    model: nn.Module

    @property
    def layers(self) -> int:
        """Transformer layers of the encoder."""
        return int(cast(Any, self.model.config).num_hidden_layers)

    @property
    def width(self) -> int:
        """Length of each token's vector."""
        return int(cast(Any, self.model.config).hidden_size)

    def read(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
        """Padded token ids ``[B, n]``, and a warning for every prompt that was cut."""
        encoded = [self.tokens.encode(prompt) for prompt in prompts]
        ids = np.concatenate([prompt_ids for prompt_ids, _ in encoded])
        warnings: list[str] = []
        for _, prompt_warnings in encoded:
            warnings += prompt_warnings
        return torch.from_numpy(ids), tuple(warnings)

    def run(self, ids: Tensor) -> Any:
        """The encoder's output with all hidden states, for :meth:`read`'s ids."""
        device = next(self.model.parameters()).device
        return self.model(_on_device(ids, device), output_hidden_states=True)

    def run_chunk(self, chunk: Chunk) -> Any:
        """The same for one chunk of a prompt, with its embeddings."""
        ids = torch.from_numpy(chunk.ids)
        with self._vectors_in_place(chunk.vectors):
            return self.run(ids)

    @contextmanager
    def _vectors_in_place(self, vectors: Sequence[tuple[int, np.ndarray]]) -> Iterator[None]:
        """While it lasts, embeddings take the place of what the table of tokens has at their positions."""
        if not vectors:
            yield
            return

        def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            replaced = output.clone()
            for place, values in vectors:
                rows = _on_device(torch.from_numpy(values), output.device)
                replaced[:, place : place + len(rows)] = rows
            return replaced

        inner: Any = getattr(self.model, "text_model", self.model)
        hook = inner.embeddings.token_embedding.register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The encoder's last LayerNorm."""
        # transformers 5 keeps the layers directly in CLIPTextModel, earlier ones inside its text_model
        inner = getattr(self.model, "text_model", self.model)
        out: Tensor = cast(Any, inner).final_layer_norm(hidden)
        return out


class TextEncoders:
    """The text encoder of SD1.x and SD2.x, or the two of SDXL.

    ``clip_skip`` counts layers from the end, as hosted services do: 1 uses the last layer, 2 the one before
    it. (diffusers' parameter of that name is smaller by one, for SDXL by two.) SDXL was trained on the layer
    before the last, without the final norm, so that 1 and 2 mean the same there: layer ``max(clip_skip, 2)``
    from the end, in both encoders. SD1.x and SD2.x put the final norm behind whichever layer is used.
    """

    def __init__(self, towers: Sequence[TextTower], *, penultimate: bool) -> None:
        self.towers = tuple(towers)
        self.penultimate = penultimate

    @property
    def width(self) -> int:
        """Length of each vector of :attr:`TextEncoding.hidden`."""
        return sum(tower.width for tower in self.towers)

    def encode(self, prompts: Sequence[str], clip_skip: int = 1) -> TextEncoding:
        """Encode prompts; those longer than the tokenizer's limit (77) are cut, with a warning.

        Raises:
            RequestError: ``clip_skip`` is below 1 or above the number of the encoder's layers.
        """
        self._check(clip_skip)
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        warnings: list[str] = []
        with torch.no_grad():
            for tower in self.towers:
                ids, tower_warnings = tower.read(prompts)
                warnings += tower_warnings
                output = tower.run(ids)
                hidden.append(self._hidden_layer(tower, output, clip_skip))
                if pooled is None:
                    pooled = getattr(output, "text_embeds", None)

        side_by_side = torch.cat(hidden, dim=2)
        different_warnings = tuple(dict.fromkeys(warnings))
        return TextEncoding(side_by_side, pooled, different_warnings)

    def encode_chunks(self, chunks: Sequence[Sequence[Chunk]], clip_skip: int = 1) -> TextEncoding:
        """Encode one prompt of several chunks: their vectors one behind another, ``[1, chunks · n, D]``.

        Each chunk is encoded by itself, so always to the same bits. What is pooled is the first one.

        Args:
            chunks: of one prompt, for each encoder; equally many.

        Raises:
            RequestError: as for :meth:`encode`.
        """
        self._check(clip_skip)
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        with torch.no_grad():
            for tower, own_chunks in zip(self.towers, chunks, strict=True):
                outputs = [tower.run_chunk(chunk) for chunk in own_chunks]
                layers = [self._hidden_layer(tower, output, clip_skip) for output in outputs]
                weighted = [_weighted(layer, chunk) for layer, chunk in zip(layers, own_chunks, strict=True)]
                hidden.append(torch.cat(weighted, dim=1))
                if pooled is None:
                    pooled = getattr(outputs[0], "text_embeds", None)
        return TextEncoding(torch.cat(hidden, dim=2), pooled)

    def _check(self, clip_skip: int) -> None:
        most = min(tower.layers for tower in self.towers)
        if not 1 <= clip_skip <= most:
            raise RequestError("clip_skip", clip_skip, f"between 1 and {most} for this model")

    def _hidden_layer(self, tower: TextTower, out: Any, clip_skip: int) -> Tensor:
        if self.penultimate:
            return cast(Tensor, out.hidden_states[-max(clip_skip, 2)])
        if clip_skip == 1:
            return cast(Tensor, out.last_hidden_state)
        return tower.final_norm(out.hidden_states[-clip_skip])


def _weighted(hidden: Tensor, chunk: Chunk) -> Tensor:
    """A chunk's encoding ``[1, n, D]``, each vector times its token's weight, then all of it back to its mean.

    Where weights of both signs leave no mean, it stays as it is then. The host does not wait for the device.
    """
    if chunk.weights is None:
        return hidden
    weights = _on_device(torch.from_numpy(chunk.weights), hidden.device)
    values = hidden.float()
    weighted = values * weights[:, None]

    factor = values.mean() / weighted.mean()
    factor = torch.where(factor.isfinite(), factor, 1.0)
    return (weighted * factor).to(hidden.dtype)


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copied to a device; to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
