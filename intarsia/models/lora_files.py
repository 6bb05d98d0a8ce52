"""LoRA files, in the spellings that are about, by way of diffusers' converters.

Read are LoRAs of linear and convolution layers, one safetensors file each, named as

- kohya's scripts do: ``lora_unet_…``, ``lora_te_…``, with ``alpha``; for SDXL also by the original code's blocks;
- diffusers and PEFT do: ``unet.….lora_A.weight``, and the older ``….processor.to_q_lora.down.weight``.

What else a file holds (:mod:`intarsia.models.lora_kinds`) is left out, and every result says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from intarsia.errors import WeightsError, one_line, shown
from intarsia.models.lora import Additions, LoraFile, LowRank, layer_of
from intarsia.models.lora_kinds import LoraNames, phrase, sorted_names
from intarsia.models.weight_files import read_tensors, stored_names

_NAMED = 3
_NETWORKS = ("unet", "text_encoder", "text_encoder_2")
_SETTINGS = "lora_adapter_metadata"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def read_loras(files: Sequence[tuple[Path, float]], layers_per_block: int) -> Additions:
    """Read LoRA files with their strengths.

    Args:
        layers_per_block: residual blocks of each level of the UNet, to count blocks as the original code did.

    Raises:
        WeightsError: a file that is not readable, or of which nothing can be applied; it says what the file holds.
    """
    return Additions([_read(path, strength, layers_per_block) for path, strength in files])


def _read(path: Path, strength: float, layers_per_block: int) -> LoraFile:
    names = _applicable(path)
    state = _matrices(path, names)
    state = _converted(path, state, layers_per_block)
    matrices_by_network = _by_network(path, state)

    stored = _stored_settings(path)
    layers: dict[str, dict[str, LowRank]] = {}
    for network, matrices in matrices_by_network.items():
        settings = {key.removeprefix(f"{network}."): value for key, value in stored.items()}
        for name, down in matrices.items():
            if not name.endswith(_DOWN):
                continue
            layer = name.removesuffix(_DOWN)
            up = matrices[layer + _UP]
            rank = len(down)
            scale = strength * _stored_scale(path, settings, layer, rank)
            layers.setdefault(network, {})[layer_of(layer)] = LowRank(down, up, scale)

    left_out = tuple(phrase(kind, kind_names) for kind, kind_names in names.left_out.items())
    return LoraFile(path, layers, left_out)


def _matrices(path: Path, names: LoraNames) -> dict[str, Tensor]:
    """The matrices of the file, with alpha / rank multiplied into the upper ones."""
    used = names.matrices | names.alphas
    state = read_tensors([path], torch.device("cpu"), torch.float32, select=lambda name: name in used)
    not_finite = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    _refuse(path, not_finite, "have values not finite")

    alphas = {name: state.pop(name) for name in names.alphas}
    vectors = [name for name, tensor in state.items() if tensor.ndim < 2]
    _refuse(path, vectors, "are not matrices")
    _apply_alphas(path, state, alphas)
    return state


def _applicable(path: Path) -> LoraNames:
    """The names of the file's tensors, sorted; WeightsError where none can be applied. Only the header is read."""
    names = sorted_names(stored_names([path]))
    if names.matrices:
        return names
    if not names.left_out:
        raise WeightsError(f"{path}: holds no LoRA: it is empty")

    most_frequent = sorted(names.left_out, key=lambda kind: -len(names.left_out[kind]))
    phrases = [phrase(kind, names.left_out[kind]) for kind in most_frequent[:_NAMED]]
    raise WeightsError(f"{path}: holds no LoRA that can be applied; it has {', '.join(phrases)}")


def _apply_alphas(path: Path, state: dict[str, Tensor], alphas: Mapping[str, Tensor]) -> None:
    """Multiply alpha / rank into the upper matrix, so that alphas need not be renamed."""
    for name, alpha in alphas.items():
        stem = name.removesuffix("alpha")
        spellings = [stem + suffix for suffix in ("lora_up.weight", "lora.up.weight", "lora_B.weight")]
        up_names = [spelling for spelling in spellings if spelling in state]
        if not up_names or alpha.numel() != 1:
            raise WeightsError(f"{path}: {name} must be one number beside a pair of LoRA matrices")

        up_name = up_names[0]
        up = state[up_name]
        rank = up.flatten(1).shape[1]
        state[up_name] = up * (alpha.item() / rank)


def _converted(path: Path, state: dict[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """Rename kohya's names to those of diffusers; others stay the same."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    config = SimpleNamespace(layers_per_block=layers_per_block)
    count = len(state)
    try:
        converted, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(state, unet_config=config)
    except (ValueError, KeyError, IndexError) as exc:
        raise WeightsError(f"{path}: diffusers cannot read its layer names: {one_line(exc)}") from exc
    if len(converted) != count:  # of names in both spellings the converter keeps one
        raise WeightsError(f"{path}: names layers of unet in two spellings")
    return dict(converted)


def _by_network(path: Path, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each network, with the networks' layer names and PEFT's ``lora_A`` and ``lora_B``."""
    from diffusers.utils import state_dict_utils as names

    if not any(name.split(".")[0] in _NETWORKS for name in state):
        state = {f"unet.{name}": tensor for name, tensor in state.items()}  # a file of the UNet alone
    unknown = [name for name in state if name.split(".")[0] not in _NETWORKS]
    _refuse(path, unknown, f"belong to none of {', '.join(_NETWORKS)}")

    text_mapping = {**names.DIFFUSERS_OLD_TO_PEFT, **names.DIFFUSERS_TO_PEFT}
    networks = {}
    for network in _NETWORKS:
        prefix = f"{network}."
        stored = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        mapping = names.UNET_TO_DIFFUSERS if network == "unet" else text_mapping
        renamed = names.convert_state_dict(stored, mapping)

        unreadable = [prefix + name for name in renamed if not name.endswith((_DOWN, _UP))]
        _refuse(path, unreadable, "have a name that diffusers cannot read")
        if len(renamed) != len(stored):
            raise WeightsError(f"{path}: names layers of {network} in two spellings")
        networks[network] = renamed
    return networks


def _stored_settings(path: Path) -> dict[str, Any]:
    """Fields of PEFT's LoraConfig, by network, that newer diffusers stores: ``unet.lora_alpha``, ``unet.r`` …"""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    text = metadata.get(_SETTINGS, "{}")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise WeightsError(f"{path}: its {_SETTINGS} are not JSON: {one_line(exc)}") from exc
    if not isinstance(settings, dict):
        raise WeightsError(f"{path}: its {_SETTINGS} must be a JSON object, not {type(settings).__name__}")
    return settings


def _stored_scale(path: Path, settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank by PEFT's rules; 1 where nothing is stored."""
    alpha = settings.get("lora_alpha")
    others = settings.get("alpha_pattern") or {}
    if not isinstance(others, dict):
        raise WeightsError(f"{path}: alpha_pattern of its {_SETTINGS} must be an object, not {shown(others)}")
    for pattern, value in others.items():
        if layer == pattern or layer.endswith("." + pattern):
            alpha = value

    if alpha is None:
        return 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise WeightsError(f"{path}: lora_alpha of its {_SETTINGS} must be a number, not {shown(alpha)}")
    divisor = rank**0.5 if settings.get("use_rslora") else rank
    return float(alpha) / divisor


def _refuse(path: Path, names: Sequence[str], problem: str) -> None:
    if not names:
        return
    listed = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise WeightsError(f"{path}: {len(names)} tensors {problem}: {listed}{more}")
