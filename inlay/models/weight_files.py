"""Weight files of a diffusers folder: found, read, and checked against the network they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from inlay.errors import WeightsError
from inlay.models.config_values import one_line as one_line
from inlay.models.config_values import read_json as read_json

_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_NAMED = 3

Network = TypeVar("Network", bound=nn.Module)


def find_weights(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one component: one file, or the shards that its index names.

    Args:
        folder: the component's folder, for example ``model/unet``.
        stem: ``diffusion_pytorch_model`` or ``model``.

    Raises:
        WeightsError: no such file, or only pickled ones, which are refused.
    """
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    for index in sorted(folder.glob(f"{stem}*safetensors.index*.json")):
        return _shards(index)
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    if pickled:
        raise WeightsError(
            f"{folder / pickled[0]}: pickled weights are refused, because loading a pickle can run any code; "
            f"convert it to {stem}.safetensors"
        )
    raise WeightsError(f"{folder / stem}.safetensors: no such file, nor .fp16.safetensors, nor an index of shards")


def _shards(index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise WeightsError(f"{index}: weight_map must give each tensor the name of a file in the same folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(f"{index.parent / missing[0]}: no such file, although {index.name} names it")
    return [index.parent / name for name in names]


def read_tensors(
    paths: Iterable[Path],
    device: torch.device,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> dict[str, Tensor]:
    """All tensors of some safetensors files, on ``device`` as ``dtype``; one tensor at a time is held twice.

    Args:
        change: makes of each tensor, by name, as it is stored, the one to be loaded.
        wanted: which to read, by name; None is all.

    Raises:
        WeightsError: a file that is missing, truncated or not in the safetensors format.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118  (not a mapping)
                    if wanted is not None and not wanted(name):
                        continue
                    stored = file.get_tensor(name)
                    tensor = stored if change is None else change(name, stored)
                    # copied in any case: a tensor in mapped memory would change, or crash, with the file
                    state[name] = tensor.to(device=device, dtype=dtype, copy=True)
        except (SafetensorError, OSError) as exc:
            raise WeightsError(f"{path}: not readable as safetensors: {one_line(exc)}") from exc
    return state


def fill(network: Network, state: Mapping[str, Tensor], source: Path) -> Network:
    """Give a network that was built on the meta device its weights, without a second copy.

    Returns:
        ``network``, for inference: no gradients, evaluation mode, channels_last.

    Raises:
        WeightsError: tensors missing, left over or of another shape; names ``source`` and the first of them.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    _refuse(source, "missing", [name for name in wanted if name not in state])
    _refuse(source, "unexpected", [name for name in state if name not in wanted])
    found = {name: tuple(state[name].shape) for name in wanted}
    _refuse(
        source,
        "wrongly shaped",
        [f"{name} {found[name]}, not {shape}" for name, shape in wanted.items() if found[name] != shape],
    )
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _refuse(source: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise WeightsError(f"{source}: {what} tensors: {', '.join(names[:_NAMED])}{more}")
