"""The weights that LoRAs change, given to a session in memory in place of those in the model's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np

from intarsia.backends.onnx.folding import WeightMaker
from intarsia.backends.onnx.initializers import initializer_name, initializer_shapes
from intarsia.checkpoints.stored import StoredModel, StoredNetwork
from intarsia.models.lora import Additions, tensor_name
from intarsia.models.lora_files import read_loras
from intarsia.models.lora_numpy import changed
from intarsia.models.stored_arrays import stored_arrays, stored_shapes
from intarsia.models.unet_config import UNetConfig

__all__ = ["ChangedWeights", "read_changes"]

_UNET = "unet"


@dataclass(frozen=True, kw_only=True)
class ChangedWeights:
    """What LoRAs add to a model; only the tensors that they change are ever read.

    Attributes:
        stored: where the model's weights are.
        additions: none where there are no LoRAs.
    """

    stored: StoredModel
    additions: Additions = field(default_factory=Additions)

    def names(self, graph_name: str, graph: bytes) -> Mapping[str, str]:
        """Names of tensors of a network, by those that a graph has for them; those that change, and are in it."""
        network = self._network(graph_name)
        touched = self.additions.tensors.get(network.name, frozenset()) if network else frozenset()
        if network is None or not touched:
            return {}
        there = initializer_shapes(graph)
        named = {initializer_name(place): name for name, place in network.places.items()}
        return {own: name for own, name in named.items() if own in there and tensor_name(name) in touched}

    def values(self, graph_name: str, graph: bytes, dtype: str) -> dict[str, WeightMaker]:
        """By the graph's names of these, functions that make their values, each once, in the shapes that it has."""
        network = self._network(graph_name)
        names = self.names(graph_name, graph)
        if network is None or not names:
            return {}
        shapes = initializer_shapes(graph)
        return {own: cache(partial(self._value, network, name, shapes[own], dtype)) for own, name in names.items()}

    def _value(self, network: StoredNetwork, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        place = network.places[name]
        ((_, stored),) = stored_arrays({name: place}, network.headers)
        total = changed(self.additions, network.name, tensor_name(name), stored, dtype)
        as_stored = total.T if place.transposed else total
        return as_stored.reshape(shape)

    def _network(self, graph_name: str) -> StoredNetwork | None:
        """The network of a graph: ``unet_context`` and others are parts of the UNet."""
        name = _UNET if graph_name.startswith(_UNET) else graph_name
        return self.stored.networks.get(name)


def read_changes(stored: StoredModel, loras: Sequence[tuple[Path, float]]) -> ChangedWeights:
    """Read LoRA files with their strengths; WeightsError as :func:`intarsia.models.lora_files.read_loras`."""
    if not loras:
        return ChangedWeights(stored=stored)
    networks = {_UNET: stored.networks[_UNET], **stored.text_encoders}
    shapes = {name: stored_shapes(network) for name, network in networks.items()}
    layers = UNetConfig.from_dict(networks[_UNET].config).layers_per_block[0]
    return ChangedWeights(stored=stored, additions=read_loras(loras, shapes, layers, read=stored_arrays))
