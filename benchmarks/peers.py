"""The peers: diffusers' pipelines on the same weights and the same noise, each with its best documented flags."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as sd_inpaint
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint as xl_inpaint
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

import intarsia
from benchmarks.cases import Case
from benchmarks.jobs import PROMPT, SEED, pictures
from benchmarks.networks import TOKENIZER, Weights, unet_config, vae_config
from intarsia.models.loading import Parts
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import KLConfig

Pictures = Callable[[], list[Image.Image]]


def pipeline(weights: Weights, parts: Parts, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' inpainting pipeline with copies of the networks of ``parts``, in memory order as it comes."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**diffusers_unet(unet_config(weights)))
        vae = diffusers.AutoencoderKL(**diffusers_vae(vae_config(weights)))
    texts = [copy.deepcopy(tower.model).to(device, dtype) for tower in parts.text.towers]
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER), local_files_only=True)
    networks = {
        "unet": _filled(unet, parts.unet, device, dtype), "vae": _filled(vae, parts.vae, device, dtype),
        "text_encoder": texts[0], "tokenizer": tokenizer,
        "scheduler": diffusers.DPMSolverMultistepScheduler.from_config(weights.schedule, use_karras_sigmas=True),
    }  # fmt: skip
    if weights.is_xl:
        more = {"text_encoder_2": texts[1], "tokenizer_2": tokenizer, "force_zeros_for_empty_prompt": True}
        made = diffusers.StableDiffusionXLInpaintPipeline(**networks, **more, add_watermarker=False)
    else:
        made = diffusers.StableDiffusionInpaintPipeline(
            **networks, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    made.set_progress_bar_config(disable=True)
    return made


def _filled(module: nn.Module, source: Any, device: torch.device, dtype: torch.dtype) -> nn.Module:
    module.to_empty(device=device).to(dtype).requires_grad_(False).eval()
    module.load_state_dict(source.state_dict())
    return module


def diffusers_unet(config: UNetConfig) -> dict[str, Any]:
    """``UNet2DConditionModel``'s settings for one of our shapes."""
    added: dict[str, Any] = {}
    if config.added_inputs:
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.addition_time_embed_dim,
            "projection_class_embeddings_input_dim": config.added_inputs,
        }
    return {
        "sample_size": config.sample_size, "in_channels": config.in_channels, "out_channels": config.out_channels,
        "block_out_channels": config.block_out_channels, "layers_per_block": config.layers_per_block[0],
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in config.down_attention],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in config.up_attention],
        "transformer_layers_per_block": list(config.transformer_layers), "attention_head_dim": list(config.heads),
        "cross_attention_dim": config.cross_attention_dim[0], "norm_num_groups": config.norm_num_groups,
        "use_linear_projection": config.linear_projection, **added,
    }  # fmt: skip


def diffusers_vae(config: KLConfig) -> dict[str, Any]:
    """``AutoencoderKL``'s settings for one of our shapes."""
    count = len(config.block_out_channels)
    return {
        "block_out_channels": config.block_out_channels, "layers_per_block": config.layers_per_block,
        "down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count,
        "norm_num_groups": config.norm_num_groups, "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling_factor, "force_upcast": False,
    }  # fmt: skip


def packaged(device: torch.device) -> Any:
    """diffusers' pipeline on the packaged model, float32."""
    folder = intarsia.Registry().find("intarsia-tiny").path
    made = diffusers.StableDiffusionInpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    made.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(made.scheduler.config, use_karras_sigmas=True)
    made.set_progress_bar_config(disable=True)
    return made


