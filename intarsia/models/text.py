"""Prompts to vectors: CLIP tokenizers, and text encoders by way of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from intarsia.errors import RequestError
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
        return self.model(self._on_device(ids), output_hidden_states=True)

    def _on_device(self, tokens: Tensor) -> Tensor:
        """Copied to the encoder's device; to a GPU through pinned memory, so that the host does not wait."""
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            return tokens.pin_memory().to(device, non_blocking=True)
        return tokens.to(device)

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
        most = min(tower.layers for tower in self.towers)
        if not 1 <= clip_skip <= most:
            raise RequestError("clip_skip", clip_skip, f"between 1 and {most} for this model")

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

    def _hidden_layer(self, tower: TextTower, out: Any, clip_skip: int) -> Tensor:
        if self.penultimate:
            return cast(Tensor, out.hidden_states[-max(clip_skip, 2)])
        if clip_skip == 1:
            return cast(Tensor, out.last_hidden_state)
        return tower.final_norm(out.hidden_states[-clip_skip])
