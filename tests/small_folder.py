"""The smallest diffusers folder that loads, of our own networks: needs torch and transformers, not diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_tiny import AutoencoderTiny, TinyConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
    "in_channels": 9,
    "sample_size": 8,
}
TINY = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8] * 4,
    "decoder_block_out_channels": [8] * 4,
    "num_encoder_blocks": [1] * 4,
    "num_decoder_blocks": [1] * 4,
}
KL = {"_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "norm_num_groups": 4}
SCHEDULER = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}


def write_network(
    folder: Path, network: torch.nn.Module, config: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)


def write_text(folder: Path) -> None:
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "ab", "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **ends}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    size = len(words)
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    clip = CLIPTextConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        **ids,
    )
    CLIPTextModel(clip).save_pretrained(folder / "text_encoder")


def write_small_model(folder: Path) -> Path:
    """A whole small model, float16 as it would be shipped."""
    torch.manual_seed(0)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionInpaintPipeline"}))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    write_network(folder / "unet", UNet(UNetConfig.from_dict(UNET)), UNET, torch.float16)
    write_network(folder / "vae", AutoencoderTiny(TinyConfig.from_dict(TINY)), TINY, torch.float16)
    write_text(folder)
    return folder
