"""The networks on their own: configs that are refused, properties that need no reference."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from intarsia.errors import WeightsError
from intarsia.models.attention import feature_map, tokens_of
from intarsia.models.embeddings import sinusoid
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig

SMALL = UNetConfig(
    block_out_channels=(16, 32),
    down_attention=(False, True),
    up_attention=(True, False),
    layers_per_block=(1, 1),
    transformer_layers=(1, 1),
    heads=(2, 2),
    cross_attention_dim=(12, 12),
    norm_num_groups=8,
    time_embedding_dim=64,
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("act_fn", "mish"),
        ("addition_embed_type", "image"),
        ("attention_head_dim", 7),
        ("attention_head_dim", (8, 8)),
        ("block_out_channels", ()),
        ("block_out_channels", (320, 640, 1280, 1281)),
        ("block_out_channels", "320"),
        ("class_embed_type", "projection"),
        ("conv_in_kernel", 1),
        ("cross_attention_norm", "layer_norm"),
        ("down_block_types", ("DownBlock2D",) * 3),
        ("down_block_types", ("KDownBlock2D",) * 4),
        ("dual_cross_attention", True),
        ("encoder_hid_dim", 768),
        ("in_channels", 0),
        ("in_channels", True),
        ("layers_per_block", (2, 2)),
        ("layers_per_block", 0),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("num_attention_heads", 8),
        ("only_cross_attention", [False, False, True, True]),
        ("resnet_time_scale_shift", "scale_shift"),
        ("time_cond_proj_dim", 256),
        ("time_embedding_type", "fourier"),
        ("transformer_layers_per_block", [[1, 1], [2, 2], [4, 4], [1, 1]]),
        ("up_block_types", ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D")),
    ],
)
def test_unet_configs_without_code_are_refused_by_name(key, value):
    with pytest.raises(WeightsError, match=f"{key} must be ") as caught:
        UNetConfig.from_dict({"cross_attention_dim": 768, key: value})
    assert "\n" not in str(caught.value)


def test_added_conditioning_needs_its_sizes():
    with pytest.raises(WeightsError, match="addition_time_embed_dim must be a whole number from 1"):
        UNetConfig.from_dict({"addition_embed_type": "text_time"})


def test_an_empty_config_is_that_of_sd1_with_other_text():
    config = UNetConfig.from_dict({"only_cross_attention": [False] * 4, "_diffusers_version": "0.6.0", "decay": 0.9})
    assert config.cross_attention_dim == (1280,) * 4
    assert config.block_out_channels == (320, 640, 1280, 1280)
    assert config.time_embedding_dim == 1280


def test_timesteps_as_the_paper_has_them():
    """sin and cos of t / 10000^(2i/width), by hand for width 4."""
    row = sinusoid(torch.tensor([3.0]), 4)[0]
    by_hand = torch.tensor([3.0, 0.03]).cos().tolist() + torch.tensor([3.0, 0.03]).sin().tolist()
    assert row.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert sinusoid(torch.tensor([3.0]), 5)[0, 4] == 0
    assert sinusoid(torch.tensor([3], dtype=torch.int64), 4).dtype == torch.float32


def test_tokens_share_memory_with_a_channels_last_map():
    x = torch.rand(2, 8, 3, 5).to(memory_format=torch.channels_last)
    tokens = tokens_of(x)
    assert tokens.data_ptr() == x.data_ptr()
    back = feature_map(tokens, 3, 5)
    assert torch.equal(back, x)
    assert back.data_ptr() == x.data_ptr()
    assert back.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 3)])
def test_evaluation_is_reproducible_and_channels_last(size):
    torch.manual_seed(0)
    unet = UNet(SMALL).eval().to(memory_format=torch.channels_last)
    sample, hidden = torch.randn(2, 4, *size), torch.randn(2, 5, 12)
    with torch.no_grad():
        emb, cross_kv = unet.embed(torch.tensor([10.0, 700.0])), unet.cross_kv(hidden)
        out = unet(sample, emb, cross_kv)
        again = unet(sample.to(memory_format=torch.channels_last), emb, cross_kv)
    assert out.shape == sample.shape
    assert torch.equal(out, again)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.isfinite().all()


def test_half_precision_runs_throughout():
    """bfloat16 has 8 bits of mantissa: some hundredths of error on outputs of about 1."""
    torch.manual_seed(0)
    unet = UNet(SMALL).eval()
    sample, hidden, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12), torch.tensor([10.0, 700.0])
    with torch.no_grad():
        exact = unet(sample, unet.embed(steps), unet.cross_kv(hidden))
        unet.bfloat16()
        out = unet(sample.bfloat16(), unet.embed(steps), unet.cross_kv(hidden.bfloat16()))
    assert out.dtype == torch.bfloat16
    assert 0 < float((out - exact).abs().max()) < 0.05


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_a_shrunk_autoencoder_gives_the_same_bits(layers):
    """Powers of two are exact, and norms do not see them; a scale that is left out somewhere is seen at once."""
    torch.manual_seed(0)
    vae = AutoencoderKL(KLConfig(block_out_channels=(8, 16, 16), layers_per_block=layers, norm_num_groups=4))
    for name, parameter in vae.named_parameters():
        if parameter.ndim == 1:  # torch starts norms at one and zero
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name and name.endswith("weight")))
    latents, image = torch.randn(1, 4, 5, 6), torch.randn(1, 3, 16, 12)
    before = vae.decode(latents), vae.encode(image)
    first = vae.decoder.conv_in(latents)
    vae.shrink(6)
    assert torch.equal(vae.decoder.conv_in(latents), first / 64)
    assert torch.equal(vae.decode(latents), before[0])
    assert torch.equal(vae.encode(image), before[1])


def test_missing_added_conditioning_is_an_error():
    from benchmarks.published import SDXL

    with torch.device("meta"):
        unet = UNet(SDXL)
        with pytest.raises(TypeError, match="pooled and time_ids"):
            unet.embed(torch.tensor([1.0]))


def test_writing_into_a_named_weight_slice_changes_the_packed_one():
    """Adapters may add to to_q, to_k and to_v through the state dict: it shows views, not copies."""
    unet = UNet(SMALL)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"
    unet.state_dict()[name].zero_()
    packed = unet.mid_block.attentions[0].transformer_blocks[0].attn1.qkv
    assert packed[32:64].abs().max() == 0
    assert packed[:32].abs().min() > 0
    assert packed[64:].abs().min() > 0
