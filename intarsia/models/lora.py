"""What LoRAs add to the weights of a network (Hu et al. 2021, section 4.1).

A layer's weight W becomes ``W + strength · alpha / rank · up · down``, in float32, while a model is loaded, on the
device that it is loaded to, one layer at a time. Reading the files is :mod:`intarsia.models.lora_files`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from intarsia.errors import WeightsError

_NAMED = 3
_UNKNOWN = "for layers that this model does not have"
_MISFIT = "of another shape than this model's layers"
# Share of a network's layers that a file may name in vain before it counts as made for another model.
_MOST_STRANGE = 0.5


@dataclass(frozen=True, eq=False)
class LowRank:
    """What one file adds to one layer: ``scale · up · down``.

    Attributes:
        down: float32 ``[rank, inputs]``, for a convolution ``[rank, inputs, kh, kw]``.
        up: float32 ``[outputs, rank]``, for a convolution ``[outputs, rank, 1, 1]``.
        scale: strength · alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a weight of ``shape`` can take it; a linear layer is as good as a 1x1 convolution."""
        up, down = _as_kernel(self.up.shape), _as_kernel(self.down.shape)
        return up == (shape[0], down[0], 1, 1) and down[1:] == _as_kernel(shape)[1:]

    def added_to(self, weight: Tensor) -> Tensor:
        """``weight`` with it, float32, computed where ``weight`` is."""
        up, down = self.up.to(weight.device), self.down.to(weight.device)
        product = up.flatten(1) @ down.flatten(1)
        return product.mul_(self.scale).view(weight.shape).add_(weight)  # in place: of large layers a few are too many


def _as_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape, *(1,) * (4 - len(shape)))


@dataclass(frozen=True, eq=False)
class LoraFile:
    """One file, read.

    Attributes:
        layers: ``layers["unet"]["mid_block.attentions.0.proj_in"]`` is what it adds to that layer.
        left_out: what of it cannot be applied, for a sentence.
    """

    path: Path
    layers: Mapping[str, Mapping[str, LowRank]]
    left_out: tuple[str, ...] = ()


class Additions:
    """What some LoRA files together add to the networks of one model. Of no files: nothing, and no copy is made."""

    def __init__(self, files: Sequence[LoraFile] = ()) -> None:
        self.files = tuple(files)

    @property
    def layers(self) -> dict[str, frozenset[str]]:
        """Names of the layers that change, by network."""
        found: dict[str, frozenset[str]] = {}
        for file in self.files:
            for network, layers in file.layers.items():
                found[network] = found.get(network, frozenset()) | frozenset(layers)
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each file of which something was left out."""
        left = [(file.path.name, "; ".join(file.left_out)) for file in self.files if file.left_out]
        return tuple(f"LoRA {name}: left out, as it cannot be applied: {what}" for name, what in left)

    def fitted(self, networks: Mapping[str, Mapping[str, Sequence[int]]]) -> Additions:
        """What of it the networks of a model can take; the rest is left out, and noted.

        Args:
            networks: of each network, the shape of each tensor by its name.

        Raises:
            WeightsError: a file for another model: with additions of another shape, with most of a network's for
                layers that it does not have, or with none that fits. The file, the first of them and how many.
        """
        return Additions([_fitted(file, networks) for file in self.files])

    def to(self, network: str, device: torch.device) -> Callable[[str, Tensor], Tensor]:
        """What makes of one stored tensor of a network, by its name, the one to be loaded.

        Args:
            device: what changes goes there as it is stored, and is computed there.
        """
        every = [file.layers.get(network, {}) for file in self.files]

        def fold(name: str, tensor: Tensor) -> Tensor:
            for layers in every if name.endswith(".weight") else ():
                added = layers.get(layer_of(name))
                if added is not None:
                    tensor = added.added_to(tensor.to(device))
            return tensor

        return fold


def layer_of(name: str) -> str:
    """The layer that a weight belongs to; transformers puts CLIP's into a ``text_model``, or not, by version."""
    return name.removesuffix(".weight").removeprefix("text_model.")


def _fitted(file: LoraFile, networks: Mapping[str, Mapping[str, Sequence[int]]]) -> LoraFile:
    fitting: dict[str, Mapping[str, LowRank]] = {}
    absent: list[str] = []
    for network, layers in file.layers.items():
        shapes = networks.get(network, {})
        known = {layer_of(name): shape for name, shape in shapes.items() if name.endswith(".weight")}
        _refuse(file, network, [n for n, added in layers.items() if n in known and not added.fits(known[n])], _MISFIT)
        strange = [name for name in layers if name not in known]
        if network in networks and len(strange) > _MOST_STRANGE * len(layers):
            _refuse(file, network, strange, _UNKNOWN)
        absent += [f"{network}.{name}" for name in strange]
        kept = {name: added for name, added in layers.items() if name in known}
        if kept:
            fitting[network] = kept
    if not fitting:
        _refuse(file, "", absent, _UNKNOWN)
    left = (f"{len(absent)} additions {_UNKNOWN}: {_listed(absent)}",) if absent else ()
    return replace(file, layers=fitting, left_out=(*file.left_out, *left))


def _refuse(file: LoraFile, network: str, names: list[str], problem: str) -> None:
    if not names:
        return
    total = sum(len(layers) for layers in file.layers.values())
    full = [f"{network}.{name}" if network else name for name in names]
    raise WeightsError(f"{file.path}: {len(names)} of {total} additions are {problem}: {_listed(full)}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
