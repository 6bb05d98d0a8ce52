"""LoRA and LoHa as changes of a network's weights, and their tensors under the names of kohya's and LyCORIS' files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

ENDINGS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


class LowRank(nn.Module):
    """A LoRA layer (Hu et al. 2021): weight + alpha / rank · up · down."""

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.alpha = alpha
        inner = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inner) / math.sqrt(inner))
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight."""
        return weight + self.scale * (self.up @ self.down).view_as(weight)

    def tensors(self, shape: torch.Size) -> dict[str, torch.Tensor]:
        """The layer's tensors as kohya's files have them."""
        rank, ones = len(self.down), (1,) * (len(shape) - 2)
        return {
            "lora_down.weight": self.down.detach().reshape(rank, *shape[1:]),
            "lora_up.weight": self.up.detach().reshape(shape[0], rank, *ones),
            "alpha": torch.tensor(self.alpha),
        }


class Hadamard(nn.Module):
    """A LoHa layer (Hyeon-Woo et al. 2021, LyCORIS): weight + alpha / rank · (w1a · w1b) ∘ (w2a · w2b)."""

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.alpha = alpha
        rows, inner = len(weight), weight[0].numel()
        # LyCORIS' own start: one factor is zero, so that the change is, and none has a vanishing gradient for long.
        self.w1_a = nn.Parameter(torch.randn(rows, rank) * 0.1)
        self.w1_b = nn.Parameter(torch.randn(rank, inner))
        self.w2_a = nn.Parameter(torch.zeros(rows, rank))
        self.w2_b = nn.Parameter(torch.randn(rank, inner))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed weight."""
        product = (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)
        return weight + self.scale * product.view_as(weight)

    def tensors(self, shape: torch.Size) -> dict[str, torch.Tensor]:
        """The layer's tensors as LyCORIS' files have them; all are matrices, whatever the shape."""
        factors = {f"hada_{name}": value.detach() for name, value in self.named_parameters()}
        return {**factors, "alpha": torch.tensor(self.alpha)}


KINDS: dict[str, type[LowRank] | type[Hadamard]] = {"lora": LowRank, "loha": Hadamard}


def attach(network: nn.Module, kind: str, rank: int, alpha: float) -> dict[str, LowRank | Hadamard]:
    """Put an adapter on every linear and 1×1 layer of a UNet's transformers; returns them by the layer's name."""
    layers = {name: layer for name, layer in network.named_modules() if name.endswith(ENDINGS)}
    added: dict[str, LowRank | Hadamard] = {}
    for name, layer in layers.items():
        adapter = KINDS[kind](layer.weight, rank, alpha)
        parametrize.register_parametrization(layer, "weight", adapter)
        added[name] = adapter
    return added


def file_tensors(network: nn.Module, adapters: dict[str, LowRank | Hadamard]) -> dict[str, torch.Tensor]:
    """All tensors of the file, float16, by kohya's names."""
    tensors: dict[str, torch.Tensor] = {}
    for name, adapter in adapters.items():
        stem = "lora_unet_" + name.replace(".", "_")
        layer: Any = network.get_submodule(name)
        own = adapter.tensors(layer.weight.shape)
        tensors |= {f"{stem}.{key}": value.half().contiguous() for key, value in own.items()}
    return tensors


@torch.no_grad()
def apply(network: nn.Module, tensors: Mapping[str, torch.Tensor], strength: float) -> None:
    """Add an adapter's changes to a UNet's weights for good; KeyError where it has layers that the UNet lacks."""
    layers = {"lora_unet_" + name.replace(".", "_"): layer for name, layer in network.named_modules()}
    for stem in {name.split(".")[0] for name in tensors}:
        names = [name for name in tensors if name.startswith(f"{stem}.")]
        own = {name.removeprefix(f"{stem}."): tensors[name].float() for name in names}
        layer: Any = layers[stem]
        if "hada_w1_a" in own:
            change = (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"])
            rank = len(own["hada_w1_b"])
        else:
            change = own["lora_up.weight"].flatten(1) @ own["lora_down.weight"].flatten(1)
            rank = len(own["lora_down.weight"])
        layer.weight += strength * float(own["alpha"]) / rank * change.view_as(layer.weight)
