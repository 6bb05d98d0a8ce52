"""Names that LoRA files have for the layers of a network.

A name is found by making all of a model's own: kohya's scripts and LyCORIS write underscores for dots, so that the way
back is not unique.

- kohya's scripts and OneTrainer: ``lora_unet_…``, ``lora_te_…`` (for SDXL ``lora_te1_…``, ``lora_te2_…``); the UNet's
  also by the original code's blocks;
- LyCORIS by itself: ``lycoris_…``;
- diffusers: ``unet.…``, ``text_encoder.…``, also with attention processors, and the UNet's without a prefix;
- PEFT: ``base_model.model.…``;
- the original code: ``diffusion_model.…``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from intarsia.checkpoints.unet_names import FIXED, RESIDUAL

__all__ = ["Layer", "layer_names"]

Layer = tuple[str, str]
"""A network, by the name of its folder, and a layer of it."""

_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_FIXED = {ours: original for original, ours in FIXED.items()}
_RESIDUAL = {ours: original for original, ours in RESIDUAL.items()}


def layer_names(networks: Mapping[str, Iterable[str]], layers_per_block: int) -> dict[str, Layer]:
    """The layer that each name means.

    Args:
        networks: names of tensors, by network.
        layers_per_block: residual blocks of each level of the UNet, to count blocks as the original code did.
    """
    names: dict[str, Layer] = {}
    for network, tensors in networks.items():
        layers = {tensor.rpartition(".")[0].removeprefix("text_model.") for tensor in tensors}
        for layer in sorted(layers - {""}):
            found = _of_unet(layer, layers, layers_per_block) if network == "unet" else _of_text(network, layer)
            for name in found:
                names.setdefault(name, (network, layer))
    return names


def _of_unet(layer: str, layers: set[str], layers_per_block: int) -> Iterator[str]:
    flat = layer.replace(".", "_")
    yield from (f"unet.{layer}", layer, f"base_model.model.{layer}", f"base_model.model.unet.{layer}")
    yield from (f"lora_unet_{flat}", f"lycoris_{flat}", f"lycoris_unet_{flat}")

    attention, found, projection = layer.rpartition(".to_")
    if found:
        old = f"{attention}.processor.to_{projection.removesuffix('.0')}_lora"
        yield from (f"unet.{old}", old)

    original = _original(layer, layers, layers_per_block)
    if original:
        flat = original.replace(".", "_")
        yield from (f"lora_unet_{flat}", f"lycoris_{flat}", f"diffusion_model.{original}")
        yield from (f"model.diffusion_model.{original}", f"unet.{original}")


def _of_text(network: str, layer: str) -> Iterator[str]:
    numbered = "2" if network == "text_encoder_2" else "1"
    for full in (f"text_model.{layer}", layer):
        flat = full.replace(".", "_")
        yield from (f"{network}.{full}", f"lora_te{numbered}_{flat}", f"lycoris_{network}_{flat}")
        yield f"base_model.model.{network}.{full}"
        if numbered == "1":
            yield from (f"lora_te_{flat}", f"lycoris_{flat}", f"base_model.model.{full}")
        stem, _, projection = full.rpartition(".")
        if projection in _PROJECTIONS:
            yield f"{network}.{stem}.{_PROJECTIONS[projection]}_lora"


def _original(layer: str, layers: set[str], layers_per_block: int) -> str:
    """A layer of the UNet in the original code's names; "" where it has none."""
    if layer in _FIXED:
        return _FIXED[layer]
    steps = layer.split(".")
    if len(steps) < 4 or not steps[1].isdigit():
        return _middle(steps) if steps[0] == "mid_block" else ""
    if steps[0] == "mid_block":
        return _middle(steps)

    side, level, kind, index, *rest = steps
    if side not in ("down_blocks", "up_blocks") or not index.isdigit():
        return ""
    down = side == "down_blocks"
    first = int(level) * (layers_per_block + 1) + down
    blocks = "input_blocks" if down else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + layers_per_block}.0.op"
    if kind == "upsamplers":
        has_attention = any(each.startswith(f"{side}.{level}.attentions.") for each in layers)
        return f"{blocks}.{first + layers_per_block}.{1 + has_attention}.conv"
    return f"{blocks}.{first + int(index)}.{_in_block(kind, rest)}"


def _middle(steps: Sequence[str]) -> str:
    _, kind, index, *rest = steps
    block = _FIXED.get(f"mid_block.{kind}.{index}")
    return f"{block}.{_in_block(kind, rest).partition('.')[2]}" if block else ""


def _in_block(kind: str, rest: Sequence[str]) -> str:
    """The residual block is the first of a block's parts, attention the second."""
    within = ".".join(rest)
    return f"0.{_RESIDUAL.get(within, within)}" if kind == "resnets" else f"1.{within}"
