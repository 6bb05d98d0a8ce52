"""Additions of LoRA files to the tensors of networks, computed while a model is loaded or its LoRAs are changed.

A tensor W becomes ``W + Σ strength · ΔW``, where ΔW is ``alpha / rank`` times what a file stores in one of the forms of
:mod:`.lora_forms`, in float32, one tensor at a time: by torch on the device of W (:mod:`.lora_torch`), or by numpy
(:mod:`.lora_numpy`). :mod:`.lora_files` reads the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intarsia.errors import WeightsError
from intarsia.models.lora_arithmetic import Arithmetic, Array
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
    magnitude: Array | None = None
    inputs: int | None = None

    def change(self, weight: Array, strength: float, arithmetic: Arithmetic) -> Array:
        """``strength · ΔW``, float32, of the shape of ``weight``, which ``arithmetic`` computes with.

        With a magnitude m it is ``strength · (m · V / |V| − W)`` with ``V = W + ΔW``: strength 0 changes nothing.
        """
        part = weight if self.inputs is None else weight[:, : self.inputs]
        delta = self.form.delta(arithmetic).reshape(part.shape)
        # in place: of large layers memory does not hold several copies
        if self.magnitude is None:
            delta *= strength * self.scale
        else:
            delta *= self.scale
            delta = _decomposed(arithmetic, part, delta, self.magnitude)
            delta *= strength

        if self.inputs is None:
            return delta
        whole = arithmetic.zeros(weight.shape)
        whole[:, : self.inputs] = delta
        return whole


def _decomposed(arithmetic: Arithmetic, weight: Array, delta: Array, magnitude: Array) -> Array:
    """From ΔW to the whole change of DoRA, in place."""
    delta += weight
    axis = 0 if len(magnitude) > 1 or tuple(magnitude.shape) == (1, 1) else 1
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    norm = arithmetic.norm(delta, others)
    norm += arithmetic.EPS
    delta *= arithmetic.float32(magnitude).reshape(norm.shape) / norm
    delta -= weight
    return delta


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

    def total(self, network: str, name: str, stored: Array, arithmetic: Arithmetic) -> Array:
        """A tensor of a network with everything that is added to it, float32.

        Args:
            name: of one that changes, without transformers' ``text_model.`` (:func:`tensor_name`).
        """
        total: Array | None = None
        # each changes the stored tensor, so that their order is of no importance
        for file in self.files:
            addition = file.tensors.get(network, {}).get(name)
            if addition is None:
                continue
            change = addition.change(stored, file.strength, arithmetic)
            if total is None:
                total = change
            else:
                total += change
        assert total is not None, name
        total += stored
        return total

    def check(self, name: str, values: tuple[float, float], limit: float, dtype: str) -> None:
        """WeightsError where the least or the most value of a sum is more than a number format holds."""
        least, most = values
        if not (-limit <= least <= most <= limit):
            files = ", ".join(str(file.path) for file in self.files)
            raise WeightsError(f"{files}: {name} gets values from {least:.3g} to {most:.3g}, too large for {dtype}")


def tensor_name(name: str) -> str:
    """A tensor's name in all versions of transformers, which puts CLIP's into a ``text_model`` or does not."""
    return name.removeprefix(_PREFIX)
