"""LoRAs folded into our networks against the same sums made by hand in diffusers' and transformers' modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

from diffusers import StableDiffusionInpaintPipeline

from intarsia import WeightsError
from intarsia.models.loading import load_pipeline_parts
from intarsia.models.lora_files import read_loras
from intarsia.models.lora_torch import TorchArithmetic
from intarsia.models.weight_files import stored_tensors
from tests import adapters
from tests.random_model import write_model

TOLERANCE = 1e-5  # outputs are about 1 at most; the sums are only ordered differently


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("lora") / "model", 9, "tiny")


@pytest.fixture
def networks(folder: Path) -> dict[str, Any]:
    """diffusers' own, loaded anew: the tests write into them."""
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    return {"unet": pipe.unet.eval(), "text_encoder": pipe.text_encoder.eval(), "tokenizer": pipe.tokenizer}


def outputs(networks: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What diffusers' pipeline makes of a prompt and of a sample, without the rest of it."""
    tokens = networks["tokenizer"]("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    hidden = networks["text_encoder"](tokens).last_hidden_state
    return hidden, networks["unet"](sample(), torch.tensor([500.0]), hidden).sample


def ours(folder: Path, *loras: Any) -> tuple[torch.Tensor, torch.Tensor]:
    parts = load_pipeline_parts(folder, loras=loras)
    hidden = parts.text.encode(["a cat"]).hidden
    return hidden, parts.unet(sample(), parts.unet.embed(torch.tensor([500.0])), parts.unet.cross_kv(hidden))


def sample() -> torch.Tensor:
    return torch.randn(1, 9, 8, 8, generator=torch.Generator().manual_seed(4))


def close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return all(float((a - b).abs().max()) <= TOLERANCE for a, b in zip(found, expected, strict=True))


def far(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return all(float((a - b).abs().max()) > 0.01 for a, b in zip(found, expected, strict=True))


def every_layer(networks: dict[str, Any]) -> dict[str, Any]:
    return {name: adapters.layers_of(networks[name]) for name in ("unet", "text_encoder")}


def attention(networks: dict[str, Any]) -> dict[str, Any]:
    return {name: adapters.attention_layers(networks[name]) for name in ("unet", "text_encoder")}


# spelling → (how it is written, which layers it can name, whether it carries alphas)
SPELLINGS = {
    "kohya": (adapters.kohya, every_layer, True),
    "peft": (adapters.peft, every_layer, False),
    "processors": (adapters.processors, attention, False),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("strength", [1.0, 0.6, -0.4])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_sum_made_by_hand(folder, networks, tmp_path, spelling, strength):
    spell, layers, alphas = SPELLINGS[spelling]
    chosen = layers(networks)
    kinds = {type(networks["unet"].get_submodule(name)).__name__ for name in chosen["unet"]}
    assert spelling == "processors" or kinds >= {"Linear", "Conv2d"}
    pairs = adapters.random_pairs(networks, chosen, alphas=alphas)
    path = adapters.write(tmp_path / "lora.safetensors", spell(pairs))
    plain = outputs(networks)
    adapters.add_by_hand(networks, pairs, strength)
    expected = outputs(networks)
    assert far(expected, plain), "the LoRA must matter, in both networks"
    assert close(ours(folder, (path, strength)), expected)


def test_several_add_up_each_with_its_strength(folder, networks, tmp_path):
    first = adapters.random_pairs(networks, every_layer(networks), seed=1)
    second = adapters.random_pairs(networks, attention(networks), seed=2, alphas=False)
    paths = (
        adapters.write(tmp_path / "a.safetensors", adapters.kohya(first)),
        adapters.write(tmp_path / "b.safetensors", adapters.peft(second)),
    )
    adapters.add_by_hand(networks, first, 0.5)
    adapters.add_by_hand(networks, second, -0.25)
    assert close(ours(folder, (paths[0], 0.5), (paths[1], -0.25)), outputs(networks))


def test_alphas_in_the_metadata_of_diffusers(folder, networks, tmp_path):
    """PEFT's configuration: one alpha for all, others for some, alpha / √rank where it is rank-stabilised."""
    names = attention(networks)["unet"]
    pairs = adapters.random_pairs(networks, {"unet": names})
    alphas = {name: 3.0 if name.endswith("attn1.to_k") else 5.0 for name in names}
    settings = {"unet.lora_alpha": 5, "unet.r": 2, "unet.alpha_pattern": {"attn1.to_k": 3}}
    path = adapters.write(tmp_path / "lora.safetensors", adapters.peft(pairs), settings)
    stable = adapters.write(tmp_path / "s.safetensors", adapters.peft(pairs), {**settings, "unet.use_rslora": True})
    with_alpha = {name: (down, up, alphas[name]) for name, (down, up, _) in pairs["unet"].items()}
    stabilised = {name: (down, up, alpha * len(down) ** 0.5) for name, (down, up, alpha) in with_alpha.items()}
    adapters.add_by_hand(networks, {"unet": with_alpha}, 0.7)
    assert close(ours(folder, (path, 0.7)), outputs(networks))
    adapters.add_by_hand(networks, {"unet": with_alpha}, -0.7)
    adapters.add_by_hand(networks, {"unet": stabilised}, 0.7)
    assert close(ours(folder, (stable, 0.7)), outputs(networks))


def test_a_file_of_the_unet_alone_needs_no_prefix(folder, networks, tmp_path):
    pairs = adapters.random_pairs(networks, {"unet": attention(networks)["unet"]}, alphas=False)
    state = {name.removeprefix("unet."): tensor for name, tensor in adapters.processors(pairs).items()}
    path = adapters.write(tmp_path / "lora.safetensors", state)
    adapters.add_by_hand(networks, pairs, 0.8)
    assert close(ours(folder, (path, 0.8)), outputs(networks))


@pytest.mark.slow
def test_against_diffusers_own_loader(folder, networks, tmp_path):
    pytest.importorskip("peft", reason="diffusers' own LoRA loader needs peft: pip install peft")
    for spell in (adapters.kohya, adapters.peft, adapters.processors):
        pairs = adapters.random_pairs(networks, attention(networks), seed=3, alphas=False)
        if spell is adapters.kohya:
            # one alpha for all: diffusers 0.42 hands PEFT 0.21 others under names that it does not know
            pairs = {n: {k: (d, u, 1.5) for k, (d, u, _) in layers.items()} for n, layers in pairs.items()}
        path = adapters.write(tmp_path / f"{spell.__name__}.safetensors", spell(pairs))
        pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
        pipe.load_lora_weights(tmp_path, weight_name=path.name)
        pipe.fuse_lora(lora_scale=0.6)
        theirs = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}
        assert close(ours(folder, (path, 0.6)), outputs(theirs)), spell.__name__


def test_strength_zero_changes_no_bit(folder, networks, tmp_path):
    pairs = adapters.random_pairs(networks, every_layer(networks))
    path = adapters.write(tmp_path / "lora.safetensors", adapters.kohya(pairs))
    assert all(torch.equal(a, b) for a, b in zip(ours(folder, (path, 0.0)), ours(folder), strict=True))


# SDXL's blocks as the original code counts them (Podell et al. 2023, its sgm package), and as diffusers does.
ORIGINAL = {
    "input_blocks_0_0": "conv_in",
    "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "input_blocks_4_1_transformer_blocks_1_attn2_to_k": "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
    "input_blocks_8_1_proj_in": "down_blocks.2.attentions.1.proj_in",
    "middle_block_1_transformer_blocks_9_ff_net_0_proj": "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
    "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks_5_0_emb_layers_1": "up_blocks.1.resnets.2.time_emb_proj",
    "output_blocks_5_1_transformer_blocks_0_attn1_to_out_0": (
        "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0"
    ),
}


def test_names_of_the_original_sdxl_code_and_its_second_text_encoder(tmp_path):
    texts = {"lora_te1_text_model_encoder_layers_3_mlp_fc1": ("text_encoder", "encoder.layers.3.mlp.fc1")}
    texts["lora_te2_text_model_encoder_layers_30_self_attn_q_proj"] = (
        "text_encoder_2",
        "encoder.layers.30.self_attn.q_proj",
    )
    names = {f"lora_unet_{old}": ("unet", new) for old, new in ORIGINAL.items()} | texts
    state = {}
    for i, name in enumerate(names):
        state |= {f"{name}.lora_down.weight": torch.full((2, 4), float(i)), f"{name}.lora_up.weight": torch.ones(4, 2)}
        state[f"{name}.alpha"] = torch.tensor(1.0)
    path = adapters.write(tmp_path / "xl.safetensors", state)
    shapes = {network: {} for network in ("unet", "text_encoder", "text_encoder_2")}
    for network, layer in names.values():
        shapes[network][f"{layer}.weight"] = (4, 4)
    # an upsampler's number depends on whether its level has attention
    shapes["unet"]["up_blocks.0.attentions.0.norm.weight"] = (4,)
    (file,) = read_loras([(path, 1.0)], shapes, layers_per_block=2, read=stored_tensors).files
    assert {network: set(tensors) for network, tensors in file.tensors.items()} == {
        network: set(tensors) - {"up_blocks.0.attentions.0.norm.weight"} for network, tensors in shapes.items()
    }
    for i, (network, layer) in enumerate(names.values()):
        added = file.tensors[network][f"{layer}.weight"].change(
            torch.zeros(4, 4), 1.0, TorchArithmetic(torch.device("cpu"))
        )
        assert torch.equal(added, torch.full((4, 4), float(i))), "2 · i · alpha / rank, in its own place"


def pair_of(stem: str, rank: int = 2, inputs: int = 32, outputs: int = 32) -> dict[str, torch.Tensor]:
    return {f"{stem}.lora_A.weight": torch.ones(rank, inputs), f"{stem}.lora_B.weight": torch.ones(outputs, rank)}


def kohya_pair(stem: str) -> dict[str, torch.Tensor]:
    return {f"{stem}.lora_down.weight": torch.ones(2, 32), f"{stem}.lora_up.weight": torch.ones(32, 2)}


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LAYERS = [f"unet.{ATTENTION.replace('attn1', attention)}.{end}" for attention in ("attn1", "attn2") for end in
          ("to_q", "to_k", "to_v", "to_out.0")]  # fmt: skip
KOHYA = "lora_unet_" + ATTENTION.replace(".", "_") + "_to_q"
WRONG = {
    "unknown layers": (
        {k: v for i in range(5) for k, v in pair_of(f"unet.down_blocks.{i + 4}.to_q").items()},
        r"5 of its 5 layers are not in this model: "
        r"unet\.down_blocks\.4\.to_q, unet\.down_blocks\.5\.to_q, unet\.down_blocks\.6\.to_q and 2 more",
    ),
    "unknown kohya layers": (kohya_pair("lora_unet_nothing_here"), "1 of its 1 layer is not in this model"),
    "one of nine": (
        {k: v for layer in [*LAYERS[:8], "unet.nothing"] for k, v in pair_of(layer).items()},
        r"1 of its 9 layers is not in this model: unet\.nothing",
    ),
    "for SDXL, by a second text encoder": (
        pair_of(f"unet.{ATTENTION}.to_q") | pair_of("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"),
        r"this LoRA is for SDXL, the model is SD1\.5: 1 of its 2 layers is not in this model: text_encoder_2\.text",
    ),
    "for SD2, by the context's width": (
        pair_of(f"unet.{ATTENTION.replace('attn1', 'attn2')}.to_k", inputs=1024),
        r"this LoRA is for SD2, the model is SD1\.5: 1 of its 1 layer has another shape than this model's",
    ),
    "other inputs": (pair_of(f"unet.{ATTENTION}.to_q", inputs=40), "1 of its 1 layer has another shape"),
    "other outputs": (pair_of(f"unet.{ATTENTION}.to_q", outputs=40), "has another shape"),
    "a norm": (pair_of("unet.conv_norm_out"), "has another shape"),
    "two ranks": (
        pair_of(f"unet.{ATTENTION}.to_q") | {f"unet.{ATTENTION}.to_q.lora_B.weight": torch.ones(32, 3)},
        "has another shape",
    ),
    "a magnitude of another length": (
        kohya_pair(KOHYA) | {f"{KOHYA}.dora_scale": torch.ones(31, 1)},
        "has another shape",
    ),
    "half a pair": ({f"{KOHYA}.lora_down.weight": torch.ones(2, 32)}, r"it has incomplete layers \(1 tensor"),
    "half a LoHa": ({f"{KOHYA}.hada_w1_a": torch.ones(2, 32)}, r"it has incomplete layers \(1 tensor"),
    "integers": (
        {name: tensor.int() for name, tensor in kohya_pair(KOHYA).items()},
        "it has tensors that are no floating-point numbers",
    ),
    "not finite": (
        kohya_pair(KOHYA) | {f"{KOHYA}.lora_up.weight": torch.full((32, 2), torch.nan)},
        r"lora\.safetensors: lora_unet_.*lora_up\.weight has values that are not finite",
    ),
    "an alpha that is not finite": (kohya_pair(KOHYA) | {f"{KOHYA}.alpha": torch.tensor(torch.inf)}, "not finite"),
    "too large": ({name: tensor * 1e20 for name, tensor in kohya_pair(KOHYA).items()}, "too large for float32"),
    "a vector": (
        {f"{KOHYA}.lora_down.weight": torch.ones(2), f"{KOHYA}.lora_up.weight": torch.ones(2, 2)},
        "has another shape",
    ),
    "a long alpha": (kohya_pair(KOHYA) | {f"{KOHYA}.alpha": torch.ones(2)}, "alphas that are more than one number"),
    "two spellings": (
        kohya_pair("lora_unet_input_blocks_1_1_proj_in") | kohya_pair("lora_unet_down_blocks_0_attentions_0_proj_in"),
        "names a layer in two spellings",
    ),
    "nothing": ({}, "no LoRA but a file without tensors"),
}


# Files that hold no LoRA, or none that is applied: the names of their tensors, and what is said of them.
OTHERS = {
    "OFT": ([f"{KOHYA}.oft_blocks", f"{KOHYA}.alpha"], r"holds nothing that can be applied; it has OFT"),
    "an embedding": (["emb_params"], "no LoRA but a textual-inversion embedding"),
    "an SDXL embedding": (["clip_l", "clip_g"], "no LoRA but a textual-inversion embedding"),
    "an IP adapter": (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "no LoRA but an .*IP adapter"),
    "a ControlNet": (["controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight"], "but a ControlNet"),
    "an older ControlNet": (["control_model.input_blocks.0.0.weight"], "no LoRA but a ControlNet"),
    "a LoRA of Flux": (
        [f"transformer.single_transformer_blocks.0.attn.to_q.lora_{half}.weight" for half in "AB"],
        "a LoRA that fits no model here: it is for Flux",
    ),
    "anything": (["x"], "no LoRA but a file of tensors that are of no known model"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_another_kind_are_named_by_it(folder, tmp_path, case, monkeypatch):
    """By the header: none of their tensors is read."""
    names, kind = OTHERS[case]
    path = adapters.write(tmp_path / "lora.safetensors", {name: torch.ones(2, 2) for name in names})
    if case != "OFT":
        monkeypatch.setattr("intarsia.models.loading.stored_tensors", lambda *_: pytest.fail("it was read"))
    with pytest.raises(WeightsError, match=kind) as caught:
        load_pipeline_parts(folder, loras=[(path, 1.0)])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_named_as_a_lora_is_not_read(folder, tmp_path, monkeypatch):
    names = [f"model.diffusion_model.{name}" for name in ("input_blocks.0.0.weight", "out.2.weight")]
    path = adapters.write(tmp_path / "big.safetensors", {name: torch.ones(4, 4, 3, 3) for name in names})
    monkeypatch.setattr("intarsia.models.loading.stored_tensors", lambda *_: pytest.fail("it was read"))
    with pytest.raises(WeightsError, match="no LoRA but a Stable Diffusion 1 UNet"):
        load_pipeline_parts(folder, loras=[(path, 1.0)])


EXTRAS = {
    "an alpha": ({"lora_unet_conv_in.alpha": ()}, r"alphas without matrices \(1 tensor: lora_unet_conv_in\.alpha\)"),
    "half a pair": ({"lora_unet_conv_in.lora_up.weight": (32, 2)}, r"incomplete layers \(1 tensor"),
    "positions": ({"text_encoder.text_model.embeddings.position_ids": (1, 77)}, "constants"),
    "the bias of a layer without one": (
        {f"{KOHYA}.diff_b": (32,)},
        rf"1 layer that this model does not have: unet\.{ATTENTION}\.to_q\.bias",
    ),
    "a layer that is not there": (
        {"lora_unet_nothing_here.lora_down.weight": (2, 32), "lora_unet_nothing_here.lora_up.weight": (32, 2)},
        r"1 layer that this model does not have: lora_unet_nothing",
    ),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("case", EXTRAS)
def test_what_cannot_be_applied_is_left_out_and_said(folder, networks, tmp_path, case):
    """The rest of the file is applied, to the last bit."""
    shapes, sentence = EXTRAS[case]
    extra = {name: torch.ones(shape) for name, shape in shapes.items()}
    pairs = adapters.random_pairs(networks, {"unet": attention(networks)["unet"][:12]})
    state = adapters.kohya(pairs)
    plain = adapters.write(tmp_path / "plain.safetensors", state)
    path = adapters.write(tmp_path / "more.safetensors", state | extra)
    assert load_pipeline_parts(folder, loras=[(plain, 1.0)]).notes == ()
    (note,) = load_pipeline_parts(folder, loras=[(path, 1.0)]).notes
    assert re.search(rf"^LoRA more\.safetensors: left out, as it cannot be applied: .*{sentence}", note)
    assert str(tmp_path) not in note
    assert all(torch.equal(a, b) for a, b in zip(ours(folder, (path, 1.0)), ours(folder, (plain, 1.0)), strict=True))


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_line_that_names_file_and_layers(folder, tmp_path, case):
    state, sentence = WRONG[case]
    path = adapters.write(tmp_path / "lora.safetensors", state)
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_pipeline_parts(folder, loras=[(path, 1.0)])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_safetensors(folder, tmp_path):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"\x80\x04 a pickle, say")
    with pytest.raises(WeightsError, match="not a safetensors file but"):
        load_pipeline_parts(folder, loras=[(path, 1.0)])


WRONG_SETTINGS = ["[", "[1]", "[" * 100_000, '{"unet.lora_alpha": "many"}', '{"unet.lora_alpha": true}']
WRONG_SETTINGS += ['{"unet.lora_alpha": NaN}', '{"unet.alpha_pattern": [1]}', '{"unet.alpha_pattern": {"to_q": []}}']


@pytest.mark.parametrize("text", WRONG_SETTINGS, ids=range(len(WRONG_SETTINGS)))
def test_metadata_that_cannot_be_followed(folder, tmp_path, text):
    from safetensors.torch import save_file

    path = tmp_path / "lora.safetensors"
    save_file(kohya_pair(KOHYA), path, {"lora_adapter_metadata": text})
    with pytest.raises(WeightsError, match="lora_adapter_metadata"):
        load_pipeline_parts(folder, loras=[(path, 1.0)])
