"""Low-rank additions of LoRAs to the weights of a network (Hu et al. 2021, section 4.1).

A layer's weight W becomes ``W + strength · alpha / rank · up · down``, in float32, while a model is loaded, on the
device that it is loaded to, one layer at a time. :mod:`intarsia.models.lora_files` reads the files.
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
# Share of a file's layers that a network may lack before the file counts as made for another model.
_MOST_UNKNOWN = 0.5


@dataclass(frozen=True, eq=False)
class LowRank:
    """The addition of one file to one layer: ``scale · up · down``.

    Attributes:
        down: float32 ``[rank, inputs]``, for a convolution ``[rank, inputs, kh, kw]``.
        up: float32 ``[outputs, rank]``, for a convolution ``[outputs, rank, 1, 1]``.
        scale: strength · alpha / rank.
    """

    down: Tensor
    up: Tensor
    scale: float

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it fits a weight of that shape; a linear layer counts as a 1x1 convolution."""
        up = _as_kernel(self.up.shape)
        rank, *own_inputs = _as_kernel(self.down.shape)
        outputs, *inputs = _as_kernel(shape)
        return up == (outputs, rank, 1, 1) and own_inputs == inputs

    def added_to(self, weight: Tensor) -> Tensor:
        """The sum with ``weight``, float32, on the device of ``weight``."""
        up = self.up.to(weight.device)
        down = self.down.to(weight.device)
        product = up.flatten(1) @ down.flatten(1)
        # in place: of large layers memory does not hold several copies
        product.mul_(self.scale)
        return product.view(weight.shape).add_(weight)


def _as_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with four dimensions, the last ones 1 where there were fewer."""
    absent = 4 - len(shape)
    return (*shape, *[1] * absent)


@dataclass(frozen=True, eq=False)
class LoraFile:
    """The additions of one file.

    Attributes:
        layers: ``layers["unet"]["mid_block.attentions.0.proj_in"]`` is the addition to that layer.
        left_out: phrases on what cannot be applied.
    """

    path: Path
    layers: Mapping[str, Mapping[str, LowRank]]
    left_out: tuple[str, ...] = ()


class Additions:
    """The additions of several LoRA files to the networks of one model; without files none, and no copy is made."""

    def __init__(self, files: Sequence[LoraFile] = ()) -> None:
        self.files = tuple(files)

    @property
    def layers(self) -> dict[str, frozenset[str]]:
        """Names of the layers that change, by network."""
        names: dict[str, frozenset[str]] = {}
        for file in self.files:
            for network, layers in file.layers.items():
                names[network] = names.get(network, frozenset()) | frozenset(layers)
        return names

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each file of which something was left out."""
        return tuple(
            f"LoRA {file.path.name}: left out, as it cannot be applied: {'; '.join(file.left_out)}"
            for file in self.files
            if file.left_out
        )

    def fitted(self, networks: Mapping[str, Mapping[str, Sequence[int]]]) -> Additions:
        """The additions that fit a model's networks; all others are left out, and noted.

        Args:
            networks: of each network, the shape of each tensor by its name.

        Raises:
            WeightsError: a file for another model: with additions of another shape, with most of a network's for
                layers that it does not have, or with none that fits.
        """
        return Additions([_fitted(file, networks) for file in self.files])

    def to(self, network: str, device: torch.device) -> Callable[[str, Tensor], Tensor]:
        """A function that adds everything to one stored tensor of a network, given its name.

        Args:
            device: tensors that change go there as they are stored, and are computed there.
        """
        layers_by_file = [file.layers.get(network, {}) for file in self.files]

        def fold(name: str, tensor: Tensor) -> Tensor:
            if not name.endswith(".weight"):
                return tensor
            for layers in layers_by_file:
                addition = layers.get(layer_of(name))
                if addition is not None:
                    tensor = addition.added_to(tensor.to(device))
            return tensor

        return fold


def layer_of(name: str) -> str:
    """The layer that a weight belongs to; transformers puts CLIP's into a ``text_model``, or not, by version."""
    return name.removesuffix(".weight").removeprefix("text_model.")


def _fitted(file: LoraFile, networks: Mapping[str, Mapping[str, Sequence[int]]]) -> LoraFile:
    """The file without additions for layers that the networks do not have; WeightsError as :meth:`Additions.fitted`."""
    fitting: dict[str, Mapping[str, LowRank]] = {}
    unknown: list[str] = []
    for network, layers in file.layers.items():
        tensors = networks.get(network, {})
        shapes = {layer_of(name): shape for name, shape in tensors.items() if name.endswith(".weight")}
        known_layers = {name: addition for name, addition in layers.items() if name in shapes}
        misfits = [name for name, addition in known_layers.items() if not addition.fits(shapes[name])]
        _refuse(file, network, misfits, _MISFIT)

        unknown_layers = [name for name in layers if name not in shapes]
        if network in networks and len(unknown_layers) > _MOST_UNKNOWN * len(layers):
            _refuse(file, network, unknown_layers, _UNKNOWN)

        unknown += [f"{network}.{name}" for name in unknown_layers]
        if known_layers:
            fitting[network] = known_layers

    if not fitting:
        _refuse(file, "", unknown, _UNKNOWN)

    left_out = file.left_out
    if unknown:
        left_out = (*left_out, f"{len(unknown)} additions {_UNKNOWN}: {_listed(unknown)}")
    return replace(file, layers=fitting, left_out=left_out)


def _refuse(file: LoraFile, network: str, names: list[str], problem: str) -> None:
    """WeightsError if there are any names."""
    if not names:
        return
    total = sum(len(layers) for layers in file.layers.values())
    full_names = [f"{network}.{name}" if network else name for name in names]
    raise WeightsError(f"{file.path}: {len(names)} of {total} additions are {problem}: {_listed(full_names)}")


def _listed(names: list[str]) -> str:
    listed = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        listed += f" and {len(names) - _NAMED} more"
    return listed
