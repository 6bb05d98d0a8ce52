"""Our networks against diffusers': same weights, same input, float32, error at most 1e-5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusers

from benchmarks.published import UNETS, VAES
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from intarsia.models.vae_tiny import AutoencoderTiny, TinyConfig

TOLERANCE = 1e-5  # outputs are about 2 at most; the sums are only ordered differently

SMALL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
XL = {
    "use_linear_projection": True,
    "attention_head_dim": (1, 2, 4),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
LOW = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
CASES = {
    "sd1": ({}, (16, 16)),
    "sd1 oblong": ({}, (12, 20)),
    "sd1 odd": ({}, (13, 21)),
    "sd1 inpaint": ({"in_channels": 9}, (12, 20)),
    "sd2": ({"use_linear_projection": True, "attention_head_dim": (1, 2, 4)}, (12, 20)),
    "sd2 one head": ({"use_linear_projection": True, "attention_head_dim": 1}, (8, 8)),
    "sdxl": (XL, (12, 20)),
    "sdxl inpaint": ({**XL, "in_channels": 9}, (10, 14)),
    "depth 0": ({**XL, "transformer_layers_per_block": (0, 0, 2)}, (8, 12)),
    "attention low": (LOW, (16, 8)),
    "one layer": ({"layers_per_block": 1, "block_out_channels": (32, 32, 64)}, (9, 8)),
    "mixed layers": ({"layers_per_block": (1, 2, 1)}, (8, 8)),
    "no middle": ({"mid_block_type": None}, (8, 8)),
    "sines first": ({"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-4}, (8, 8)),
    "wide time": ({"time_embedding_dim": 48, "cross_attention_dim": (24, 24, 24)}, (8, 8)),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def randomise(network: torch.nn.Module, seed: int = 0) -> Any:
    """Weights that keep the signal's size and leave no layer at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
    return network.eval()


def pair(extra: Any) -> tuple[Any, UNet]:
    """diffusers' UNet and ours, with the same weights."""
    theirs = randomise(diffusers.UNet2DConditionModel(**{**SMALL, **extra}))
    ours = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(
    extra: dict[str, Any], size: tuple[int, int], batch: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, extra.get("in_channels", 4), *size, generator=generator)
    timesteps = torch.linspace(801.0, 37.5, batch)
    hidden = torch.randn(batch, 11, 24, generator=generator)
    added = ()
    if "addition_embed_type" in extra:
        sizes = torch.randint(0, 1024, (batch, 6), generator=generator).float()
        added = (torch.randn(batch, 16, generator=generator), sizes)
    return sample, timesteps, hidden, added


