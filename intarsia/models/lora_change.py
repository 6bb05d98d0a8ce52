"""Other LoRAs for networks that are open: only the layers they touch are read again, and written in place.

Where a weight lies in memory does not change, so whatever was recorded of a network's work stays right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from intarsia.checkpoints.layout import COMPONENTS, find_weights
from intarsia.kernels.float8 import FLOAT8, quantize_reference
from intarsia.models.loading import Parts
from intarsia.models.lora import Additions, layer_of
from intarsia.models.lora_files import read_loras
from intarsia.models.weight_files import read_tensors, tensor_shapes

__all__ = ["change_loras"]


def change_loras(parts: Parts, folder: Path, loras: Sequence[tuple[Path, float]]) -> Parts:
    """Fold other LoRAs into the networks of a folder; what was folded in before is gone, to the last bit.

    Args:
        parts: of :func:`intarsia.models.loading.load_pipeline_parts`, from the same folder.
        loras: files and their strengths; none gives the model as it stands in its files.

    Returns:
        the same networks, with what is changed in them now.

    Raises:
        WeightsError: a file that is unreadable or does not fit; then nothing has been written.
    """
    networks = dict(_networks(parts))
    additions = read_loras(loras, parts.unet.config.layers_per_block[0]) if loras else Additions()
    additions = additions.fitted({name: tensor_shapes(network) for name, network in networks.items()})
    # all is read before any of it is written
    fresh = [pair for name in networks for pair in _rewritten(networks[name], folder / name, additions, parts)]
    with torch.no_grad():
        for weight, wanted in fresh:
            weight.copy_(wanted)
    return replace(parts, changed=additions.layers, notes=additions.notes)


def _networks(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    """By the names of their folders, which are those that LoRA files use."""
    yield "unet", parts.unet
    for place, tower in enumerate(parts.text.towers):
        yield "text_encoder" + (f"_{place + 1}" if place else ""), tower.model


def _rewritten(network: nn.Module, folder: Path, additions: Additions, parts: Parts) -> list[tuple[Tensor, Tensor]]:
    """Weights that were changed or are to be, each with its new values."""
    touched = parts.changed.get(folder.name, frozenset()) | additions.layers.get(folder.name, frozenset())
    if not touched:
        return []
    # published names; what is stored packed gives views
    state: dict[str, Tensor] = network.state_dict()
    weights = {layer_of(name): name for name in state if name.endswith(".weight") and layer_of(name) in touched}
    like = next(network.parameters())  # no network's first layer is quantized
    files = find_weights(folder, COMPONENTS[folder.name])
    stored = read_tensors(
        files,
        like.device,
        like.dtype,
        additions.to(folder.name, like.device),
        wanted=lambda name: name.endswith(".weight") and layer_of(name) in weights,
    )
    fresh = (_placed(state, weights[layer_of(name)], tensor) for name, tensor in stored.items())
    return [pair for pairs in fresh for pair in pairs]


def _placed(state: Mapping[str, Tensor], name: str, fresh: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Where a weight's new values go; of one in e4m3 the scales too."""
    weight = state[name]
    if weight.dtype != FLOAT8:
        return [(weight, fresh)]
    rows = quantize_reference(fresh)
    return [(weight, rows.values), (state[name.removesuffix("weight") + "scale"], rows.scale)]
