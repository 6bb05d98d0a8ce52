"""Small models of each version of Stable Diffusion, written as people have them: one file in the original code's names.

The names are made from diffusers' by rules of our own, the other way around than the package reads them; a test has
diffusers' converters read the files too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

ROWS = 49408
State = dict[str, torch.Tensor]

_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks of one model, as diffusers and transformers have them."""

    family: str
    unet: Any
    vae: Any
    texts: list[Any]


def make_networks(family: str, *, shallow: bool = False) -> Networks:
    """A model of the smallest widths that keep the rules of its version: heads, groups, levels.

    Args:
        shallow: a UNet of SDXL's with two levels, of one block each; for what takes long for each layer.
    """
    version, channels = family.removesuffix("-inpaint"), 9 if family.endswith("-inpaint") else 4
    widths = {"sd15": (32, 32, 64, 64), "sd21": (64, 64, 128, 128), "sdxl": (64, 64, 128)}[version]
    text_widths = {"sd15": (64,), "sd21": (64,), "sdxl": (64, 128)}[version]
    settings: dict[str, Any] = {"attention_head_dim": 8}
    if version != "sd15":
        settings = {"attention_head_dim": tuple(width // 64 for width in widths), "use_linear_projection": True}
    if version == "sdxl":
        settings |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": text_widths[1] + 6 * 256,
        }
    if shallow:
        widths = widths[:2]
        settings |= {
            "attention_head_dim": settings["attention_head_dim"][:2],
            "transformer_layers_per_block": (1, 1),
            "down_block_types": settings["down_block_types"][:2],
            "up_block_types": settings["up_block_types"][1:],
            "layers_per_block": 1,
        }
    unet = UNet2DConditionModel(
        in_channels=channels, block_out_channels=widths, cross_attention_dim=sum(text_widths), **settings
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), layers_per_block=1 if shallow else 2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.13025 if version == "sdxl" else 0.18215,
    )  # fmt: skip
    networks = Networks(family, unet, vae, [_text(version, i, width) for i, width in enumerate(text_widths)])
    generator = torch.Generator().manual_seed(0)
    for module in (unet, vae, *networks.texts):
        _randomize(module, generator)
    return networks


def _text(version: str, index: int, width: int) -> Any:
    is_open_clip = version == "sd21" or index == 1
    config = CLIPTextConfig(
        vocab_size=ROWS, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2,
        num_attention_heads=width // 64, hidden_act="gelu" if is_open_clip else "quick_gelu", projection_dim=width,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if index == 1 else CLIPTextModel)(config)


@torch.no_grad()
def _randomize(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Values that half precision holds exactly, so that a file in it is the same model."""
    module.eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        scale = 0.5 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.05
        noise = torch.randn(parameter.shape, generator=generator) * scale
        is_gain = parameter.ndim == 1 and "norm" in name and name.endswith("weight")
        parameter.copy_((1 + noise if is_gain else noise).half().float())


def checkpoint(networks: Networks) -> State:
    """All of a model under the original code's names."""
    version = networks.family.removesuffix("-inpaint")
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in unet_state(networks.unet).items()}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in vae_state(networks.vae).items()}
    if version == "sd15":
        return state | _transformers_state(networks.texts[0], "cond_stage_model.transformer.")
    if version == "sd21":
        return state | _open_clip_state(networks.texts[0], "cond_stage_model.model.", unused_layer=True)
    state |= _transformers_state(networks.texts[0], "conditioner.embedders.0.transformer.")
    return state | _open_clip_state(networks.texts[1], "conditioner.embedders.1.model.")


def save(path: Path, state: State, dtype: torch.dtype = torch.float16, metadata: dict[str, str] | None = None) -> Path:
    """Write a file of one number format."""
    converted = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).clone().contiguous()
        for name, tensor in state.items()
    }
    save_file(converted, path, {"format": "pt", **(metadata or {})})
    return path


def unet_state(unet: Any) -> State:
    """A UNet's tensors under the original code's names, without a prefix."""
    return {_unet_name(name, unet.config): tensor for name, tensor in unet.state_dict().items()}