def reference(
    theirs: Any, sample: torch.Tensor, timesteps: torch.Tensor, hidden: torch.Tensor, added: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    conditions = {"text_embeds": added[0], "time_ids": added[1]} if added else None
    return theirs(sample, timesteps, hidden, added_cond_kwargs=conditions).sample


def evaluate(
    ours: UNet, sample: torch.Tensor, timesteps: torch.Tensor, hidden: torch.Tensor, added: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    return ours(sample, ours.embed(timesteps, *added), ours.cross_kv(hidden))


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.every(4)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_unet_as_diffusers(case, channels_last):
    extra, size = CASES[case]
    theirs, ours = pair(extra)
    if channels_last:
        ours.to(memory_format=torch.channels_last)
    given = inputs(extra, size)
    expected = reference(theirs, *given)
    assert expected.std() > 0.1  # else the tolerance would mean nothing
    assert worst(evaluate(ours, *given), expected) <= TOLERANCE


@pytest.mark.every(2)
@pytest.mark.parametrize("case", ["sd1", "sd1 inpaint", "sd2", "attention low", "no middle"])
def test_two_prompts_for_each_sample_as_diffusers_with_the_sample_twice(case):
    extra, size = CASES[case]
    theirs, ours = pair(extra)
    ours.to(memory_format=torch.channels_last)
    sample, timesteps, hidden, _ = inputs(extra, size, batch=6)
    sample, timesteps = sample[:3], timesteps[:3]
    expected = reference(theirs, sample.repeat_interleave(2, 0), timesteps.repeat_interleave(2), hidden, ())
    found = ours(sample, ours.embed(timesteps).repeat_interleave(2, 0), ours.cross_kv(hidden))
    assert worst(found, expected) <= TOLERANCE
    assert worst(expected[::2], expected[1::2]) > 100 * TOLERANCE  # else the prompts would mean nothing


@pytest.mark.parametrize("case", ["sd1 inpaint", "sdxl", "no middle"])
def test_state_dicts_are_interchangeable(case):
    theirs, ours = pair(CASES[case][0])
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    randomise(theirs, seed=5).load_state_dict(state)
    given = inputs(*CASES[case])
    assert worst(evaluate(ours, *given), reference(theirs, *given)) <= TOLERANCE


@pytest.mark.parametrize("layer", ["attn1", "attn2"])
@pytest.mark.parametrize("swap", [("to_q", "to_k"), ("to_k", "to_v"), ("to_q", "to_v")])
def test_swapped_projections_are_noticed(layer, swap):
    """The comparison sees each of query, key and value; a mistake in packing them cannot hide."""
    theirs, ours = pair({"cross_attention_dim": 32, "block_out_channels": (32, 32, 32)})
    prefix = f"down_blocks.0.attentions.0.transformer_blocks.0.{layer}."
    state = theirs.state_dict()
    a, b = (f"{prefix}{name}.weight" for name in swap)
    ours.load_state_dict({**state, a: state[b], b: state[a]})
    sample, timesteps, _, added = inputs({}, (8, 8))
    given = (sample, timesteps, torch.randn(2, 11, 32), added)
    assert worst(evaluate(ours, *given), reference(theirs, *given)) > 100 * TOLERANCE


def test_a_batch_equals_its_samples():
    """Rows of embed() and context() of different images may stand side by side in one evaluation."""
    _, ours = pair(XL)
    ours.to(memory_format=torch.channels_last)
    sample, timesteps, hidden, added = inputs(XL, (12, 20), batch=3)
    together = evaluate(ours, sample, timesteps, hidden, added)
    for i in range(3):
        rows = ours.embed(timesteps[i : i + 1], *(part[i : i + 1] for part in added))
        alone = ours(sample[i : i + 1], rows, ours.cross_kv(hidden[i : i + 1]))
        assert worst(together[i : i + 1], alone) <= TOLERANCE


def test_one_prompt_for_many_steps():
    """Pooled text and sizes of one prompt broadcast over all timesteps of an image."""
    _, ours = pair(XL)
    _, _, _, (pooled, sizes) = inputs(XL, (8, 8))
    steps = torch.tensor([900.0, 500.0, 20.0])
    wide = ours.embed(steps, pooled[:1].expand(3, -1), sizes[:1].expand(3, -1))
    assert worst(ours.embed(steps, pooled[:1], sizes[:1]), wide) <= TOLERANCE
    assert worst(ours.embed(steps, pooled[:1].expand(3, -1), sizes[:1]), wide) <= TOLERANCE


KL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 8,
}


def autoencoders(kind: str, extra: Any) -> tuple[Any, Any]:
    if kind == "kl":
        theirs = diffusers.AutoencoderKL(**{**KL, **extra})
        ours = AutoencoderKL(KLConfig.from_dict(dict(theirs.config)))
    else:
        theirs = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4, **extra
        )
        ours = AutoencoderTiny(TinyConfig.from_dict(dict(theirs.config)))
    ours.load_state_dict(randomise(theirs).state_dict())
    return theirs, ours.eval().to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("kl", {}),
        ("kl", {"scaling_factor": 0.13025, "shift_factor": 0.1, "latent_channels": 3, "layers_per_block": 1}),
        ("kl", {"use_quant_conv": False, "use_post_quant_conv": False}),
        ("tiny", {}),
        (
            "tiny",
            {"scaling_factor": 0.7, "num_encoder_blocks": (1, 1, 2, 1), "num_decoder_blocks": (2, 1, 1, 1)},
        ),
    ],
)
def test_autoencoder_as_diffusers(kind, extra):
    theirs, ours = autoencoders(kind, extra)
    scale, shift = theirs.config.scaling_factor, theirs.config.shift_factor or 0.0
    images = torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(2)) * 2 - 1
    encoded = theirs.encode(images)
    raw = encoded.latents if kind == "tiny" else encoded.latent_dist.mode()
    latents = ours.encode(images)
    assert raw.std() > 0.01
    assert worst(latents, (raw - shift) * scale) <= TOLERANCE
    assert latents.shape[1:] == (ours.latent_channels, 48 // ours.factor, 80 // ours.factor)
    latents = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    assert worst(ours.decode(latents), theirs.decode(latents / scale + shift).sample) <= TOLERANCE


@pytest.mark.parametrize("family", UNETS)
def test_published_unets_have_the_published_parameters(family):
    """Counts of architecture and names, without memory for the weights."""
    config = UNETS[family]
    published = {
        "sd15": 859_520_964,
        "sd15-inpaint": 859_535_364,
        "sd2": 865_910_724,
        "sd2-inpaint": 865_925_124,
        "sdxl": 2_567_463_684,
        "sdxl-inpaint": 2_567_478_084,
    }
    with torch.device("meta"):
        ours = UNet(config)
    assert sum(parameter.numel() for parameter in ours.parameters()) == published[family]


def test_published_unets_as_diffusers_builds_them():
    """SDXL's published config, read by us, is our constant, and gives diffusers' names and shapes."""
    raw = {
        **XL,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    assert UNetConfig.from_dict(raw) == UNETS["sdxl"]
    with torch.device("meta"):
        theirs, ours = diffusers.UNet2DConditionModel(**raw), UNet(UNETS["sdxl"])
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}


def test_published_vae_has_the_published_parameters():
    with torch.device("meta"):
        ours = AutoencoderKL(VAES["sd15"])
    assert sum(parameter.numel() for parameter in ours.parameters()) == 83_653_863
    assert ours.factor == 8
