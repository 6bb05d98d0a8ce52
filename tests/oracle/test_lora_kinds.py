"""Every kind of addition against LyCORIS' own functions and PEFT's own layers, on the stored tensors, in float32."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("lycoris", reason="the oracle needs LyCORIS: pip install lycoris-lora")
pytest.importorskip("peft", reason="the oracle needs PEFT: pip install peft")

from lycoris.functional import general, locon, loha, lokr
from safetensors.torch import save_file

from intarsia.models.loading import Parts, load_pipeline_parts
from intarsia.models.lora_change import change_loras
from tests import adapters
from tests.random_model import write_model

TOLERANCE = 1e-6  # in float32, of weights of about 1
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "mid_block.resnets.0.conv1"
POINTWISE = "down_blocks.0.attentions.0.proj_in"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("kinds") / "model", 9, "tiny")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Tensors:
    return {name: tensor.clone() for name, tensor in load_pipeline_parts(folder).unet.state_dict().items()}


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    """One model, whose LoRAs each test changes."""
    return load_pipeline_parts(folder)


class Draw:
    """Random factors, the same for a test however often it runs."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator) * 0.3


def locon_parts(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    down = draw(rank, *shape[1:])
    up = draw(shape[0], rank, *(1,) * (len(shape) - 2))
    return {"lora_down.weight": down, "lora_up.weight": up}, locon.diff_weight(down, up, None).reshape(shape)


def tucker_parts(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    down, up = draw(rank, shape[1], 1, 1), draw(shape[0], rank, 1, 1)
    mid = draw(rank, rank, *shape[2:])
    return {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}, locon.diff_weight(down, up, mid)


def loha_parts(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    columns = math.prod(shape[1:])
    ups, downs = [draw(shape[0], rank) for _ in range(2)], [draw(rank, columns) for _ in range(2)]
    made = {"hada_w1_a": ups[0], "hada_w1_b": downs[0], "hada_w2_a": ups[1], "hada_w2_b": downs[1]}
    return made, loha.diff_weight(downs[0], ups[0], downs[1], ups[1], None, None).reshape(shape)


def loha_tucker_parts(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    ups, downs = [draw(rank, shape[0]) for _ in range(2)], [draw(rank, shape[1]) for _ in range(2)]
    cores = [draw(rank, rank, *shape[2:]) for _ in range(2)]
    made = {"hada_w1_a": ups[0], "hada_w1_b": downs[0], "hada_w2_a": ups[1], "hada_w2_b": downs[1]}
    made |= {"hada_t1": cores[0], "hada_t2": cores[1]}
    return made, loha.diff_weight(downs[0], ups[0], downs[1], ups[1], cores[0], cores[1])


def lokr_parts(
    draw: Draw, shape: tuple[int, ...], rank: int, first: bool = False, second: bool = True, core: bool = False
) -> tuple[Tensors, torch.Tensor]:
    """``first`` and ``second`` say whether these are stored as products."""
    (a, b), (c, d) = (4, shape[0] // 4), (2, shape[1] // 2)
    kernel = shape[2:]
    made = {"lokr_w1_a": draw(a, rank), "lokr_w1_b": draw(rank, c)} if first else {"lokr_w1": draw(a, c)}
    if core:
        made |= {"lokr_t2": draw(rank, rank, *kernel), "lokr_w2_a": draw(rank, b), "lokr_w2_b": draw(rank, d)}
    elif second:
        made |= {"lokr_w2_a": draw(b, rank), "lokr_w2_b": draw(rank, d, *kernel)}
    else:
        made |= {"lokr_w2": draw(b, d, *kernel)}
    w1, w2 = made.get("lokr_w1"), made.get("lokr_w2")
    if w1 is None:
        w1 = made["lokr_w1_a"] @ made["lokr_w1_b"]
    if w2 is None and core:
        w2 = general.rebuild_tucker(made["lokr_t2"], made["lokr_w2_a"], made["lokr_w2_b"])
    elif w2 is None:
        w2 = (made["lokr_w2_a"] @ made["lokr_w2_b"].flatten(1)).reshape(b, d, *kernel)
    return made, lokr.make_kron(w1, w2, 1)


def lokr_factored(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    return lokr_parts(draw, shape, rank, first=True)


def lokr_whole(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    return lokr_parts(draw, shape, rank, second=False)


def lokr_tucker(draw: Draw, shape: tuple[int, ...], rank: int) -> tuple[Tensors, torch.Tensor]:
    return lokr_parts(draw, shape, rank, core=True)


Maker = Callable[[Draw, tuple[int, ...], int], tuple[Tensors, torch.Tensor]]
CASES: dict[str, tuple[Maker, str]] = {
    "LoRA": (locon_parts, LINEAR),
    "LoCon": (locon_parts, CONVOLUTION),
    "LoCon, Tucker": (tucker_parts, CONVOLUTION),
    "LoHa": (loha_parts, LINEAR),
    "LoHa of a convolution": (loha_parts, CONVOLUTION),
    "LoHa, Tucker": (loha_tucker_parts, CONVOLUTION),
    "LoKr": (lokr_parts, CROSS),
    "LoKr of a convolution": (lokr_parts, CONVOLUTION),
    "LoKr, both factored": (lokr_factored, CROSS),
    "LoKr, both whole": (lokr_whole, CONVOLUTION),
    "LoKr, Tucker": (lokr_tucker, CONVOLUTION),
    "LoKr of a pointwise convolution": (lokr_parts, POINTWISE),
}
RANK, ALPHA = 3, 2.0


def scale_of(case: str) -> float:
    """LyCORIS ignores alpha where a LoKr is stored whole."""
    return 1.0 if case == "LoKr, both whole" else ALPHA / RANK


def kohya(layer: str, made: Tensors, prefix: str = "lora_unet") -> Tensors:
    return {f"{prefix}_{layer.replace('.', '_')}.{part}": tensor for part, tensor in made.items()}


def after(parts: Parts, path: Path, state: Tensors, strength: float = 1.0) -> Tensors:
    """The UNet's tensors with a LoRA; taken out again before the next one."""
    adapters.write(path, state)
    changed = change_loras(parts, [(path, strength)])
    found = {name: tensor.clone() for name, tensor in changed.unet.state_dict().items()}
    change_loras(changed, [])
    return found


def assert_changed(found: Tensors, plain: Tensors, expected: Tensors) -> None:
    """These tensors are as expected, and no other has changed by a bit."""
    for name, tensor in plain.items():
        if name in expected:
            assert float((expected[name] - tensor).abs().max()) > 1e-3, "else it says nothing"
            torch.testing.assert_close(found[name], expected[name], rtol=TOLERANCE, atol=TOLERANCE)
        else:
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("strength", [1.0, -0.4])
@pytest.mark.parametrize("case", CASES)
def test_products_are_those_of_lycoris(parts, plain, tmp_path, case, strength):
    make, layer = CASES[case]
    weight = plain[f"{layer}.weight"]
    made, product = make(Draw(), tuple(weight.shape), RANK)
    state = kohya(layer, {**made, "alpha": torch.tensor(ALPHA)})
    expected = weight + strength * scale_of(case) * product.reshape(weight.shape)
    found = after(parts, tmp_path / "lora.safetensors", state, strength)
    assert_changed(found, plain, {f"{layer}.weight": expected})


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("case", CASES)
def test_dora_is_that_of_lycoris(parts, plain, tmp_path, case, axis):
    """The lengths are those of W + ΔW, as LyCORIS 4 has it, along either axis."""
    make, layer = CASES[case]
    weight = plain[f"{layer}.weight"]
    made, product = make(Draw(), tuple(weight.shape), RANK)
    ones = (1,) * (weight.ndim - 2)
    lengths = (len(weight), 1, *ones) if axis == "rows" else (1, weight.shape[1], *ones)
    magnitude = 1 + Draw()(*lengths).abs()
    state = kohya(layer, {**made, "alpha": torch.tensor(ALPHA), "dora_scale": magnitude})
    merged = weight + scale_of(case) * product.reshape(weight.shape)
    expected = general.weight_decompose(merged, magnitude, wd_on_out=axis == "rows", backend="torch")
    found = after(parts, tmp_path / "lora.safetensors", state)
    assert_changed(found, plain, {f"{layer}.weight": expected})

    # half of it is half of the way
    half = after(parts, tmp_path / "half.safetensors", state, 0.5)
    assert_changed(half, plain, {f"{layer}.weight": (weight + expected) / 2})


@pytest.mark.parametrize("layer", [LINEAR, CONVOLUTION])
def test_dora_of_peft(parts, plain, tmp_path, layer):
    import peft

    weight = plain[f"{layer}.weight"]
    kernel = (3, 3) if weight.ndim == 4 else ()
    network = torch.nn.Module()
    network.layer = torch.nn.Conv2d(*weight.shape[1::-1], kernel) if kernel else torch.nn.Linear(*weight.shape[::-1])
    with torch.no_grad():
        network.layer.weight.copy_(weight)
    config = peft.LoraConfig(r=RANK, lora_alpha=5, target_modules=["layer"], use_dora=True, init_lora_weights=False)
    model = peft.get_peft_model(network, config)
    with torch.no_grad():
        for parameter in model.base_model.model.layer.lora_magnitude_vector.parameters():
            parameter.mul_(1.2)
    stored = peft.get_peft_model_state_dict(model)
    state = {name.replace("base_model.model.layer", f"base_model.model.{layer}"): t for name, t in stored.items()}
    assert any("lora_magnitude_vector" in name for name in state)

    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 5, "r": RANK, "use_dora": True}))
    expected = model.merge_and_unload().layer.weight.detach()
    found = after(parts, folder / "adapter_model.safetensors", state)
    assert_changed(found, plain, {f"{layer}.weight": expected})
    of_folder = change_loras(parts, [(folder, 1.0)])
    assert torch.equal(of_folder.unet.state_dict()[f"{layer}.weight"], found[f"{layer}.weight"])
    change_loras(of_folder, [])


def test_differences_norms_and_biases(parts, plain, tmp_path):
    draw = Draw()
    layers = {CONVOLUTION: ("diff", "diff_b"), "conv_norm_out": ("w_norm", "b_norm")}
    state, expected = {}, {}
    for layer, names in layers.items():
        for part, kind in zip(names, ("weight", "bias"), strict=True):
            weight = plain[f"{layer}.{kind}"]
            difference = draw(*weight.shape)
            state |= kohya(layer, {part: difference})
            expected[f"{layer}.{kind}"] = weight + 0.5 * difference
    assert_changed(after(parts, tmp_path / "lora.safetensors", state, 0.5), plain, expected)


SPELLED = {
    "lycoris_": lambda layer: f"lycoris_{layer.replace('.', '_')}",
    "the original code's": lambda layer: "lora_unet_middle_block_0_in_layers_2",
    "the original code's, with dots": lambda layer: "diffusion_model.middle_block.0.in_layers.2",
    "diffusers'": lambda layer: f"unet.{layer}",
    "PEFT's": lambda layer: f"base_model.model.{layer}",
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_a_loha_in_every_spelling(parts, plain, tmp_path, spelling):
    weight = plain[f"{CONVOLUTION}.weight"]
    made, product = loha_parts(Draw(), tuple(weight.shape), RANK)
    stem = SPELLED[spelling](CONVOLUTION)
    state = {f"{stem}.{part}": tensor for part, tensor in made.items()}
    found = after(parts, tmp_path / "lora.safetensors", state)
    assert_changed(found, plain, {f"{CONVOLUTION}.weight": weight + product})


@pytest.mark.parametrize("make", [locon_parts, tucker_parts, loha_parts])
def test_one_for_four_channels_changes_the_first_four_inputs(parts, plain, tmp_path, make):
    weight = plain["conv_in.weight"]
    made, product = make(Draw(), (len(weight), 4, *weight.shape[2:]), RANK)
    expected = weight.clone()
    expected[:, :4] += product
    path = adapters.write(tmp_path / "lora.safetensors", kohya("conv_in", made))
    changed = change_loras(parts, [(path, 1.0)])
    found = {name: tensor.clone() for name, tensor in changed.unet.state_dict().items()}
    change_loras(changed, [])
    assert_changed(found, plain, {"conv_in.weight": expected})
    (note,) = changed.notes
    assert "unet.conv_in has 9 input channels, of which the first 4 are changed" in note


def test_two_of_different_kinds_add_up_in_either_order(parts, plain, tmp_path):
    """Each changes the model's own weights: also a DoRA, whose change depends on them."""
    weight = plain[f"{CONVOLUTION}.weight"]
    first, product = lokr_parts(Draw(), tuple(weight.shape), RANK)
    second, other = loha_parts(Draw(), tuple(weight.shape), RANK)
    second["dora_scale"] = torch.full((len(weight), 1, 1, 1), 2.0)
    paths = [
        (adapters.write(tmp_path / f"{name}.safetensors", kohya(CONVOLUTION, made)), strength)
        for name, made, strength in (("lokr", first, 0.7), ("doha", second, 0.4))
    ]
    decomposed = general.weight_decompose(weight + other, second["dora_scale"], backend="torch")
    expected = weight + 0.7 * product + 0.4 * (decomposed - weight)
    for order in (paths, paths[::-1]):
        changed = change_loras(parts, order)
        found = changed.unet.state_dict()[f"{CONVOLUTION}.weight"].clone()
        change_loras(changed, [])
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_stored_in_half_precision_it_is_computed_in_float32(parts, plain, tmp_path):
    weight = plain[f"{LINEAR}.weight"]
    made: Any = loha_parts(Draw(), tuple(weight.shape), RANK)[0]
    made = {part: tensor.to(torch.bfloat16) for part, tensor in made.items()}
    wide = {part: tensor.float() for part, tensor in made.items()}
    product = (wide["hada_w1_a"] @ wide["hada_w1_b"]) * (wide["hada_w2_a"] @ wide["hada_w2_b"])
    save_file(kohya(LINEAR, made), tmp_path / "lora.safetensors")
    changed = change_loras(parts, [(tmp_path / "lora.safetensors", 1.0)])
    found = changed.unet.state_dict()[f"{LINEAR}.weight"].clone()
    change_loras(changed, [])
    torch.testing.assert_close(found, weight + product, rtol=TOLERANCE, atol=TOLERANCE)
