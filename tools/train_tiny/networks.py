"""The UNet and the text encoder of intarsia-tiny, and the noise schedule they are trained for."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tools.train_tiny.tokenizer import LENGTH

TEXT_WIDTH = 64
TEXT_LAYERS = 8
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def build_unet() -> UNet2DConditionModel:
    """Nine channels in (noisy latents 4, mask 1, latents of the masked image 4), four out; velocity."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=9,
        out_channels=4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(1, 1, 4, 4),  # diffusers reads this as the number of heads: 64, 32, 32 channels each
        norm_num_groups=4,
    )


def build_text_encoder(vocabulary: int) -> CLIPTextModel:
    """CLIP's text transformer, 8 layers of width 64; start and end tokens are the last two of the vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def signal_shares() -> torch.Tensor:
    """Cumulative product ᾱ of the "scaled linear" schedule, float64 [1000]."""
    first, last, count = SCHEDULER["beta_start"], SCHEDULER["beta_end"], SCHEDULER["num_train_timesteps"]
    betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64) ** 2  # type: ignore[operator]
    return torch.cumprod(1 - betas, 0)


def encode_text(encoder: CLIPTextModel, ids: torch.Tensor, layers_back: torch.Tensor) -> torch.Tensor:
    """Text states [N, 77, 64] for token ids [N, 77]; `layers_back` [N]: 1 = last layer, 2 = the one before …

    Every exit passes through the final norm, as Stable Diffusion's clip skip has it.
    """
    text = getattr(encoder, "text_model", encoder)
    states = torch.stack(encoder(input_ids=ids, output_hidden_states=True).hidden_states)
    chosen = states[len(states) - layers_back, torch.arange(len(ids), device=ids.device)]
    return text.final_layer_norm(chosen)
