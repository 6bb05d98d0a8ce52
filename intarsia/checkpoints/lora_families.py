"""LoRAs in one file, and the families that they were made for, by the layers that they change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from intarsia.checkpoints.header import Header
from intarsia.checkpoints.identified import SD1, SD2, SDXL, Identified, main_dtype, version_of

__all__ = ["find_lora", "peft_settings_beside"]

# Ends of the names of tensors that change a layer: LoRA, and LyCORIS' forms of it.
_CHANGES = re.compile(
    r"(\.lora_(down|up|mid|A|B)(\.\w+)?\.weight|_lora\.(down|up)\.weight|\.lora\.(down|up)\.weight"
    r"|\.lora_linear_layer\.(down|up)\.weight|\.(hada|lokr|b?oft)_\w+|\.(diff|diff_b|w_norm|b_norm)|\.on_input)$"
)
# Layers of networks of other families, and what they are called.
_OTHERS = {
    r"^(lora_unet_|lora_transformer_|diffusion_model\.|transformer\.|model\.diffusion_model\.|base_model\.model\.)?"
    r"(double_blocks|single_blocks|single_transformer_blocks)[._]": "Flux",
    r"^(lora_unet_|diffusion_model\.|transformer\.)?joint_(transformer_)?blocks[._]": "SD3",
    r"^(lora_te3_|text_encoder_3\.)": "SD3 or Flux",
    r"^(lora_unet_blocks_|diffusion_model\.blocks\.|blocks\.\d)": "a video model (Wan)",
    r"^(lora_transformer_|transformer\.)": "a transformer (Flux, SD3 or others)",
    r"^(lora_prior_|lora_unet_\w*effnet)": "Stable Cascade",
}
_DEEP = re.compile(r"(attentions|input_blocks|output_blocks|mid_block|middle_block)[._].*transformer_blocks[._][1-9]")
# The first level of the UNet, where SD1 and SD2 have attention and SDXL has none.
_FIRST_LEVEL = re.compile(r"(down_blocks[._]0[._]attentions|input_blocks[._][12][._]1)[._]")
_SDXL_ONLY = re.compile(r"^lora_te[12]_|text_encoder_2\.|label_emb|add_embedding")
_TEXT_LAYER = re.compile(r"encoder[._]layers[._](\d+)[._]")
_SD1_TEXT_LAYERS = 12
_CONTEXT = re.compile(r"attn2[._](to_k|to_v|processor\.to_k_lora|processor\.to_v_lora)[._]")
_CONTEXT_WIDTHS = {768: SD1, 1024: SD2, 2048: SDXL}


def find_lora(header: Header) -> Identified | None:
    """The LoRA in a file; None where no tensor changes a layer."""
    names = list(header.tensors)
    changes = [name for name in names if _CHANGES.search(name)]
    if not changes:
        return None

    refused = ""
    other = _other_family(changes)
    if other:
        refused = f"it is for {other}"
    return Identified(
        path=header.path,
        kind="lora",
        what=f"a LoRA for {other}" if other else "a LoRA",
        families=() if other else _families(header, changes),
        dtype=main_dtype(header.tensors.values()),
        size=header.size,
        refused=refused,
        title=header.metadata.get("modelspec.title") or header.metadata.get("ss_output_name", ""),
    )


def _other_family(names: Iterable[str]) -> str:
    names = list(names)
    for pattern, family in _OTHERS.items():
        if any(re.search(pattern, name) for name in names):
            return family
    return ""


def _families(header: Header, names: list[str]) -> tuple[str, ...]:
    """By layers that only one version has; then by the width of prompts; then by what the trainer wrote."""
    if any(_SDXL_ONLY.search(name) or _DEEP.search(name) for name in names):
        return SDXL

    text_layers = [int(match[1]) for name in names if (match := _TEXT_LAYER.search(name))]
    if text_layers and max(text_layers) >= _SD1_TEXT_LAYERS:
        return SD2
    by_context = _CONTEXT_WIDTHS.get(_context_width(header, names), ())
    stated = by_context or version_of(header.metadata)
    if stated:
        return stated

    if _has_convolution(header, names) or text_layers:
        return SD1
    is_first_level = any(_FIRST_LEVEL.search(name) for name in names)
    return (*SD1, *SD2) if is_first_level else ()


def _context_width(header: Header, names: Iterable[str]) -> int:
    """The width of what cross-attention's keys are made of; 0 where no tensor says it."""
    for name in names:
        shape = header.tensors[name].shape
        is_input = re.search(r"(down|lora_A)\.weight$|\.hada_w1_b$|\.diff$", name)
        if is_input and _CONTEXT.search(name) and len(shape) >= 2:
            return shape[1]
    return 0


def _has_convolution(header: Header, names: Iterable[str]) -> bool:
    """Whether its transformers' inputs are 1x1 convolutions, as SD1's are; from SD2 on they are matrices."""
    inputs = (name for name in names if re.search(r"proj_in\.lora_(down|A)\.weight$", name))
    return any(len(header.tensors[name].shape) == 4 for name in inputs)


def peft_settings_beside(header: Header) -> Path | None:
    """The file of PEFT's LoraConfig in the folder of a LoRA that PEFT wrote; None where there is none."""
    path = header.path.parent / "adapter_config.json"
    is_of_peft = any(name.startswith("base_model.model.") for name in header.tensors)
    return path if is_of_peft and path.is_file() else None
