"""Small Stable-Diffusion-shaped models with random weights, as diffusers folders, for tests of everything
that does not depend on a model being any good."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SD15_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer without merges: every text is spelled out."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Every parameter non-trivial, the zero-initialised ones too, and small enough to stay finite."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.05
            noise = torch.randn(parameter.shape, generator=generator) * scale
            is_gain = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
            parameter.copy_(1 + noise if is_gain else noise)


@torch.no_grad()
def _center_images(autoencoder: torch.nn.Module, last: torch.nn.Conv2d, generator: torch.Generator) -> None:
    """Scale the decoder's last convolution so that images of random latents fill the range without clipping."""
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    factor = 0.3 / autoencoder.decode(latents).sample.std(dim=(0, 2, 3))
    last.weight *= factor[:, None, None, None]
    last.bias.zero_()
    last.bias -= autoencoder.decode(latents).sample.mean(dim=(0, 2, 3)) * last.bias.new_tensor(
        0.5 if hasattr(autoencoder.decoder, "layers") else 1.0  # the Tiny layout doubles what its layers give
    )


def write_model(folder: Path, in_channels: int = 9, vae: str = "kl", seed: int = 0) -> Path:
    """A diffusers folder of a small random model; ``vae`` is ``kl`` or ``tiny``."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer = write_tokenizer(folder / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=77, pad_token_id=tokenizer.pad_token_id, **ends,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=in_channels, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip
    if vae == "kl":
        widths, kind = (8, 16, 16, 16), "EncoderBlock2D"
        autoencoder = AutoencoderKL(
            down_block_types=(f"Down{kind}",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
        )  # fmt: skip
    else:
        autoencoder = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
        )  # fmt: skip
    for module in (text, unet, autoencoder):
        _randomise(module, generator)
    decoder = autoencoder.decoder
    _center_images(autoencoder, decoder.conv_out if vae == "kl" else decoder.layers[-1], generator)
    parts = {
        "vae": autoencoder, "text_encoder": text, "tokenizer": tokenizer, "unet": unet,
        "scheduler": PNDMScheduler(**SD15_SCHEDULE), "safety_checker": None, "feature_extractor": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    kind_of = StableDiffusionInpaintPipeline if in_channels == 9 else StableDiffusionPipeline
    kind_of(**parts).save_pretrained(folder)
    return folder


def write_xl_model(folder: Path, seed: int = 0) -> Path:
    """A diffusers folder of a small random model of SDXL's shape: two text encoders, pooled text, sizes, 4 channels."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer = write_tokenizer(folder / "tokenizer")
    shape = {
        "vocab_size": len(tokenizer), "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
        "max_position_embeddings": 77, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    texts = (
        CLIPTextModel(CLIPTextConfig(hidden_size=16, **shape)),
        CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=32, projection_dim=24, hidden_act="gelu", **shape)),
    )
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), attention_head_dim=(2, 4), cross_attention_dim=48, norm_num_groups=8,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip
    kind = "EncoderBlock2D"
    autoencoder = AutoencoderKL(
        down_block_types=(f"Down{kind}",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, force_upcast=True,
        block_out_channels=(8, 16, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
    )  # fmt: skip
    for module in (*texts, unet, autoencoder):
        _randomise(module, generator)
    _center_images(autoencoder, autoencoder.decoder.conv_out, generator)
    StableDiffusionXLPipeline(
        vae=autoencoder, text_encoder=texts[0], text_encoder_2=texts[1], tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=unet, scheduler=PNDMScheduler(**SD15_SCHEDULE), add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_registry(path: Path, **models: tuple[Path, str]) -> Path:
    """A ``weights.toml`` of the given ``id=(folder, family)``; underscores in ids become dashes."""
    lines = ["schema = 1", f'default = "{next(iter(models)).replace("_", "-")}"']
    for name, (folder, family) in models.items():
        identifier = name.replace("_", "-")
        lines += [f"[models.{identifier}]", f'family = "{family}"', f"path = {json.dumps(str(folder))}"]
    path.write_text("\n".join(lines) + "\n")
    return path