def _unet_name(name: str, config: Any) -> str:
    layer, _, kind = name.rpartition(".")
    if layer in _TOP:
        return f"{_TOP[layer]}.{kind}"
    steps = layer.split(".")
    if steps[0] == "mid_block":
        number = 1 if steps[1] == "attentions" else 2 * int(steps[2])
        rest = ".".join(steps[3:])
        return f"middle_block.{number}.{_RESIDUAL.get(rest, rest)}.{kind}"

    level, block, number, rest = int(steps[1]), steps[2], int(steps[3]), ".".join(steps[4:])
    layers = config.layers_per_block
    part = "1" if block == "attentions" else "0"
    if steps[0] == "down_blocks":
        index = 1 + level * (layers + 1) + (layers if block == "downsamplers" else number)
        inner = "op" if block == "downsamplers" else _RESIDUAL.get(rest, rest)
        return f"input_blocks.{index}.{part}.{inner}.{kind}"

    index = level * (layers + 1) + (layers if block == "upsamplers" else number)
    if block == "upsamplers":
        part = "2" if config.up_block_types[level].startswith("Cross") else "1"
    return f"output_blocks.{index}.{part}.{_RESIDUAL.get(rest, rest)}.{kind}"


def vae_state(vae: Any) -> State:
    """An autoencoder's tensors under the original code's names, without a prefix."""
    levels, state = len(vae.config.block_out_channels), {}
    for name, tensor in vae.state_dict().items():
        steps = name.split(".")
        if steps[0].endswith("quant_conv") or len(steps) == 3:
            state[name.replace("conv_norm_out", "norm_out")] = tensor
            continue
        side, part, rest = steps[0], steps[1], ".".join(steps[4:-1])
        if part == "mid_block":
            layer = f"block_{int(steps[3]) + 1}.{rest}"
            if steps[2] == "attentions":
                layer = f"attn_1.{_VAE_ATTENTION[rest]}"
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
            state[f"{side}.mid.{layer}.{steps[-1]}"] = tensor
            continue
        level = int(steps[2]) if part == "down_blocks" else levels - 1 - int(steps[2])
        inner = f"block.{steps[4]}.{'.'.join(steps[5:-1])}".replace("conv_shortcut", "nin_shortcut")
        if steps[3] != "resnets":
            inner = f"{steps[3].removesuffix('rs')}.conv"
        state[f"{side}.{part.removesuffix('_blocks')}.{level}.{inner}.{steps[-1]}"] = tensor
    return state


def _transformers_state(text: Any, prefix: str) -> State:
    """CLIP-L as transformers 4 had it: all of it in a ``text_model``, and a constant."""
    state = {}
    for name, tensor in text.state_dict().items():
        state[f"{prefix}text_model.{name.removeprefix('text_model.')}"] = tensor
    state[f"{prefix}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state


def _open_clip_state(text: Any, prefix: str, *, unused_layer: bool = False) -> State:
    """Under OpenCLIP's names; Stable Diffusion 2's files have one layer more than is used."""
    source = {name.removeprefix("text_model."): tensor for name, tensor in text.state_dict().items()}
    projection = source.get("text_projection.weight", torch.eye(text.config.hidden_size))
    state = {
        "token_embedding.weight": source["embeddings.token_embedding.weight"],
        "positional_embedding": source["embeddings.position_embedding.weight"],
        "ln_final.weight": source["final_layer_norm.weight"],
        "ln_final.bias": source["final_layer_norm.bias"],
        "text_projection": projection.T,
        "logit_scale": torch.tensor(4.6052),
    }
    layers = text.config.num_hidden_layers
    for index in range(layers + unused_layer):
        old, new = f"encoder.layers.{min(index, layers - 1)}", f"transformer.resblocks.{index}"
        for kind in ("weight", "bias"):
            parts = [source[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            for ours, theirs in _OPEN_CLIP.items():
                state[f"{new}.{theirs}.{kind}"] = source[f"{old}.{ours}.{kind}"]
    return {prefix + name: tensor for name, tensor in state.items()}
