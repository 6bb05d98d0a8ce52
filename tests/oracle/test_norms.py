"""The epsilon of every norm is diffusers' and transformers': outputs of small networks hardly show a wrong one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
diffusers = pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

from diffusers.models.embeddings import IPAdapterPlusImageProjection

from intarsia.export.clip import ClipText
from intarsia.models.clip_config import text_shape
from intarsia.models.ip_adapter import Resampler, resampler_shape
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig

UNETS = {
    "sd": {"cross_attention_dim": 16},
    "another epsilon": {"cross_attention_dim": 16, "norm_eps": 3e-4},
    "xl": {
        "cross_attention_dim": 16, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 56, "use_linear_projection": True, "transformer_layers_per_block": 2,
    },
}  # fmt: skip
UNET = {
    "block_out_channels": (16, 32), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1, "attention_head_dim": 2,
    "norm_num_groups": 8,
}  # fmt: skip
KL = {
    "block_out_channels": (8, 8), "norm_num_groups": 4, "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def epsilons(network: torch.nn.Module) -> dict[str, float]:
    """By the name of the norm; only modules with weights of their own."""
    return {name: float(module.eps) for name, module in network.named_modules() if hasattr(module, "eps")}


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    found, wanted = epsilons(ours), epsilons(theirs)
    assert len(wanted) > 3
    assert found == wanted


@pytest.mark.parametrize("kind", UNETS)
def test_norms_of_a_unet_have_the_epsilons_of_diffusers(kind):
    settings = {**UNET, **UNETS[kind]}
    with torch.device("meta"):
        same(UNet(UNetConfig.from_dict(settings)), diffusers.UNet2DConditionModel(**settings))


def test_norms_of_an_autoencoder_have_the_epsilons_of_diffusers():
    with torch.device("meta"):
        same(AutoencoderKL(KLConfig.from_dict(KL)), diffusers.AutoencoderKL(**KL))


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_text_encoder_for_export(eps):
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = text_shape({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "layer_norm_eps": eps})
    with torch.device("meta"):
        ours = ClipText(shape, penultimate=False, projected=False)
        same(
            ours, getattr(CLIPTextModel(CLIPTextConfig(**shape)), "text_model", CLIPTextModel(CLIPTextConfig(**shape)))
        )


def test_norms_of_a_resampler_have_the_epsilons_of_diffusers():
    sizes = {"embed_dims": 24, "output_dims": 16, "hidden_dims": 128, "heads": 2, "num_queries": 5}
    with torch.device("meta"):
        theirs = IPAdapterPlusImageProjection(**sizes)
    assert {module.eps for module in theirs.modules() if hasattr(module, "eps")} == {1e-5}
    shapes = {
        "latents": (1, 5, 128), "proj_in.weight": (128, 24), "proj_out.weight": (16, 128),
        **{f"layers.{i}.0.to_q.weight": (128, 128) for i in range(4)},
        **{f"layers.{i}.1.1.weight": (512, 128) for i in range(4)},
    }  # fmt: skip
    with torch.device("meta"):
        ours = Resampler(resampler_shape(shapes, ""))
    assert len(epsilons(ours)) == len(epsilons(theirs))
    assert set(epsilons(ours).values()) == {1e-5}
