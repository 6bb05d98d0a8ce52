"""Every value of every config: used as it is meant, or refused in one line that names it."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'intarsia[torch]'")

from safetensors.torch import save_file

from intarsia.checkpoints.files import read_json
from intarsia.errors import WeightsError
from intarsia.models.clip_config import is_projected, read_checker_shape, read_text_shape, read_vision_shape
from intarsia.models.clip_images import load_preprocessing
from intarsia.models.ip_adapter_files import load_ip_adapter
from intarsia.models.loading import build_unet, build_vae, check_index, load_pipeline_parts, load_unet, load_vae
from intarsia.models.safety import SafetyNetwork, load_safety_checker
from intarsia.models.tokens import load_tokens
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from intarsia.schedulers import NoiseSchedule
from tests.small_folder import KL, SCHEDULER, TINY, UNET, write_network, write_small_model

VALUES = [None, True, "text", "", [], ["x"], [1, 2, 3, 4, 5], {}, {"a": 1}, 0, -1, -5, 0.5, 1e300, 10**7, 10**9, 10**30]
VALUES += [math.nan, math.inf, -math.inf, [math.nan], [-1], [10**9], [True]]
FULL_UNET = {
    **UNET, "act_fn": "silu", "norm_eps": 1e-5, "use_linear_projection": False, "flip_sin_to_cos": True,
    "freq_shift": 0, "time_embedding_dim": None, "addition_embed_type": None,
    "addition_time_embed_dim": None, "out_channels": 4,
    "projection_class_embeddings_input_dim": None, "transformer_layers_per_block": 1, "only_cross_attention": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "num_attention_heads": None, "class_embed_type": None,
}  # fmt: skip
FULL_TINY = {**TINY, "latent_channels": 4, "scaling_factor": 1.0, "shift_factor": 0.0, "act_fn": "relu"}
FULL_KL = {
    **KL, "layers_per_block": 1, "latent_channels": 4, "scaling_factor": 0.18215, "shift_factor": None,
    "use_quant_conv": True, "use_post_quant_conv": True, "force_upcast": True, "latents_mean": None,
}  # fmt: skip
TEXT = {
    "architectures": ["CLIPTextModel"], "vocab_size": 1000, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "projection_dim": 16, "eos_token_id": 999, "use_attention_mask": False,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3,
    "image_size": 32, "patch_size": 16, "projection_dim": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
PREPROCESSOR = {
    "size": 48, "crop_size": 48, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "resample": 3,
}  # fmt: skip
NOISE = {
    **SCHEDULER, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "trained_betas": None,
    "num_train_timesteps": 1000, "steps_offset": 1, "set_alpha_to_one": False, "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading", "final_sigmas_type": "zero", "algorithm_type": "dpmsolver++", "solver_order": 2,
    "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False, "predict_x0": True,
    "use_karras_sigmas": False, "use_exponential_sigmas": False, "clip_sample": False, "thresholding": False,
}  # fmt: skip
TOKENS = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>"}
TOKENS |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "added_tokens_decoder": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"))


def of_text(path: Path) -> None:
    read_text_shape(path)
    is_projected(path, json.loads(path.read_text()))


# kind → (a whole config, the file that it stands in, what reads it)
READERS = {
    "unet": (FULL_UNET, "unet/config.json", lambda path: build_unet(path.parent)),
    "tiny": (FULL_TINY, "vae/config.json", lambda path: build_vae(path.parent)),
    "kl": (FULL_KL, "vae/config.json", lambda path: build_vae(path.parent)),
    "text": (TEXT, "text_encoder/config.json", of_text),
    "vision": (VISION, "image_encoder/config.json", read_vision_shape),
    "checker": ({"vision_config": VISION, "projection_dim": 8}, "config.json", read_checker_shape),
    "pictures": (PREPROCESSOR, "preprocessor_config.json", load_preprocessing),
    "tokens": (TOKENS, "tokenizer/tokenizer_config.json", lambda path: load_tokens(path.parent, 77, 1000)),
    "index": (
        {"force_zeros_for_empty_prompt": True},
        "model_index.json",
        lambda path: check_index(path, read_json(path)),
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_value_is_used_or_refused_by_name(model, tmp_path, kind):
    config, place, read = READERS[kind]
    for folder in ("unet", "vae", "tokenizer"):
        (tmp_path / folder).symlink_to(model / folder)
    path = tmp_path / place
    if path.parent != tmp_path:
        real = path.parent.resolve() if path.parent.is_symlink() else path.parent
        if path.parent.is_symlink():
            path.parent.unlink()
        path.parent.mkdir(exist_ok=True)
        for other in real.iterdir() if real != path.parent else ():
            (path.parent / other.name).symlink_to(other)
        path.unlink(missing_ok=True)
    path.write_text(json.dumps(config))
    read(path)
    refused = 0
    for place, key in enumerate(config):
        for value in VALUES[place % 2 :: 2]:  # half of them each, as networks are built of what is accepted
            path.write_text(json.dumps({**config, key: value}))
            sentence = refusal(read, path)
            refused += bool(sentence)
            assert not sentence or path.parent.name in sentence, (key, value)
            assert "\n" not in sentence
            assert len(sentence) < 700
    assert refused > len(config) * 3


def test_every_value_of_a_schedule_is_used_or_refused_by_name():
    NoiseSchedule.from_config(NOISE)
    for key in NOISE:
        for value in VALUES:
            config = {**NOISE, key: value}
            sentence = refusal(NoiseSchedule.from_config, config)
            assert not sentence or key in sentence or "betas" in sentence, (key, value)
            assert "\n" not in sentence
            if not sentence:
                schedule = NoiseSchedule.from_config(config)
                hash(schedule)
                assert len(schedule.betas) <= 10_000


def refusal(read: Callable[[Any], object], argument: Any) -> str:
    """The sentence of a WeightsError, "" where there is none; any other error is one of the test."""
    try:
        read(argument)
    except WeightsError as exc:
        return str(exc)
    return ""


REFUSED = [
    ("unet", {"norm_eps": math.nan}, "norm_eps must be a positive number"),
    ("unet", {"layers_per_block": 10**7}, "layers_per_block must be a whole number from 1 to 1048576"),
    ("unet", {"layers_per_block": 10**6}, r"asks for \d+ blocks, more than the \d+ tensors of its weights"),
    ("unet", {"transformer_layers_per_block": 10**6}, r"asks for \d+ blocks, more than the \d+ tensors"),
    ("unet", {"use_linear_projection": "no"}, "use_linear_projection must be true or false, not 'no'"),
    ("unet", {"block_out_channels": [True, True]}, "block_out_channels must be a whole number"),
    ("tiny", {"num_encoder_blocks": [10**6] * 4}, r"asks for \d+ blocks, more than"),
    ("tiny", {"scaling_factor": "one"}, "scaling_factor must be a positive number up to 1e\\+06, not 'one'"),
    ("kl", {"layers_per_block": 10**6}, r"asks for \d+ blocks, more than"),
    ("kl", {"use_quant_conv": 1}, "use_quant_conv must be true or false, not 1"),
    ("text", {"hidden_act": "gelu_new"}, "hidden_act must be quick_gelu or gelu, not 'gelu_new'"),
    ("text", {"use_attention_mask": True}, "use_attention_mask must be False"),
    ("text", {"num_attention_heads": 3}, "num_attention_heads must divide hidden_size=16, not 3"),
    ("text", {"architectures": {"a": 1}}, "architectures must name CLIPTextModel or"),
    ("vision", {"patch_size": 64}, "patch_size must be at most image_size=32, not 64"),
    ("checker", {"vision_config": []}, r"vision_config must be an object, not \[\]"),
    ("pictures", {"size": 10**9}, "size must be a whole number from 1 to 4096"),
    ("tokens", {"model_max_length": "many"}, "model_max_length must be a whole number of at least 3, not 'many'"),
    ("tokens", {"model_max_length": -5}, "model_max_length must be a whole number of at least 3, not -5"),
    ("tokens", {"added_tokens_decoder": {"5000": {"content": "<x>"}}}, "cannot have the number 5000"),
    ("index", {"force_zeros_for_empty_prompt": "no"}, "force_zeros_for_empty_prompt must be true or false, not 'no'"),
]


@pytest.mark.parametrize(("kind", "change", "sentence"), REFUSED, ids=[f"{k}-{next(iter(c))}" for k, c, _ in REFUSED])
def test_what_is_wrong_with_a_value_is_said(model, tmp_path, kind, change, sentence):
    config, place, read = READERS[kind]
    source = model / place
    folder = tmp_path / "x"
    folder.mkdir()
    for other in source.parent.iterdir() if source.parent.is_dir() else ():
        (folder / other.name).symlink_to(other)
    path = folder / source.name
    path.unlink(missing_ok=True)
    path.write_text(json.dumps({**config, **change}))
    with pytest.raises(WeightsError, match=sentence) as caught:
        read(path)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_train_timesteps": 10**9}, "num_train_timesteps=1000000000, known: a whole number from 2 to 10000"),
        ({"steps_offset": True}, "steps_offset=True, known: a whole number from 0"),
        ({"solver_order": True}, "solver_order=True, known: 1, 2, 3"),
        ({"solver_type": ["bh2"]}, r"solver_type=\['bh2'\], known: midpoint"),
        ({"lower_order_final": "no"}, "lower_order_final='no', known: true, false"),
        ({"rescale_betas_zero_snr": "no"}, "rescale_betas_zero_snr='no', known: true, false"),
        ({"trained_betas": "0.1"}, "trained_betas='0.1', known: a list of 2 to 10000 numbers"),
        ({"beta_end": math.inf}, "beta_end=inf, known: a number above 0"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_schedule_is_said(change, sentence):
    with pytest.raises(WeightsError, match=sentence):
        NoiseSchedule.from_config({**NOISE, **change})


def edited(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_ids_beyond_the_vocabulary_are_refused(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    edited(folder / "tokenizer" / "vocab.json", far=5000)
    with pytest.raises(
        WeightsError, match=rf"has a token 5000, and the text encoder's vocab_size is {len(vocabulary)}"
    ):
        load_pipeline_parts(folder)


def test_a_layer_count_is_held_to_the_weights(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    edited(folder / "text_encoder" / "config.json", num_hidden_layers=10**6)
    with pytest.raises(WeightsError, match=r"text_encoder/config\.json: asks for 1000000 blocks, more than the \d+"):
        load_pipeline_parts(folder)


CODE = {
    "attn_implementation": "kernels-community/x@rev",
    "_attn_implementation": "somebody/else",
    "_attn_implementation_internal": "kernels-community/y",
    "experts_implementation": "kernels-community/z",
    "use_kernels": True,
    "kernel_config": {"CLIPMLP": "somebody/else"},
    "auto_map": {"AutoModel": "somebody/else--model.Model"},
    "trust_remote_code": True,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torch_dtype": "float16",
    "dtype": "float16",
    "use_flash_attention_2": True,
    "_name_or_path": "somebody/else",
    "pruned_heads": {"0": [0]},
    "output_attentions": True,
    "problem_type": "x",
    "id2label": {"0": "x"},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whatever transformers would fetch from the hub, listed instead."""
    from transformers.integrations import hub_kernels

    asked = []

    def record(*args: object, **kwargs: Any) -> None:
        asked.append((args, kwargs))
        raise AssertionError(f"the hub was asked for {args}")

    for name in ("get_kernel", "load_and_register_attn_kernel", "lazy_load_kernel"):
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("transformers") and hasattr(module, name):
                monkeypatch.setattr(module, name, record)
    assert hasattr(hub_kernels, "load_and_register_attn_kernel"), "the stand-in has to be where the loader stood"
    return asked


