"""The tokenizers and text encoders of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.checkpoints.stored import Padding, StoredModel, StoredNetwork, stored_text_folders
from intarsia.errors import WeightsError, one_line
from intarsia.models.clip_config import is_projected, read_text_shape
from intarsia.models.clip_vocabulary import tokens_of
from intarsia.models.lora import Additions
from intarsia.models.lora_torch import folding
from intarsia.models.text import TextEncoders, TextTower
from intarsia.models.weight_files import check_size, fill, read_network, tensor_shapes

_PREFIX = "text_model."


def import_encoders() -> None:
    """Import transformers' CLIP, which takes longer than importing torch and is put off until a model is opened."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401


def load_text(
    model: Path | StoredModel, device: torch.device, dtype: torch.dtype, additions: Additions | None = None
) -> TextEncoders:
    """Load a model's one or two text encoders and their tokenizers.

    Args:
        model: a diffusers folder with ``text_encoder``, ``tokenizer`` and perhaps ``text_encoder_2`` and
            ``tokenizer_2``, or what :func:`~intarsia.checkpoints.single_file.stored_model` gives of it.
        additions: what LoRAs add to the weights.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    additions = additions or Additions()
    encoders, tokenizers = _encoders(model)
    towers = []
    for name, stored in encoders.items():
        shape = read_text_shape(stored.source, stored.config)
        tokens = tokens_of(tokenizers[name], shape)
        towers.append(TextTower(tokens, _encoder(stored, device, dtype, additions)))
    return TextEncoders(towers, penultimate=len(encoders) > 1)


def _encoders(model: Path | StoredModel) -> tuple[dict[str, StoredNetwork], Mapping[str, Path | Padding]]:
    """Text encoders and tokenizers, by the names of the encoders' folders."""
    if isinstance(model, StoredModel):
        return model.text_encoders, model.tokenizers
    return stored_text_folders(model)


def text_shapes(model: StoredModel) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the tensors of a model's text encoders, by the names of their folders; no weight is read."""
    return {name: tensor_shapes(_built(stored)) for name, stored in model.text_encoders.items()}


def _encoder(stored: StoredNetwork, device: torch.device, dtype: torch.dtype, additions: Additions) -> nn.Module:
    model = _built(stored)
    state = read_network(stored, device, dtype, folding(additions, stored.name, device, dtype))
    model = fill(model, _fitting_names(state, set(tensor_shapes(model))), stored.file)

    # a constant that is not stored; built on the meta device, it holds nothing yet
    embeddings: Any = getattr(model, "text_model", model).embeddings
    positions = cast(Any, model.config).max_position_embeddings
    embeddings.position_ids = torch.arange(positions, device=device).expand(1, -1)
    return model


def _built(stored: StoredNetwork) -> nn.Module:
    """The text encoder that a config describes, on the meta device; its weights are only counted."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    path, raw = stored.source, stored.config
    shape = read_text_shape(path, raw)
    kind = CLIPTextModelWithProjection if is_projected(path, raw) else CLIPTextModel
    check_size(path, shape["num_hidden_layers"], len(stored.places))

    try:
        # attention is named here, so that nothing else can name it
        config = CLIPTextConfig(**shape, bos_token_id=None, pad_token_id=None, attn_implementation="sdpa")
        with torch.device("meta"):
            model: nn.Module = kind(config)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ImportError) as exc:
        raise WeightsError(f"{path}: not a CLIP text encoder's config: {one_line(exc)}") from exc
    return model


def _fitting_names(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Names as this version of transformers has them: with or without the ``text_model.`` of older ones."""
    fitting = {}
    for name, tensor in state.items():
        if name.endswith("embeddings.position_ids"):
            continue  # a constant that old files store

        bare = name.removeprefix(_PREFIX)
        if name not in wanted:
            name = bare if bare in wanted else _PREFIX + bare
        fitting[name] = tensor
    return fitting
