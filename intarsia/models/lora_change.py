"""Other LoRAs for networks that are open: only the layers that they change are read again, and written in place.

The address of a weight stays the same, so graphs that were captured stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from intarsia.checkpoints.stored import StoredNetwork
from intarsia.kernels.float8 import FLOAT8, quantize_reference
from intarsia.models.loading import Parts
from intarsia.models.lora import Additions, layer_of
from intarsia.models.lora_files import read_loras
from intarsia.models.weight_files import read_network, tensor_shapes

__all__ = ["change_loras"]


def change_loras(parts: Parts, loras: Sequence[tuple[Path, float]]) -> Parts:
    """Fold other LoRAs into the networks of a model; what was folded in before is gone, to the last bit.

    Args:
        parts: of :func:`intarsia.models.loading.load_pipeline_parts`, whose files are read again.
        loras: files and their strengths; none gives the model as it stands in its files.

    Returns:
        the same networks, with what is changed in them now.

    Raises:
        WeightsError: a file that is unreadable or does not fit; then nothing has been written.
    """
    networks = dict(_networks(parts))
    shapes = {name: tensor_shapes(network) for name, network in networks.items()}
    additions = Additions()
    if loras:
        additions = read_loras(loras, parts.unet.config.layers_per_block[0])
    additions = additions.fitted(shapes)

    # all is read before any of it is written
    assert parts.stored is not None  # only what was loaded has LoRAs
    changes: list[tuple[Tensor, Tensor]] = []
    for name, network in networks.items():
        changes += _changes(network, parts.stored.networks[name], additions, parts)

    with torch.no_grad():
        for weight, values in changes:
            weight.copy_(values)
    return replace(parts, changed=additions.layers, notes=additions.notes)


def _networks(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    """By the names of their folders, which are those that LoRA files use."""
    yield "unet", parts.unet
    for index, tower in enumerate(parts.text.towers):
        suffix = f"_{index + 1}" if index else ""
        yield f"text_encoder{suffix}", tower.model


def _changes(
    network: nn.Module, stored: StoredNetwork, additions: Additions, parts: Parts
) -> list[tuple[Tensor, Tensor]]:
    """(weight, new values) of the layers that were changed before or are changed now."""
    changed_before = parts.changed.get(stored.name, frozenset())
    changed_now = additions.layers.get(stored.name, frozenset())
    layers = changed_before | changed_now
    if not layers:
        return []

    # published names; packed weights give views
    state: dict[str, Tensor] = network.state_dict()
    weight_names = {layer_of(name): name for name in state if name.endswith(".weight")}
    template = next(network.parameters())  # no network's first layer is quantized

    def is_changed(name: str) -> bool:
        layer = layer_of(name)
        return name.endswith(".weight") and layer in layers and layer in weight_names

    fresh = read_network(
        stored,
        template.device,
        template.dtype,
        additions.to(stored.name, template.device),
        select=is_changed,
    )

    changes: list[tuple[Tensor, Tensor]] = []
    for name, values in fresh.items():
        changes += _with_scale(state, weight_names[layer_of(name)], values)
    return changes


def _with_scale(state: Mapping[str, Tensor], name: str, values: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(weight, new values); for a weight in e4m3 the quantized values, and the scale's too."""
    weight = state[name]
    if weight.dtype != FLOAT8:
        return [(weight, values)]

    rows = quantize_reference(values)
    scale = state[name.removesuffix("weight") + "scale"]
    return [(weight, rows.values), (scale, rows.scale)]
