"""Weight files of a diffusers folder: read, and checked against the network they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from intarsia.checkpoints.files import regular
from intarsia.errors import WeightsError, one_line

# Tensors that an error names.
_NAMED = 3

Network = TypeVar("Network", bound=nn.Module)


def stored_names(paths: Iterable[Path]) -> list[str]:
    """Names of all tensors of some safetensors files, from their headers. WeightsError as :func:`read_tensors`."""
    names: list[str] = []
    for path in paths:
        with _opened(path) as file:
            names += file.keys()
    return names


def check_size(source: Path, blocks: int, files: Iterable[Path]) -> None:
    """Refuse a config with more blocks than its weights have tensors, before any block is built.

    Args:
        source: the config, for the error.
        blocks: residual, transformer and other blocks that the config asks for; each has several tensors.
    """
    stored = len(stored_names(files))
    if blocks > stored:
        raise WeightsError(f"{source}: asks for {blocks} blocks, more than the {stored} tensors of its weights")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file, which must be a regular file."""
    regular(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{path}: not readable as safetensors: {one_line(exc)}") from exc


def read_tensors(
    paths: Iterable[Path],
    device: torch.device,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] | None = None,
    select: Callable[[str], bool] | None = None,
) -> dict[str, Tensor]:
    """All tensors of some safetensors files, on ``device`` as ``dtype``; one tensor at a time is held twice.

    Args:
        change: from name and stored tensor to the tensor that is loaded.
        select: whether to read a tensor, by name; None reads all.

    Raises:
        WeightsError: a file that is missing, truncated or not in the safetensors format.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                if select is not None and not select(name):
                    continue
                stored = file.get_tensor(name)
                # copied in any case: a tensor in mapped memory would change, or crash, with the file
                if change is None:
                    state[name] = stored.to(device=device, dtype=dtype, copy=True)
                else:  # without a variable for the changed tensor, which is freed before the next one is read
                    state[name] = change(name, stored).to(device=device, dtype=dtype, copy=True)
    return state


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