def test_the_stand_in_is_where_the_hub_is_asked(hub):
    config = transformers.CLIPTextConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    config._attn_implementation = "kernels-community/x"
    with pytest.raises((AssertionError, ImportError, ValueError)), torch.device("meta"):
        transformers.CLIPTextModel(config)
    assert hub


def test_nothing_in_a_models_configs_names_code_to_load(model, tmp_path, hub):
    plain = load_pipeline_parts(model)
    folder = shutil.copytree(model, tmp_path / "model")
    for place in ("text_encoder/config.json", "unet/config.json", "vae/config.json", "model_index.json"):
        edited(folder / place, **CODE)
    edited(folder / "tokenizer" / "tokenizer_config.json", **CODE)
    loaded = load_pipeline_parts(folder)
    encoder = loaded.text.towers[0].model
    assert encoder.config._attn_implementation == "sdpa"
    assert {tensor.dtype for tensor in encoder.parameters()} == {torch.float32}
    one, other = (parts.text.encode(["a b"]).hidden for parts in (plain, loaded))
    assert torch.equal(one, other)
    assert not hub


def test_nothing_in_an_image_encoders_config_names_code_to_load(tmp_path, hub):
    diffusers = pytest.importorskip("diffusers", reason="makes its UNet with diffusers: pip install 'intarsia[torch]'")
    from tests import adapters

    theirs = diffusers.UNet2DConditionModel(**{key: value for key, value in UNET.items() if key[0] != "_"})
    theirs.save_pretrained(tmp_path / "unet")
    adapters.write_ip_adapter(tmp_path / "ip", adapters.ip_adapter_state(theirs, 16))
    edited(tmp_path / "ip" / "image_encoder" / "config.json", **CODE)
    cpu = torch.device("cpu")
    loaded = load_ip_adapter(tmp_path / "ip", load_unet(tmp_path / "unet", cpu, torch.float32), cpu, torch.float32)
    assert loaded is not None

    place = tmp_path / "checker"
    place.mkdir()
    shape = {key: value for key, value in VISION.items() if key != "num_channels"}
    save_file(SafetyNetwork(shape, 8).state_dict(), place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"vision_config": VISION | CODE, "projection_dim": 8} | CODE))
    (place / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, "size": 32, "crop_size": 32} | CODE))
    checker = load_safety_checker(place)
    assert checker.network.vision_model.config._attn_implementation == "sdpa"
    assert not hub


def test_a_package_that_a_tower_lacks_is_an_error_of_the_model(model, monkeypatch):
    def absent(*_: object, **__: object) -> None:
        raise ImportError("needs a package that is not there")

    monkeypatch.setattr("transformers.CLIPTextModel.__init__", absent)
    with pytest.raises(
        WeightsError, match=r"text_encoder/config\.json: not a CLIP text encoder's config: needs a pack"
    ):
        load_pipeline_parts(model)


def test_a_network_of_another_shape_is_still_refused(tmp_path):
    """The count of blocks is a bound and no more: shapes are compared after it."""
    write_network(tmp_path / "vae", AutoencoderKL(KLConfig.from_dict(KL)), KL)
    edited(tmp_path / "vae" / "config.json", layers_per_block=2)
    with pytest.raises(WeightsError, match="missing tensors"):
        load_vae(tmp_path / "vae", torch.device("cpu"), torch.float32)
