"""Other LoRAs for networks that are open: only the tensors that they change are read again, and written in place.

The address of a weight stays the same, so graphs that were captured stay valid. Nothing is kept of the weights as they
were: they are in the model's files, and come from there by the same casts as when the model was loaded, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from intarsia.checkpoints.stored import StoredNetwork
from intarsia.errors import WeightsError, one_line
from intarsia.kernels.float8 import FLOAT8, quantize_reference
from intarsia.models.loading import Parts
from intarsia.models.lora import Additions, tensor_name
from intarsia.models.lora_files import read_loras
from intarsia.models.lora_torch import folding
from intarsia.models.weight_files import in_layout, stored_tensors, tensor_shapes

__all__ = ["HalfChangedError", "change_loras"]


class HalfChangedError(WeightsError):
    """A change of LoRAs that failed, after which the weights from before could not be read again either.

    Attributes:
        parts: the networks, of which some tensors have changed; another change may succeed and writes all of them.
    """

    def __init__(self, message: str, parts: Parts) -> None:
        super().__init__(message)
        self.parts = parts


def change_loras(parts: Parts, loras: Sequence[tuple[Path, float]]) -> Parts:
    """Fold other LoRAs into the networks of a model; what was folded in before is gone, to the last bit.

    One tensor at a time is read, changed on its device, and written.

    Args:
        parts: of :func:`intarsia.models.loading.load_pipeline_parts`, whose files are read again.
        loras: files and their strengths; none gives the model as it stands in its files.

    Returns:
        the same networks, with what is changed in them now.

    Raises:
        WeightsError: a file that is unreadable or does not fit; then the networks are as they were.
        HalfChangedError: they are not.
    """
    networks = dict(_networks(parts))
    shapes = {name: tensor_shapes(network) for name, network in networks.items()}
    # everything about the LoRAs' files is checked before anything is written
    additions = read_loras(loras, shapes, parts.unet.config.layers_per_block[0], read=stored_tensors)
    changing = _Change(networks, parts, _touched(parts.additions, additions))

    try:
        changing.write(additions)
    except BaseException as exc:
        try:
            changing.write(parts.additions)
        except (WeightsError, RuntimeError, OSError) as later:
            either = Additions([*parts.additions.files, *additions.files])
            message = (
                f"LoRAs could not be changed ({one_line(exc)}), nor those from before be put back: {one_line(later)}"
            )
            raise HalfChangedError(message, replace(parts, additions=either)) from exc
        raise
    return replace(parts, additions=additions)


def _networks(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    """By the names of their folders, which are those that LoRA files use."""
    yield "unet", parts.unet
    for index, tower in enumerate(parts.text.towers):
        suffix = f"_{index + 1}" if index else ""
        yield f"text_encoder{suffix}", tower.model


def _touched(before: Additions, after: Additions) -> dict[str, frozenset[str]]:
    """Names of the tensors that one of them changes, by network."""
    touched = dict(before.tensors)
    for network, names in after.tensors.items():
        touched[network] = touched.get(network, frozenset()) | names
    return touched


@dataclass(frozen=True)
class _Change:
    """Tensors of a model that are to be written anew."""

    networks: Mapping[str, nn.Module]
    parts: Parts
    touched: Mapping[str, frozenset[str]]

    @torch.no_grad()
    def write(self, additions: Additions) -> None:
        """Each tensor as the file has it, with the additions."""
        assert self.parts.stored is not None  # only what was loaded has LoRAs
        for name, touched in self.touched.items():
            self._write_network(self.networks[name], self.parts.stored.networks[name], touched, additions)

    def _write_network(
        self, network: nn.Module, stored: StoredNetwork, touched: frozenset[str], additions: Additions
    ) -> None:
        # published names; packed weights give views
        state: dict[str, Tensor] = network.state_dict()
        own_names = {tensor_name(name): name for name in state}
        template = next(network.parameters())  # no network's first layer is quantized
        fold = folding(additions, stored.name, template.device, template.dtype)

        places = {name: place for name, place in stored.places.items() if tensor_name(name) in touched}
        for name, values in stored_tensors(places, stored.headers, in_turn=True):
            _write(state, own_names[tensor_name(name)], fold(name, values), template)


def _write(state: Mapping[str, Tensor], name: str, values: Tensor, template: Tensor) -> None:
    """Write a tensor; for one in e4m3 the quantized values, and their scale."""
    weight = state[name]
    if weight.dtype != FLOAT8:
        weight.copy_(values)
        return

    # from what the layer held before it was quantized
    rows = quantize_reference(in_layout(values, template.device, template.dtype))
    weight.copy_(rows.values)
    state[name.removesuffix("weight") + "scale"].copy_(rows.scale)
