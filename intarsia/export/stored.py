"""Where a model's weights lie: which bytes of which safetensors file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from intarsia.backends.onnx.initializers import initializer_name
from intarsia.backends.onnx.sources import Source
from intarsia.checkpoints.header import StoredTensor
from intarsia.checkpoints.stored import Place, StoredNetwork
from intarsia.errors import WeightsError
from intarsia.models.attention import SelfAttention

__all__ = ["Stored", "places", "read_stored"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor in a file.

    Attributes:
        file: what graphs call it.
        name: of the graph's initializer.
        dtype: as safetensors names it (F16, BF16, F32, …).
        shape: as it is stored.
        offset, length: in bytes, from the beginning of the file.
        transposed: the network has the matrix the other way around.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    transposed: bool = False


def read_stored(source: Source, network: StoredNetwork) -> dict[str, Stored]:
    """All tensors of a network, by diffusers' names. No weight is read.

    Args:
        source: what graphs are made of.
    """
    return {name: _stored(source, place, network) for name, place in network.places.items()}


def _stored(source: Source, place: Place, network: StoredNetwork) -> Stored:
    tensor = network.headers[place.file].tensors[place.name]
    shape, offset, length = _rows(tensor, place.rows)
    return Stored(
        file=source.location(place.file),
        name=initializer_name(place),
        dtype=tensor.dtype,
        shape=shape,
        offset=offset,
        length=length,
        transposed=place.transposed,
    )


def _rows(tensor: StoredTensor, rows: tuple[int, int] | None) -> tuple[tuple[int, ...], int, int]:
    """Shape, offset and length of some rows of a tensor, which lie one behind the other."""
    length = tensor.end - tensor.start
    if rows is None:
        return tensor.shape, tensor.start, length
    first, end = rows
    height, *others = tensor.shape
    row = length // height
    return (end - first, *others), tensor.start + first * row, (end - first) * row


def places(network: nn.Module, stored: Mapping[str, Stored], source: Path) -> dict[str, tuple[Stored, ...]]:
    """The stored tensors of each parameter of a network: one, or several below one another.

    Args:
        stored: by the names that the network's state dict has.

    Raises:
        WeightsError: tensors missing, left over or of another shape; names ``source`` and the first of them.
    """
    _check_fit(network, stored, source)
    by_parameter: dict[str, tuple[Stored, ...]] = {}
    for name, _ in network.named_parameters():
        if name in stored:
            by_parameter[name] = (stored[name],)

    for prefix, module in network.named_modules():
        if isinstance(module, SelfAttention):
            parts = [stored[f"{prefix}.{name}"] for name in SelfAttention.NAMES]
            by_parameter[f"{prefix}.qkv"] = tuple(parts)
    return by_parameter


def _check_fit(network: nn.Module, stored: Mapping[str, Stored], source: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted({*shapes, *stored}):
        if name not in stored:
            raise WeightsError(f"{source}: missing tensors: {name}")
        if name not in shapes:
            raise WeightsError(f"{source}: unexpected tensors: {name}")

        # a 1x1 convolution is the same bytes as a linear layer
        needed = shapes[name]
        shape = stored[name].shape[::-1] if stored[name].transposed else stored[name].shape
        if math.prod(shape) != math.prod(needed):
            raise WeightsError(f"{source}: wrongly shaped tensors: {name} {shape}, not {needed}")
