"""Weights of networks: read from safetensors files, and checked against the network they are for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import torch
from torch import Tensor, nn

from intarsia.checkpoints.header import Header, read_header
from intarsia.checkpoints.stored import Place, StoredNetwork
from intarsia.errors import WeightsError, one_line
from intarsia.models.attention import SelfAttention

# Tensors that an error names.
_NAMED = 3

Network = TypeVar("Network", bound=nn.Module)

Change = Callable[[str, Tensor], Tensor]
"""From a tensor's name, and the tensor as it is stored, to the one that is loaded."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def stored_names(paths: Iterable[Path]) -> list[str]:
    """Names of all tensors of some safetensors files.

    Raises:
        WeightsError: as :func:`~intarsia.checkpoints.header.read_header`.
    """
    return [name for path in paths for name in read_header(path).tensors]


def check_size(source: Path, blocks: int, stored: int) -> None:
    """Refuse a config with more blocks than its weights have tensors, before any block is built.

    Args:
        source: the config, for the error.
        blocks: residual, transformer and other blocks that the config asks for; each has several tensors.
        stored: tensors of its weights.
    """
    if blocks > stored:
        raise WeightsError(f"{source}: asks for {blocks} blocks, more than the {stored} tensors of its weights")


def read_tensors(paths: Iterable[Path], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of some safetensors files; otherwise as :func:`read_network`."""
    headers = {path: read_header(path) for path in paths}
    places = {name: Place(file=path, name=name) for path, header in headers.items() for name in header.tensors}
    return _read_places(places, headers, device, dtype)


def read_network(
    stored: StoredNetwork, device: torch.device, dtype: torch.dtype, change: Change | None = None
) -> dict[str, Tensor]:
    """The tensors of a network, each in memory of its own on ``device``, as ``dtype`` and in the layout of networks.

    One tensor at a time is held twice. Bytes are read, not mapped: a tensor in mapped memory would change, or crash,
    with the file. All are read into the same memory: what each was read into, were it allocated and freed between
    weights that stay, would leave gaps there, a quarter of SDXL's size.

    Args:
        change: from name and stored tensor to the tensor that is loaded.

    Raises:
        WeightsError: a file that is missing or has changed, values of a type that is not known, or that are not finite.
    """
    return _read_places(stored.places, stored.headers, device, dtype, change)


def _read_places(
    places: Mapping[str, Place],
    headers: Mapping[Path, Header],
    device: torch.device,
    dtype: torch.dtype,
    change: Change | None = None,
) -> dict[str, Tensor]:
    state = _packed(places, headers, device, dtype)
    for name, values in stored_tensors(places, headers, in_turn=True):
        if change is not None:
            values = change(name, values)
        if name in state:
            state[name].copy_(values)
        else:
            state[name] = in_layout(values, device, dtype)
    return state


def stored_tensors(
    places: Mapping[str, Place], headers: Mapping[Path, Header], *, in_turn: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Tensors as they are stored, one after the other; errors as :func:`read_network`.

    Args:
        in_turn: all have the same memory, so that each is there only until the next one is asked for; else each has
            memory of its own.
    """
    shared = _memory(max((_size(place, headers) for place in places.values()), default=0)) if in_turn else None
    with ExitStack() as files:
        opened = {path: files.enter_context(_opened(headers[path])) for path in {each.file for each in places.values()}}
        for name, place in _in_order(places, headers):
            size = _size(place, headers)
            memory = _memory(size) if shared is None else shared[:size]
            yield name, _read(opened[place.file], headers[place.file], place, memory)


def _in_order(places: Mapping[str, Place], headers: Mapping[Path, Header]) -> list[tuple[str, Place]]:
    """As they lie in their files, which a disk reads fastest."""
    return sorted(places.items(), key=lambda item: (item[1].file, headers[item[1].file].tensors[item[1].name].start))


def _packed(
    places: Mapping[str, Place], headers: Mapping[Path, Header], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Memory for the projections of self-attention, which networks hold in one tensor.

    See :class:`~.attention.SelfAttention`.
    """
    state: dict[str, Tensor] = {}
    for name in places:
        prefix, found, _ = name.partition("attn1.to_q.weight")
        names = [f"{prefix}attn1.{part}" for part in SelfAttention.NAMES]
        if not found or any(part not in places for part in names):
            continue
        shapes = [_shape(places[part], headers) for part in names]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2:
            continue
        rows, columns = shapes[0]
        together = torch.empty(len(names) * rows, columns, device=device, dtype=dtype)
        state |= zip(names, together.chunk(len(names)), strict=True)
    return state


def _memory(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def _size(place: Place, headers: Mapping[Path, Header]) -> int:
    """Bytes of a stored tensor, or of some rows of one."""
    stored = headers[place.file].tensors[place.name]
    size = stored.end - stored.start
    if place.rows is None:
        return size
    first, end = place.rows
    return (end - first) * (size // stored.shape[0])


def _shape(place: Place, headers: Mapping[Path, Header]) -> tuple[int, ...]:
    return headers[place.file].tensors[place.name].shape


def in_layout(values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy on a device: of a convolution's weights as channels_last, of anything else as it is."""
    layout = torch.channels_last if values.ndim == 4 else torch.contiguous_format
    made = torch.empty(values.shape, device=device, dtype=dtype, memory_format=layout)
    return made.copy_(values)


@contextmanager
def _opened(header: Header) -> Iterator[BinaryIO]:
    """An open safetensors file, which must be the one whose header was read."""
    path = header.path
    try:
        with path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != (header.size, header.changed_ns):
                raise WeightsError(f"{path}: changed while it was read")
            yield file
    except OSError as exc:
        raise WeightsError(f"{path}: cannot be read: {one_line(exc)}") from exc


def _read(file: BinaryIO, header: Header, place: Place, memory: Tensor) -> Tensor:
    """One tensor as it is stored, read into some bytes."""
    stored = header.tensors[place.name]
    dtype = _DTYPES.get(stored.dtype)
    if dtype is None:
        raise WeightsError(f"{header.path}: {place.name}: values of type {stored.dtype} are not supported")

    shape, start = list(stored.shape), stored.start
    if place.rows is not None:
        first, end = place.rows
        row = (stored.end - stored.start) // shape[0]
        shape[0], start = end - first, start + first * row

    _read_into(file, start, memory, header.path)
    values = memory.view(dtype).reshape(shape)
    if values.is_floating_point() and values.element_size() == 1:
        values = values.to(torch.float16)  # exactly; hardly anything computes with eight bits
    if not _is_finite(values):
        raise WeightsError(f"{header.path}: {place.name} has values that are not finite")
    if place.flattened:
        values = values.flatten(1)
    return values.t() if place.transposed else values


def _read_into(file: BinaryIO, start: int, content: Tensor, path: Path) -> None:
    buffer = memoryview(cast(Any, content.numpy()))
    file.seek(start)
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not count:
            raise WeightsError(f"{path}: changed while it was read")
        done += count


def _is_finite(values: Tensor) -> bool:
    """Whether all are: the least and the largest value then are, and neither is NaN.

    Nothing is allocated, unlike for a sum, for which torch converts all of the values first.
    """
    if not values.is_floating_point() or values.numel() == 0:
        return True
    least, largest = values.aminmax()
    return bool(least.isfinite()) and bool(largest.isfinite())


def tensor_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a network, by its name."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def fill(network: Network, state: Mapping[str, Tensor], source: Path) -> Network:
    """Give a network that was built on the meta device its weights, without a second copy.

    Returns:
        ``network``, for inference: no gradients, evaluation mode, channels_last.

    Raises:
        WeightsError: tensors missing, left over or of another shape; names ``source`` and the first of them.
    """
    shapes = tensor_shapes(network)
    _refuse(source, "missing", [name for name in shapes if name not in state])
    _refuse(source, "unexpected", [name for name in state if name not in shapes])

    misfits = []
    for name, shape in shapes.items():
        stored = tuple(state[name].shape)
        if stored != shape:
            misfits.append(f"{name} {stored}, not {shape}")
    _refuse(source, "wrongly shaped", misfits)

    network.load_state_dict(state, assign=True)
    network.requires_grad_(False)
    network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _refuse(source: Path, what: str, names: list[str]) -> None:
    if not names:
        return
    listed = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise WeightsError(f"{source}: {what} tensors: {listed}{more}")
