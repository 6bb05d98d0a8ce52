"""Additions of LoRA files to the tensors of networks, computed while a model is loaded or its LoRAs are changed.

A tensor W becomes ``W + Σ strength · ΔW``, where ΔW is ``alpha / rank`` times what a file stores in one of the forms of
:mod:`.lora_forms`, in float32, on the device of W, one tensor at a time. :mod:`.lora_files` reads the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from intarsia.errors import WeightsError
from intarsia.models.lora_forms import Form

__all__ = ["Addition", "Additions", "LoraFile", "tensor_name"]

_PREFIX = "text_model."


@dataclass(frozen=True, eq=False, kw_only=True)
class Addition:
    """What one file adds to one tensor.

    Attributes:
        scale: alpha / rank.
        magnitude: of DoRA (Liu et al. 2024), lengths that rows, ``[outputs, 1]``, or columns, ``[1, inputs]``, of the
            sum are given; None for all else.
        inputs: the first input channels are changed, where the tensor has more; None changes all.
    """

    form: Form
    scale: float = 1.0
    magnitude: Tensor | None = None
    inputs: int | None = None

    def change(self, weight: Tensor, strength: float) -> Tensor:
        """``strength · ΔW``, float32, of the shape and on the device of ``weight``.

        With a magnitude m it is ``strength · (m · V / |V| − W)`` with ``V = W + ΔW``: strength 0 changes nothing.
        """
        part = weight if self.inputs is None else weight[:, : self.inputs]
        delta = self.form.delta(weight.device).reshape(part.shape)
        # in place: of large layers memory does not hold several copies
        if self.magnitude is None:
            delta.mul_(strength * self.scale)
        else:
            delta = _decomposed(part, delta.mul_(self.scale), self.magnitude).mul_(strength)

        if self.inputs is None:
            return delta
        missing = weight.shape[1] - self.inputs
        return functional.pad(delta, (0, 0) * (weight.ndim - 2) + (0, missing))


def _decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """From ΔW to the whole change of DoRA, in place."""
    total = delta.add_(weight)
    axis = 0 if len(magnitude) > 1 or magnitude.numel() == 1 else 1
    others = [dim for dim in range(weight.ndim) if dim != axis]
    norm = torch.linalg.vector_norm(total, dim=others, keepdim=True)
    wanted = magnitude.to(total).reshape(norm.shape)
    total.mul_(wanted / norm.add_(torch.finfo(norm.dtype).eps))
    return total.sub_(weight)


@dataclass(frozen=True, eq=False, kw_only=True)
class LoraFile:
    """The additions of one file.

    Attributes:
        tensors: ``tensors["unet"]["mid_block.attentions.0.proj_in.weight"]`` is the addition to that tensor.
        notes: sentences on what was left out, or was applied in part.
    """

    path: Path
    strength: float
    tensors: Mapping[str, Mapping[str, Addition]]
    notes: tuple[str, ...] = ()


class Additions:
    """The additions of several LoRA files to the networks of one model; without files none, and no copy is made."""

    def __init__(self, files: Sequence[LoraFile] = ()) -> None:
        self.files = tuple(files)

    @property
    def tensors(self) -> dict[str, frozenset[str]]:
        """Names of the tensors that change, by network."""
        names: dict[str, frozenset[str]] = {}
        for file in self.files:
            for network, tensors in file.tensors.items():
                names[network] = names.get(network, frozenset()) | frozenset(tensors)
        return names

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was not applied as it is stored."""
        return tuple(f"LoRA {file.path.name}: {note}" for file in self.files for note in file.notes)

    def to(self, network: str, device: torch.device, dtype: torch.dtype) -> Callable[[str, Tensor], Tensor]:
        """A function that adds everything to one stored tensor of a network, given its name.

        Args:
            device: tensors that change go there as they are stored, and are computed there.
            dtype: what the sum is stored as. WeightsError where it cannot hold it.
        """

        def fold(name: str, tensor: Tensor) -> Tensor:
            wanted = tensor_name(name)
            found = [(file, file.tensors.get(network, {}).get(wanted)) for file in self.files]
            if all(addition is None for _, addition in found):
                return tensor

            # each changes the stored tensor, so that their order is of no importance
            stored = tensor.to(device)
            total: Tensor | None = None
            for file, addition in found:
                if addition is not None:
                    change = addition.change(stored, file.strength)
                    total = change if total is None else total.add_(change)
            assert total is not None
            total.add_(stored)
            self._check(f"{network}.{wanted}", total, dtype)
            return total

        return fold

    def _check(self, name: str, total: Tensor, dtype: torch.dtype) -> None:
        if total.device.type == "meta" or total.numel() == 0:
            return
        least, most = (float(each) for each in torch.aminmax(total))
        limit = torch.finfo(dtype).max
        if not (-limit <= least <= most <= limit):
            files = ", ".join(str(file.path) for file in self.files)
            stored_as = str(dtype).removeprefix("torch.")
            raise WeightsError(f"{files}: {name} gets values from {least:.3g} to {most:.3g}, too large for {stored_as}")


def tensor_name(name: str) -> str:
    """A tensor's name in all versions of transformers, which puts CLIP's into a ``text_model`` or does not."""
    return name.removeprefix(_PREFIX)
