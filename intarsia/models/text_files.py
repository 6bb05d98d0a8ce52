"""The tokenizers and text encoders of a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from intarsia.checkpoints.files import read_json
from intarsia.checkpoints.layout import COMPONENTS, find_weights
from intarsia.errors import WeightsError, one_line
from intarsia.models.clip_config import is_projected, read_text_shape
from intarsia.models.lora import Additions
from intarsia.models.text import TextEncoders, TextTower
from intarsia.models.tokens import load_tokens
from intarsia.models.weight_files import check_size, fill, read_tensors, tensor_shapes

_PREFIX = "text_model."


def import_encoders() -> None:
    """Import transformers' CLIP, which takes longer than importing torch and is put off until a model is opened."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401


def load_text(
    folder: Path, device: torch.device, dtype: torch.dtype, additions: Additions | None = None
) -> TextEncoders:
    """Load ``text_encoder`` and ``tokenizer``, and where they exist ``text_encoder_2`` and ``tokenizer_2``.

    Args:
        additions: what LoRAs add to the weights.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    additions = additions or Additions()
    towers = []
    suffixes = _suffixes(folder)
    for suffix in suffixes:
        encoder_folder = folder / f"text_encoder{suffix}"
        shape = read_text_shape(encoder_folder / "config.json")
        positions, rows = shape["max_position_embeddings"], shape["vocab_size"]
        tokens = load_tokens(folder / f"tokenizer{suffix}", positions, rows)
        encoder = _encoder(encoder_folder, device, dtype, additions)
        towers.append(TextTower(tokens, encoder))
    return TextEncoders(towers, penultimate="_2" in suffixes)


def text_shapes(folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the tensors of a model's text encoders, by the names of their folders; no weight is read."""
    names = [f"text_encoder{suffix}" for suffix in _suffixes(folder)]
    return {name: tensor_shapes(_built(folder / name)) for name in names}


def _suffixes(folder: Path) -> list[str]:
    suffixes = [suffix for suffix in ("", "_2") if (folder / f"text_encoder{suffix}").is_dir()]
    if not suffixes:
        raise WeightsError(f"{folder / 'text_encoder'}: no such folder; a model needs its text encoder")
    return suffixes


def _encoder(folder: Path, device: torch.device, dtype: torch.dtype, additions: Additions) -> nn.Module:
    files = find_weights(folder, COMPONENTS[folder.name])
    model = _built(folder)
    stored = read_tensors(files, device, dtype, additions.to(folder.name, device))
    state = _fitting_names(stored, set(tensor_shapes(model)))
    model = fill(model, state, files[0])

    # a constant that is not stored; built on the meta device, it holds nothing yet
    embeddings: Any = getattr(model, "text_model", model).embeddings
    positions = cast(Any, model.config).max_position_embeddings
    embeddings.position_ids = torch.arange(positions, device=device).expand(1, -1)
    return model


def _built(folder: Path) -> nn.Module:
    """The text encoder that a folder's config describes, on the meta device; its weights are only counted."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    path = folder / "config.json"
    raw = read_json(path)
    shape = read_text_shape(path, raw)
    kind = CLIPTextModelWithProjection if is_projected(path, raw) else CLIPTextModel
    files = find_weights(folder, COMPONENTS[folder.name])
    check_size(path, shape["num_hidden_layers"], files)

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
