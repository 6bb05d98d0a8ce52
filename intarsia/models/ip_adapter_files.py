"""A folder of an IP adapter, or the published file → its networks.

A folder is ::

    ip_adapter.safetensors   image_encoder/config.json   image_encoder/model.safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intarsia.checkpoints.ip_adapter_layout import image_encoder, weights_file
from intarsia.checkpoints.layout import find_weights
from intarsia.errors import WeightsError, one_line
from intarsia.models.clip_config import read_vision_shape
from intarsia.models.ip_adapter import ImageProjection, ImagePrompts, IPAdapter, Resampler, resampler_shape
from intarsia.models.unet import UNet
from intarsia.models.weight_files import check_size, fill, read_tensors, stored_names

_PREFIX = "image_proj."


def load_ip_adapter(
    source: Path, unet: UNet, device: torch.device, dtype: torch.dtype, encoder: Path | None = None
) -> ImagePrompts:
    """Load an IP adapter for one UNet.

    Args:
        source: its folder, or its file beside which its image encoder lies.
        encoder: what its entry names in place of that image encoder.

    Raises:
        WeightsError: anything missing, unreadable, of a layout that is not known, or made for another UNet.
    """
    path = weights_file(source)
    state = read_tensors([path], device, dtype)
    vision, config = load_image_encoder(source, device, dtype, encoder)
    width = unet.config.cross_attention_dim[0]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    with torch.device("meta"):
        projection = projection_of(path, shapes, width)
        network = IPAdapter(projection, unet)
    adapter = fill(network, state, path)
    check_encoder(path, adapter, config.to_dict())
    processor = _processor(int(config.image_size))
    return ImagePrompts(adapter, vision, processor)


def projection_of(path: Path, shapes: Mapping[str, tuple[int, ...]], width: int) -> ImageProjection | Resampler:
    """The projection whose layout an adapter's tensors have.

    Args:
        path: of the adapter, for the error.
        width: of the UNet's prompts.
    """
    shapes = {name: shape for name, shape in shapes.items() if name.startswith(_PREFIX)}
    try:
        if f"{_PREFIX}proj.weight" in shapes:
            rows, embedding = shapes[f"{_PREFIX}proj.weight"]
            return ImageProjection(embedding, rows // width, width)
        if f"{_PREFIX}latents" in shapes:
            return Resampler(resampler_shape(shapes, _PREFIX))

    except (KeyError, IndexError, ValueError) as exc:
        raise WeightsError(f"{path}: not an IP adapter's image projection: {one_line(exc)}") from exc
    raise WeightsError(
        f"{path}: not a layout that is run; plain adapters (image_proj.proj) and plus (image_proj.latents) are, "
        "full-face and FaceID are not"
    )


def check_encoder(path: Path, adapter: IPAdapter, config: Mapping[str, Any]) -> None:
    """WeightsError where an adapter takes another number of channels than its image encoder gives."""
    projection = adapter.image_proj
    if isinstance(projection, Resampler):
        expected, encoded = projection.proj_in.in_features, int(config["hidden_size"])
    else:
        expected, encoded = projection.proj.in_features, int(config["projection_dim"])
    if expected != encoded:
        raise WeightsError(f"{path}: made for an image encoder of {expected} channels, image_encoder gives {encoded}")


def load_image_encoder(
    source: Path, device: torch.device, dtype: torch.dtype, encoder: Path | None = None
) -> tuple[nn.Module, Any]:
    """An adapter's image encoder, and its config; arguments and errors as of :func:`load_ip_adapter`."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = image_encoder(source, encoder)
    path = folder / "config.json"
    shape = read_vision_shape(path)
    files = find_weights(folder, "model")
    check_size(path, shape["num_hidden_layers"], len(stored_names(files)))
    try:
        # attention is named here, so that nothing else can name it
        config = CLIPVisionConfig(**shape, attn_implementation="sdpa")
        with torch.device("meta"):
            model: nn.Module = CLIPVisionModelWithProjection(config)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError, ImportError) as exc:
        raise WeightsError(f"{path}: not a CLIP image encoder's config: {one_line(exc)}") from exc

    state = read_tensors(files, device, dtype)
    state.pop("vision_model.embeddings.position_ids", None)  # a constant that old files store
    model = fill(model, state, files[0])
    embeddings: Any = model.get_submodule("vision_model.embeddings")
    # a constant that is not stored; built on the meta device, it holds nothing yet
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    return model, config


def _processor(size: int) -> Any:
    from transformers import CLIPImageProcessorPil

    square = {"height": size, "width": size}
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square)
