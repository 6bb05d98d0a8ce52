"""The tokenizers and text encoders of a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inlay.errors import WeightsError, shown
from inlay.models.lora import Additions
from inlay.models.text import TextEncoders, TextTower
from inlay.models.weight_files import fill, find_weights, one_line, read_json, read_tensors

_PREFIX = "text_model."


def load_text(
    folder: Path, device: torch.device, dtype: torch.dtype, additions: Additions | None = None
) -> TextEncoders:
    """Load ``text_encoder`` and ``tokenizer``, and where they exist ``text_encoder_2`` and ``tokenizer_2``.

    Args:
        additions: what LoRAs add to the weights.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    suffixes = [suffix for suffix in ("", "_2") if (folder / f"text_encoder{suffix}").is_dir()]
    if not suffixes:
        raise WeightsError(f"{folder / 'text_encoder'}: no such folder; a model needs its text encoder")
    additions = additions or Additions()
    additions.check_networks(["unet", *(f"text_encoder{suffix}" for suffix in suffixes)])
    towers = []
    for suffix in suffixes:
        tokenizer = _tokenizer(folder / f"tokenizer{suffix}")
        towers.append(TextTower(tokenizer, _encoder(folder / f"text_encoder{suffix}", device, dtype, additions)))
    return TextEncoders(towers, penultimate="_2" in suffixes)


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    whole = (folder / "tokenizer.json").is_file()
    if not whole and not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise WeightsError(f"{folder}: must hold tokenizer.json, or vocab.json and merges.txt")
    path = folder / "tokenizer_config.json"
    kind = read_json(path).get("tokenizer_class", "CLIPTokenizer")
    if kind not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise WeightsError(f"{path}: tokenizer_class must be CLIPTokenizer, not {shown(kind)}")
    try:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    # the tokenizers library raises bare Exception for a damaged file
    except Exception as exc:
        raise WeightsError(f"{folder}: not readable as a CLIP tokenizer: {one_line(exc)}") from exc


def _encoder(folder: Path, device: torch.device, dtype: torch.dtype, additions: Additions) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    path = folder / "config.json"
    raw = read_json(path)
    kinds = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
    name = (raw.get("architectures") or ["CLIPTextModel"])[0]
    if name not in kinds:
        raise WeightsError(f"{path}: architectures must name {' or '.join(kinds)}, not {shown(name)}")
    files = find_weights(folder, "model")
    try:
        config = CLIPTextConfig.from_dict(raw)
        with torch.device("meta"):
            model: nn.Module = kinds[name](config)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise WeightsError(f"{path}: not a CLIP text encoder's config: {one_line(exc)}") from exc
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    additions.check(folder.name, wanted)
    state = _fitting_names(read_tensors(files, device, dtype, additions.to(folder.name)), set(wanted))
    # a constant that is not stored; built on the meta device, it holds nothing yet
    embeddings: Any = getattr(model, "text_model", model).embeddings
    embeddings.position_ids = torch.arange(config.max_position_embeddings, device=device).expand(1, -1)
    return fill(model, state, files[0])


def _fitting_names(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Names as this version of transformers has them: with or without the ``text_model.`` of older ones."""
    fitting = {}
    for name, tensor in state.items():
        if name.endswith("embeddings.position_ids"):
            continue  # a constant that old files store
        bare = name.removeprefix(_PREFIX)
        fitting[name if name in wanted else bare if bare in wanted else _PREFIX + bare] = tensor
    return fitting
