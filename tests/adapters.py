"""LoRAs and IP adapters with random weights, in the spellings that are about, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

# network → layer → (down, up, alpha)
Pairs = dict[str, dict[str, tuple[torch.Tensor, torch.Tensor, float]]]

_TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_UNET_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def layers_of(network: torch.nn.Module) -> list[str]:
    """Names of all linear and convolution layers of one of diffusers' or transformers' networks."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


def random_pairs(
    networks: dict[str, torch.nn.Module], layers: dict[str, Iterable[str]], seed: int = 0, alphas: bool = True
) -> Pairs:
    """Matrices for some layers: the rank is 2 or 3, alpha differs from it and from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    pairs: Pairs = {}
    for network, names in layers.items():
        for i, name in enumerate(names):
            weight = networks[network].get_submodule(name).weight
            rank = 2 + i % 2
            down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
            up = torch.randn(len(weight), rank, *(1,) * (weight.ndim - 2), generator=generator) * 0.3
            pairs.setdefault(network, {})[name] = (down, up, 0.5 + i % 4 if alphas else float(rank))
    return pairs


def add_by_hand(networks: dict[str, torch.nn.Module], pairs: Pairs, strength: float) -> None:
    """The oracle: W + strength · alpha / rank · up · down, layer by layer, in diffusers' own modules."""
    with torch.no_grad():
        for network, layers in pairs.items():
            for name, (down, up, alpha) in layers.items():
                module = networks[network].get_submodule(name)
                change = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(module.weight.shape)
                module.weight += strength * alpha / len(down) * change


def _old_name(name: str) -> str:
    """transformers' older layout, which all files about have."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


def kohya(pairs: Pairs) -> dict[str, torch.Tensor]:
    """As kohya's scripts write it."""
    state = {}
    for network, layers in pairs.items():
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}[network]
        for name, (down, up, alpha) in layers.items():
            stem = f"{prefix}_{(name if network == 'unet' else _old_name(name)).replace('.', '_')}"
            state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            state[f"{stem}.alpha"] = torch.tensor(alpha)
    return state


def peft(pairs: Pairs) -> dict[str, torch.Tensor]:
    """As diffusers writes it; alphas have no place but the metadata."""
    state = {}
    for network, layers in pairs.items():
        for name, (down, up, _) in layers.items():
            stem = f"{network}.{name if network == 'unet' else _old_name(name)}"
            state |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    return state


def processors(pairs: Pairs) -> dict[str, torch.Tensor]:
    """As diffusers wrote it before PEFT, attention layers only; alpha is the rank."""
    state = {}
    for network, layers in pairs.items():
        for name, (down, up, _) in layers.items():
            if network == "unet":
                ending = next(each for each in _UNET_ATTENTION if name.endswith("." + each))
                stem = f"unet.{name.removesuffix(ending)}processor.{ending.removesuffix('.0')}_lora"
            else:
                stem = f"{network}.{_old_name(name)}.lora_linear_layer"
            state |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return state


def attention_layers(network: torch.nn.Module) -> list[str]:
    """Projections of all attentions."""
    return [name for name in layers_of(network) if name.endswith((*_UNET_ATTENTION, *_TEXT_ATTENTION))]


def write(path: Path, state: dict[str, torch.Tensor], settings: dict[str, object] | None = None) -> Path:
    """A safetensors file; ``settings`` are what diffusers stores of PEFT's configuration."""
    metadata = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(settings)} if settings else {})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


def write_image_encoder(folder: Path, seed: int = 0) -> CLIPVisionModelWithProjection:
    """A small CLIP image encoder: 4 patches of 16 pixels, 24 channels, embeddings of 20."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, projection_dim=20, num_hidden_layers=3, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    encoder = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    encoder.save_pretrained(folder)
    return encoder


def ip_adapter_state(unet: torch.nn.Module, width: int, plus: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """An IP adapter for one of diffusers' UNets, named as the published files are."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    def norm(stem: str, size: int) -> dict[str, torch.Tensor]:
        noise = torch.randn(2, size, generator=generator) * 0.1
        return {f"{stem}.weight": 1 + noise[0], f"{stem}.bias": noise[1].clone()}

    state: dict[str, torch.Tensor] = {}
    if plus:
        hidden, inner = 16, 64
        state |= {"latents": torch.randn(1, 5, hidden, generator=generator), **norm("norm_out", width)}
        state |= {"proj_in.weight": matrix(hidden, 24), "proj_in.bias": torch.zeros(hidden) + 0.1}
        state |= {"proj_out.weight": matrix(width, hidden), "proj_out.bias": torch.zeros(width) - 0.1}
        for i in range(4):
            attention, wide = f"layers.{i}.0", f"layers.{i}.1"
            state |= norm(f"{attention}.norm1", hidden) | norm(f"{attention}.norm2", hidden) | norm(f"{wide}.0", hidden)
            state |= {f"{attention}.to_q.weight": matrix(inner, hidden)}
            state |= {f"{attention}.to_kv.weight": matrix(2 * inner, hidden)}
            state |= {f"{attention}.to_out.weight": matrix(hidden, inner)}
            state |= {f"{wide}.1.weight": matrix(4 * hidden, hidden), f"{wide}.3.weight": matrix(hidden, 4 * hidden)}
    else:
        state |= {"proj.weight": matrix(4 * width, 20), "proj.bias": torch.zeros(4 * width) + 0.1}
        state |= norm("norm", width)
    state = {f"image_proj.{name}": tensor for name, tensor in state.items()}
    for number, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if name.endswith("attn2.processor"):
            for each in ("to_k_ip", "to_v_ip"):
                state[f"ip_adapter.{number}.{each}.weight"] = matrix(attention.to_q.out_features, width)
    return state


def write_ip_adapter(folder: Path, state: dict[str, torch.Tensor]) -> CLIPVisionModelWithProjection:
    """The folder that a registry entry names; returns its image encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "ip_adapter.safetensors", state)
    return write_image_encoder(folder / "image_encoder")
