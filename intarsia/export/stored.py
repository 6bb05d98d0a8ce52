"""Where a model's weights lie: which bytes of which safetensors file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from intarsia.checkpoints.header import read_header
from intarsia.errors import WeightsError
from intarsia.models.attention import SelfAttention

__all__ = ["Stored", "places", "read_stored"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor in a file.

    Attributes:
        file: relative to the model's folder.
        dtype: as safetensors names it (F16, BF16, F32).
        offset, length: in bytes, from the beginning of the file.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_stored(folder: Path, files: Sequence[Path]) -> dict[str, Stored]:
    """All tensors of some safetensors files of the model in ``folder``, by name. No weight is read.

    Raises:
        WeightsError: as :func:`intarsia.checkpoints.header.read_header`.
    """
    tensors = {}
    for path in files:
        for name, tensor in read_header(path).tensors.items():
            tensors[name] = Stored(
                file=path.relative_to(folder).as_posix(),
                name=name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                offset=tensor.start,
                length=tensor.end - tensor.start,
            )
    return tensors


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
        shape = stored[name].shape
        if math.prod(shape) != math.prod(needed):
            raise WeightsError(f"{source}: wrongly shaped tensors: {name} {shape}, not {needed}")
