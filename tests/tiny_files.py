"""Safetensors files with the tensor names of real ones and hardly any bytes: for what looks at headers alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BITS = {"F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "I8": 8, "I64": 64}

Shapes = Mapping[str, Iterable[int]]

# Shapes are of real models but for widths that nothing is told by.
SD1_UNET: dict[str, tuple[int, ...]] = {
    "input_blocks.0.0.weight": (8, 4, 3, 3),
    "input_blocks.1.1.proj_in.weight": (8, 8, 1, 1),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 768),
    "middle_block.1.proj_in.weight": (8, 8, 1, 1),
    "out.2.weight": (4, 8, 3, 3),
}
SD2_UNET = SD1_UNET | {
    "input_blocks.1.1.proj_in.weight": (8, 8),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 1024),
}
SDXL_UNET: dict[str, tuple[int, ...]] = {
    "input_blocks.0.0.weight": (8, 4, 3, 3),
    "input_blocks.4.1.proj_in.weight": (8, 8),
    "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (8, 2048),
    "middle_block.1.proj_in.weight": (8, 8),
    "label_emb.0.0.weight": (8, 2816),
    "out.2.weight": (4, 8, 3, 3),
}
SD1_TEXT = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (4, 8)}
SD2_TEXT = {"cond_stage_model.model.token_embedding.weight": (4, 8)}
SDXL_TEXT = {
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": (4, 8),
    "conditioner.embedders.1.model.token_embedding.weight": (4, 8),
}
VAE: dict[str, tuple[int, ...]] = {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}

KOHYA = "lora_unet_down_blocks_0_attentions_0"
SD1_LORA: dict[str, tuple[int, ...]] = {
    f"{KOHYA}_proj_in.lora_down.weight": (2, 8, 1, 1),
    f"{KOHYA}_proj_in.lora_up.weight": (8, 2, 1, 1),
    f"{KOHYA}_transformer_blocks_0_attn2_to_k.lora_down.weight": (2, 768),
    f"{KOHYA}_transformer_blocks_0_attn2_to_k.lora_up.weight": (8, 2),
    f"{KOHYA}_transformer_blocks_0_attn2_to_k.alpha": (),
}
SDXL_LORA: dict[str, tuple[int, ...]] = {
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.lora_down.weight": (2, 2048),
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.lora_up.weight": (8, 2),
}


def under(prefix: str, shapes: Shapes) -> dict[str, Iterable[int]]:
    """The same tensors with a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


def channels(unet: Shapes, count: int) -> dict[str, Iterable[int]]:
    """A UNet of that many input channels."""
    return {**unet, "input_blocks.0.0.weight": (8, count, 3, 3)}


def checkpoint(unet: Shapes = SD1_UNET, text: Shapes = SD1_TEXT, vae: Shapes = VAE) -> dict[str, Iterable[int]]:
    """A whole checkpoint in the original code's names."""
    return {
        **under("model.diffusion_model.", unet),
        **text,
        **under("first_stage_model.", vae),
    }


def header(shapes: Shapes, dtype: str = "F16", metadata: Mapping[str, str] | None = None) -> tuple[dict[str, Any], int]:
    """A header as JSON values, and the bytes of the tensors behind it."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * BITS[dtype] // 8
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    return fields, position


def encoded(text: bytes, data: bytes = b"") -> bytes:
    """The bytes of a file with this header, whatever it holds."""
    return len(text).to_bytes(8, "little") + text + data


def write(
    path: Path,
    shapes: Shapes,
    dtype: str = "F16",
    metadata: Mapping[str, str] | None = None,
    *,
    fill: int = 0,
) -> Path:
    """A valid file; ``fill`` is the value of every byte, so that files of equal tensors can differ."""
    fields, size = header(shapes, dtype, metadata)
    path.write_bytes(encoded(json.dumps(fields).encode(), bytes([fill]) * size))
    return path
