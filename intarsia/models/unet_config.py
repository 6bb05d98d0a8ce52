"""What a UNet looks like, read from the ``config.json`` beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intarsia.errors import WeightsError, shown
from intarsia.models.config_values import flag, number, refuse, whole, wholes

_KIND = "UNet"
_DOWN_TYPES = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
_UP_TYPES = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3

# Variants of UNet2DConditionModel that this network does not have: key → the values that mean "not used".
_FIXED: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a UNet. Tuples have one entry per level, highest resolution first.

    ``heads`` counts attention heads. In ``config.json`` its key is ``attention_head_dim``, an old misnomer that the
    published files keep (huggingface/diffusers issue 2011).
    """

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_attention: tuple[bool, ...] = (True, True, True, False)
    up_attention: tuple[bool, ...] = (False, True, True, True)
    """lowest resolution first, as in ``up_block_types``"""
    mid_block: bool = True
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    transformer_layers: tuple[int, ...] = (1, 1, 1, 1)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    cross_attention_dim: tuple[int, ...] = (768, 768, 768, 768)
    in_channels: int = 4
    out_channels: int = 4
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    linear_projection: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    time_embedding_dim: int = 1280
    addition_time_embed_dim: int | None = None
    """width of each embedded size of SDXL's added conditioning; None: no added conditioning"""
    added_inputs: int = 0
    """pooled text plus embedded sizes (``projection_class_embeddings_input_dim``)"""
    sample_size: int | None = None
    """side of the latents it was trained at"""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> UNetConfig:
        """Read a diffusers ``UNet2DConditionModel`` config.

        Absent keys have diffusers' defaults. Keys that do not belong to that class are passed over, as
        diffusers does: the weights' names are checked anyway.

        Raises:
            WeightsError: a value this network has no code for; names the key, the value and what is allowed.
        """
        refuse(_KIND, config, _FIXED)
        channels = wholes(_KIND, config, "block_out_channels", (320, 640, 1280, 1280))
        levels = len(channels)
        added = config.get("addition_embed_type")
        if added not in (None, "text_time"):
            raise _unsupported("addition_embed_type", added, "None or 'text_time'")

        size = config.get("sample_size")
        return cls(
            block_out_channels=channels,
            down_attention=_attention(config, "down_block_types", _DOWN_TYPES, levels),
            up_attention=_attention(config, "up_block_types", _UP_TYPES, levels),
            mid_block=_mid_block(config),
            layers_per_block=_by_level(config, "layers_per_block", 2, levels),
            transformer_layers=_by_level(config, "transformer_layers_per_block", 1, levels, least=0),
            heads=_by_level(config, "attention_head_dim", 8, levels),
            cross_attention_dim=_by_level(config, "cross_attention_dim", 1280, levels),
            in_channels=whole(_KIND, config, "in_channels", 4),
            out_channels=whole(_KIND, config, "out_channels", 4),
            norm_num_groups=whole(_KIND, config, "norm_num_groups", 32),
            norm_eps=number(_KIND, config, "norm_eps", 1e-5),
            linear_projection=flag(_KIND, config, "use_linear_projection", False),
            flip_sin_to_cos=flag(_KIND, config, "flip_sin_to_cos", True),
            freq_shift=number(_KIND, config, "freq_shift", 0.0, positive=False),
            time_embedding_dim=whole(_KIND, config, "time_embedding_dim", 4 * channels[0]),
            addition_time_embed_dim=whole(_KIND, config, "addition_time_embed_dim", None) if added else None,
            added_inputs=whole(_KIND, config, "projection_class_embeddings_input_dim", None) if added else 0,
            sample_size=size if isinstance(size, int) else None,
        )

    @property
    def blocks(self) -> int:
        """Residual and transformer blocks of the network, each of several tensors."""
        total = 0
        if self.mid_block:
            total += 2 + self.transformer_layers[-1]

        up_attention = self.up_attention[::-1]
        for level, layers in enumerate(self.layers_per_block):
            down, up = layers, layers + 1
            total += down + up

            depth = self.transformer_layers[level]
            if self.down_attention[level]:
                total += down * depth
            if up_attention[level]:
                total += up * depth
        return total

    def __post_init__(self) -> None:
        groups = self.norm_num_groups
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if width % groups:
                raise _unsupported("block_out_channels", width, f"a multiple of norm_num_groups={groups}")
            if width % heads:
                raise _unsupported("attention_head_dim", heads, f"a divisor of block_out_channels' {width}")


def _unsupported(key: str, value: object, allowed: str) -> WeightsError:
    return WeightsError(f"{_KIND} config: {key} must be {allowed}, not {shown(value)}")


def _by_level(config: Mapping[str, Any], key: str, default: int, levels: int, *, least: int = 1) -> tuple[int, ...]:
    return wholes(_KIND, config, key, (default,) * levels, count=levels, least=least)


def _attention(config: Mapping[str, Any], key: str, default: tuple[str, ...], levels: int) -> tuple[bool, ...]:
    types = config.get(key, default)
    way = "Down" if key.startswith("down") else "Up"
    with_attention = f"CrossAttn{way}Block2D"
    without = f"{way}Block2D"
    if not isinstance(types, Sequence) or any(name not in (with_attention, without) for name in types):
        raise _unsupported(key, types, f"made of {with_attention} and {without}")
    if len(types) != levels:
        raise _unsupported(key, types, f"{levels} names, one for each of block_out_channels")
    return tuple(name == with_attention for name in types)


def _mid_block(config: Mapping[str, Any]) -> bool:
    name = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if name not in (None, "UNetMidBlock2DCrossAttn"):
        raise _unsupported("mid_block_type", name, "None or 'UNetMidBlock2DCrossAttn'")
    return name is not None
