"""Full-size networks with seeded random weights, made where they are used.

Right for timing dense work, and for comparing pictures of the same weights; they say nothing of quality. The
same seed on the same device gives the same weights, so that engine and peers need not share memory. A model
folder whose ``model_index.json`` says ``random`` has no weights and is opened by :class:`RandomBackend`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from intarsia.backends.choose import BACKENDS
from intarsia.backends.protocol import ModelFiles
from intarsia.backends.torch.backend import TorchBackend
from intarsia.backends.torch.device import pick_dtype
from intarsia.backends.torch.session import TorchSession
from intarsia.backends.torch.state import State
from intarsia.execution import Execution
from intarsia.models.configs import UNETS, VAES
from intarsia.models.loading import Parts
from intarsia.models.text import TextEncoders, TextTower
from intarsia.models.tokens import load_tokens
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from intarsia.registry.registry import Registry

TOKENIZER = Registry().find("intarsia-tiny").path / "tokenizer"
_VOCABULARY = 49408
SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "set_alpha_to_one": False, "prediction_type": "epsilon",
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Which random networks: family, whether shrunk to a size for a CPU, and seed."""

    family: str
    shrunk: bool = False
    seed: int = 0

    @property
    def is_xl(self) -> bool:
        return self.family.startswith("sdxl")

    @property
    def schedule(self) -> dict[str, Any]:
        """``scheduler_config.json`` of the family."""
        return {**SCHEDULE, "timestep_spacing": "leading"} if self.is_xl else dict(SCHEDULE)


def unet_config(weights: Weights) -> UNetConfig:
    """The published shape, or a tenth of its widths and two text encoders of 32."""
    config = UNETS[weights.family]
    if not weights.shrunk:
        return config
    count = len(config.block_out_channels)
    width = 64 if weights.is_xl else 32
    return replace(
        config,
        block_out_channels=tuple(width // 10 for width in config.block_out_channels),
        transformer_layers=(1,) * count,
        heads=(2,) * count,
        cross_attention_dim=(width,) * count,
        norm_num_groups=8,
        time_embedding_dim=4 * (config.block_out_channels[0] // 10),
        addition_time_embed_dim=8 if weights.is_xl else None,
        added_inputs=32 + 6 * 8 if weights.is_xl else 0,
    )


def vae_config(weights: Weights) -> KLConfig:
    """The published shape, or eighths of its widths."""
    config = VAES[weights.family]
    if not weights.shrunk:
        return config
    return replace(config, block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=8)


def text_configs(weights: Weights) -> list[dict[str, Any]]:
    """CLIP ViT-L (Radford et al. 2021), and for SDXL OpenCLIP ViT-bigG beside it."""
    large = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    big = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    first = {**(small if weights.shrunk else large), "hidden_act": "quick_gelu"}
    second = {**(small if weights.shrunk else big), "hidden_act": "gelu"}
    second["projection_dim"] = second["hidden_size"]
    return [first, second] if weights.is_xl else [first]


def parts(weights: Weights, device: torch.device | str, dtype: torch.dtype) -> Parts:
    """All networks of a model, laid out as the loader leaves them; values are those of ``dtype``."""
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(weights.seed)

    def filled(module: nn.Module) -> Any:
        module.to_empty(device=device).to(dtype)
        _randomise(module, generator)
        return module.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    with torch.device("meta"):
        unet, vae = UNet(unet_config(weights)), AutoencoderKL(vae_config(weights))
    unet, vae = filled(unet), filled(vae)
    _settle(vae)
    tokens = load_tokens(TOKENIZER, 77, _VOCABULARY)
    towers = []
    for place, settings in enumerate(text_configs(weights)):
        kind = CLIPTextModelWithProjection if place else CLIPTextModel
        config = CLIPTextConfig(
            max_position_embeddings=77, vocab_size=_VOCABULARY, bos_token_id=None,
            eos_token_id=tokens.end, pad_token_id=tokens.pad, **settings,
        )  # fmt: skip
        with torch.device("meta"):
            model = kind(config)
        model = filled(model)
        inner = getattr(model, "text_model", model)
        inner.embeddings.position_ids = torch.arange(77, device=device).expand(1, -1)
        towers.append(TextTower(tokens, model))
    index = {"force_zeros_for_empty_prompt": weights.is_xl}
    text = TextEncoders(towers, penultimate=weights.is_xl)
    return Parts(unet=unet, vae=vae, text=text, scheduler=weights.schedule, index=index)


def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Gains 1, biases 0, everything else a quarter of the variance that keeps a layer's: finite in half precision."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5 / parameter[0].numel() ** 0.5, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def _settle(vae: AutoencoderKL) -> None:
    """A posterior without width, so that the sample that diffusers draws is the mode that we take."""
    layer: Any = vae.quant_conv
    with torch.no_grad():
        layer.weight[vae.latent_channels :] = 0
        layer.bias[vae.latent_channels :] = -30


def write_registry(folder: Path, models: dict[str, Weights]) -> Path:
    """Model folders that say which random weights, and the ``weights.toml`` that names them."""
    lines = ["schema = 1", f'default = "{next(iter(models))}"']
    for name, weights in models.items():
        model = folder / name
        (model / "scheduler").mkdir(parents=True, exist_ok=True)
        # here, as it is a file that a model's hash is made of
        (model / "model_index.json").write_text(json.dumps({"random": asdict(weights)}))
        (model / "scheduler" / "scheduler_config.json").write_text(json.dumps(weights.schedule))
        lines += [f"[models.{name}]", f'family = "{weights.family}"', f"path = {json.dumps(str(model))}"]
    path = folder / "weights.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


class RandomBackend:
    """The torch backend, on networks that are made instead of read.

    Attributes:
        convolutions: in which other forms sessions compute them.
    """

    convolutions: tuple[str, ...] = ()

    def __init__(self, device: str, execution: Execution) -> None:
        self._torch = TorchBackend(device, execution)
        self._torch.simulates = True  # so that a CPU rehearses what is for a GPU
        self.device, self.slots = self._torch.device, self._torch.slots

    def open(self, files: ModelFiles) -> TorchSession:
        weights = Weights(**json.loads((files.folder / "model_index.json").read_text())["random"])
        device = torch.device(self.device)
        networks = parts(weights, device, pick_dtype(device))
        return self._torch.open_parts(networks, precision=files.precision, convolutions=self.convolutions)

    def open_checker(self, folder: Path) -> Any:
        return self._torch.open_checker(folder)


def register() -> None:
    """Let ``Engine("random")`` find the backend: a backend is a name in this table, imported on use."""
    BACKENDS["random"] = "benchmarks.networks:RandomBackend"


@contextmanager
def decoded_samples() -> Iterator[list[Tensor]]:
    """The samples ``[4, h, w]`` that sessions of torch decode meanwhile, in float32 and in that order.

    Nothing is timed meanwhile: afterwards sessions are as they were.
    """
    samples: list[Tensor] = []
    decode = TorchSession.decode

    def keep(session: TorchSession, states: Sequence[State]) -> list[Any]:
        samples.extend(session._stepper.sample(state).float().clone() for state in states)
        return decode(session, states)

    sessions: Any = TorchSession
    sessions.decode = keep
    try:
        yield samples
    finally:
        sessions.decode = decode