def call(made: Any, case: Case, size: tuple[int, int] | None = None, on_step: Any = None) -> Pictures:
    """The case's job for a pipeline: PIL in, PIL out, our noise. The prompt is encoded here, once, as our engine does.

    Args:
        on_step: called with ``(pipeline, step, timestep, tensors)`` after each step.
    """
    width, height = size or (case.size, case.size)
    image, mask = pictures(width, height)
    unit = [torch.from_numpy(intarsia.noise(SEED + i, (4, height // 8, width // 8))) for i in range(case.batch)]
    noise = torch.stack(unit)
    is_xl = hasattr(made, "text_encoder_2")
    prompts = _encoded(made, is_xl)

    def run() -> list[Image.Image]:
        with _noise(xl_inpaint if is_xl else sd_inpaint, noise):
            done = made(
                **prompts, image=image, mask_image=mask, width=width, height=height, strength=case.strength,
                num_inference_steps=case.steps, guidance_scale=case.guidance, num_images_per_prompt=case.batch,
                callback_on_step_end=on_step,
            )  # fmt: skip
        return list(done.images)

    return run


def with_samples(made: Any, case: Case) -> tuple[list[Image.Image], torch.Tensor]:
    """A pipeline's images, and the samples ``[B, 4, h, w]`` that they were decoded from, in float32."""
    samples: list[torch.Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        samples[:] = [tensors["latents"].float().clone()]
        return tensors

    return call(made, case, on_step=keep)(), samples[0]


@torch.no_grad()
def _encoded(made: Any, is_xl: bool) -> dict[str, torch.Tensor]:
    """What the text encoders make of the prompt and of the negative one, by the names of a call's arguments."""
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    found = made.encode_prompt(
        prompt=PROMPT, negative_prompt=None if is_xl else "", device=made.device, num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )  # fmt: skip
    return dict(zip(names, found, strict=False))


@contextmanager
def _noise(module: Any, noise: torch.Tensor) -> Iterator[None]:
    """The pipeline's starting noise is ours; its own argument for latents would leave the image out."""
    drawn = module.randn_tensor
    module.randn_tensor = lambda shape, generator=None, device=None, dtype=None: noise.to(device, dtype)
    try:
        yield
    finally:
        module.randn_tensor = drawn


def eager(made: Any) -> Any:
    """As it comes: half precision, SDPA attention."""
    return made


def merged(made: Any) -> Any:
    """tomesd at its usual ratio."""
    import tomesd

    tomesd.apply_patch(made, ratio=0.5)
    return made


def compiled(made: Any) -> Any:
    """max-autotune, channels_last, 1x1 convolutions as products, the autoencoder too.

    Coordinate descent tuning is left off: it takes longer than all cases together. On a CPU it is a rehearsal: the
    networks are traced, and run as they were.
    """
    import torch._inductor.config as inductor

    inductor.conv_1x1_as_mm = True
    inductor.epilogue_fusion = False
    for network in (made.unet, made.vae):
        network.to(memory_format=torch.channels_last)
    how: dict[str, Any] = {"mode": "max-autotune"} if made.device.type == "cuda" else {"backend": "eager"}
    made.unet = torch.compile(made.unet, fullgraph=True, **how)
    made.vae.encoder = torch.compile(made.vae.encoder, fullgraph=True, **how)
    made.vae.decoder = torch.compile(made.vae.decoder, fullgraph=True, **how)
    return made


def onnx(made: Any, folder: Path) -> Any:
    """optimum's pipeline for ONNX Runtime, exported from the same weights."""
    from optimum.onnxruntime import ORTStableDiffusionInpaintPipeline, ORTStableDiffusionXLInpaintPipeline

    made.save_pretrained(folder)
    is_xl = hasattr(made, "text_encoder_2")
    kind = ORTStableDiffusionXLInpaintPipeline if is_xl else ORTStableDiffusionInpaintPipeline
    return kind.from_pretrained(folder, export=True, provider="CUDAExecutionProvider")


def missing(peer: str) -> str | None:
    """Why a peer cannot be measured here; None where it can."""
    needed = {"tomesd": ("tomesd",), "onnx": ("onnxruntime", "optimum")}.get(peer, ())
    absent = [name for name in needed if find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if peer == "onnx":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "ONNX Runtime is installed without CUDA"
    return None


MAKERS: dict[str, Callable[[Any], Any]] = {"eager": eager, "tomesd": merged, "compile": compiled}
