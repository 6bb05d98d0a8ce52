"""What LoRAs add to the weights of a network (Hu et al. 2021, section 4.1).

A layer's weight W becomes ``W + strength · alpha / rank · up · down``, in float32, while a model is loaded:
the networks know nothing of it. Reading the files is :mod:`inlay.models.lora_files`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from inlay.errors import WeightsError

_NAMED = 3
_UNKNOWN = "for layers that this model does not have"


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
        """``weight`` with it, float32."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return weight.float() + self.scale * product.view(weight.shape)


def _as_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape, *(1,) * (4 - len(shape)))


@dataclass(frozen=True, eq=False)
class LoraFile:
    """One file, read: ``layers["unet"]["mid_block.attentions.0.proj_in"]`` is what it adds to that layer."""

    path: Path
    layers: Mapping[str, Mapping[str, LowRank]]


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

    def check_networks(self, networks: Sequence[str]) -> None:
        """Refuse layers of networks that the model does not have (a second text encoder, say): WeightsError."""
        for file in self.files:
            for network, layers in file.layers.items():
                if network not in networks:
                    _refuse(file, network, list(layers), _UNKNOWN)

    def check(self, network: str, shapes: Mapping[str, Sequence[int]]) -> None:
        """Hold the additions to the weights of one network; not one is passed over.

        Args:
            shapes: shape of each tensor of the network, by its name.

        Raises:
            WeightsError: layers that it does not have, or of another shape; the file, the first and how many.
        """
        known = {layer_of(name): shape for name, shape in shapes.items() if name.endswith(".weight")}
        for file in self.files:
            layers = file.layers.get(network, {})
            _refuse(file, network, [name for name in layers if name not in known], _UNKNOWN)
            unfit = [name for name, added in layers.items() if not added.fits(known[name])]
            _refuse(file, network, unfit, "of another shape than this model's layers")

    def to(self, network: str) -> Callable[[str, Tensor], Tensor]:
        """What makes of one stored tensor of a network, by its name, the one to be loaded."""
        every = [file.layers.get(network, {}) for file in self.files]

        def fold(name: str, tensor: Tensor) -> Tensor:
            for layers in every if name.endswith(".weight") else ():
                added = layers.get(layer_of(name))
                if added is not None:
                    tensor = added.added_to(tensor)
            return tensor

        return fold


def layer_of(name: str) -> str:
    """The layer that a weight belongs to; transformers puts CLIP's into a ``text_model``, or not, by version."""
    return name.removesuffix(".weight").removeprefix("text_model.")


def _refuse(file: LoraFile, network: str, names: list[str], problem: str) -> None:
    if not names:
        return
    total = sum(len(layers) for layers in file.layers.values())
    shown = ", ".join(f"{network}.{name}" for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise WeightsError(f"{file.path}: {len(names)} of {total} additions are {problem}: {shown}{more}")
