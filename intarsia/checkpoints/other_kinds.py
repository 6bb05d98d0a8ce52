"""Files that are no part of what runs here, by the names of their tensors, so that an error can say what they are."""

from __future__ import annotations

import re

from intarsia.checkpoints.header import Header
from intarsia.checkpoints.identified import Identified, main_dtype

__all__ = ["find_other"]

_MODEL = r"^(model\.diffusion_model\.|diffusion_model\.|transformer\.|model\.)?"

# By a pattern that one name of each such file matches; the first that is found names the file.
_KINDS = {
    r"^(control_model\.|controlnet_(cond_embedding|down_blocks|mid_block)|input_hint_block\.|lora_controlnet$)": (
        "a ControlNet"
    ),
    r"^lllite_": "a ControlNet-LLLite",
    r"^(adapter\.|body\.\d+\.(block|in_conv))": "a T2I adapter",
    r"motion_modules\.": "AnimateDiff's motion layers",
    _MODEL + r"(double_blocks|single_transformer_blocks|single_blocks)\.": "a model of the family Flux",
    _MODEL + r"(joint_blocks\.|transformer_blocks\.\d+\.ff_context\.)": "a model of the family SD3",
    _MODEL + r"(cap_embedder|noise_refiner|context_refiner)\.": "a model of the family Lumina",
    _MODEL + r"transformer_blocks\.\d+\.(attn\.add_q_proj|img_mod|txt_mod)": "a model of the family Qwen-Image",
    _MODEL + r"blocks\.\d+\.(cross_attn\.norm_k|self_attn\.norm_k)": "a model of the family Wan",
    _MODEL + r"(adaln_single|t_block|scale_shift_table)": "a model of the family PixArt or LTX",
    r"^(clip_txt_mapper|effnet_mapper|down_blocks\.\d+\.\d+\.effnet)": "a model of the family Stable Cascade",
    r"^(model\.)?(language_model\.)?(model\.)?(embed_tokens|layers\.\d+\.self_attn)\b": "a language model",
    r"^(shared\.weight|encoder\.block\.\d+\.layer)": "a T5 text encoder",
    r"^(image_proj|ip_adapter)\.": "an incomplete IP adapter",
    r"^vision_model\.|^visual\.": "a CLIP image encoder",
    r"^(text_model\.|embeddings\.token_embedding|transformer\.resblocks\.)": "a CLIP text encoder",
    r"^(model\.\d+\.|conv_first\.|body\.\d+\.rdb|RRDB_trunk|layers\.\d+\.residual_group)": "an upscaler",
    r"^(cond_stage_model|conditioner|first_stage_model|model_ema)\.": "a checkpoint without a UNet",
    r"^concept_embeds|special_care_embeds": "a safety checker, which is added as a folder with its config.json",
}


def find_other(header: Header) -> Identified:
    """What a file is that is nothing that runs here; "a file of tensors" where no name is known."""
    what = "a file of tensors that are of no known model"
    for pattern, kind in _KINDS.items():
        if any(re.search(pattern, name) for name in header.tensors):
            what = kind
            break
    if not header.tensors:
        what = "a file without tensors"

    return Identified(
        path=header.path,
        kind="other",
        what=what,
        dtype=main_dtype(header.tensors.values()),
        size=header.size,
        refused=f"it is {what}",
    )
