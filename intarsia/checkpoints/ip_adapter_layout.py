"""An IP adapter's two parts on disk: its weights, and the image encoder that it was trained with.

A folder of our own has both, unless its entry names another image encoder. As they are published
(huggingface.co/h94/IP-Adapter) several adapters lie beside one ``image_encoder``, and those of ``sdxl_models`` that end
in ``_vit-h`` were trained with the one of ``models``.
"""

from __future__ import annotations

from pathlib import Path

from intarsia.checkpoints.files import is_there, read_json
from intarsia.checkpoints.header import read_header
from intarsia.errors import WeightsError, shown

__all__ = ["WEIGHTS", "image_encoder", "weights_file"]

WEIGHTS = "ip_adapter.safetensors"
"""The weights in a folder of an adapter."""

_ENCODER = "image_encoder"

# Tensors whose second dimension is what the image encoder gives, and the key of its config that says how much.
_INPUTS = {"image_proj.proj.weight": "projection_dim", "image_proj.proj_in.weight": "hidden_size"}


def weights_file(path: Path) -> Path:
    """The weights of an adapter, which is a folder or the published file."""
    return path / WEIGHTS if path.is_dir() else path


def image_encoder(path: Path, declared: Path | None = None) -> Path:
    """The folder of an adapter's image encoder.

    Args:
        path: the adapter's folder or file.
        declared: what its entry names in place of its own: the folder of an encoder, or an adapter that has one.

    Raises:
        WeightsError: there is none that gives as many channels as the adapter takes; the message says where it is
            looked for.
    """
    if declared is not None:
        return _declared(path, declared)
    if path.is_dir():
        return path / _ENCODER
    places = [path.parent / _ENCODER, path.parent.parent / "models" / _ENCODER]
    key, channels = _takes(path)
    for place in places:
        config = place / "config.json"
        if config.is_file() and (not key or read_json(config).get(key) == channels):
            return place

    looked = " or ".join(str(place) for place in places)
    wanted = f" with {key} {channels}" if key else ""
    raise WeightsError(f"{path}: an IP adapter needs its image encoder: put that{wanted} into {looked}")


def _declared(path: Path, declared: Path) -> Path:
    """The encoder that an entry names, once it gives as many channels as the adapter takes."""
    is_encoder = is_there(declared / "config.json")
    folder = declared if is_encoder or not declared.exists() else image_encoder(declared)
    if not is_there(folder / "config.json"):
        raise WeightsError(f"{path}: its image_encoder {declared} is no folder with config.json and weights")

    key, channels = _takes(weights_file(path))
    gives = read_json(folder / "config.json").get(key) if key else None
    if key and gives != channels:
        raise WeightsError(f"{path}: takes an image encoder with {key} {channels}; that of {folder} is {shown(gives)}")
    return folder


def _takes(path: Path) -> tuple[str, int]:
    """The key of an encoder's config that must have this value; "" where the layout is not known."""
    tensors = read_header(path).tensors
    for name, key in _INPUTS.items():
        if name in tensors and len(tensors[name].shape) == 2:
            return key, tensors[name].shape[1]
    return "", 0
