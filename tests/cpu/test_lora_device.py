"""Where LoRAs' additions are computed, and how much of them is held at once."""

from __future__ import annotations

import gc
import hashlib
import random
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its models with diffusers: pip install 'intarsia[torch]'")

from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from intarsia.checkpoints.single_file import stored_model
from intarsia.errors import WeightsError
from intarsia.models import lora_change
from intarsia.models.float8 import in_float8
from intarsia.models.loading import Parts, build_unet, load_pipeline_parts, load_unet
from intarsia.models.lora import Addition
from intarsia.models.lora_change import HalfChangedError, change_loras
from intarsia.models.lora_files import read_loras
from intarsia.models.lora_forms import LowRank
from intarsia.models.lora_torch import TorchArithmetic
from intarsia.models.weight_files import stored_tensors, tensor_shapes
from tests import adapters
from tests.random_model import write_model

META = torch.device("meta")
FLOAT32 = 4
COMPUTED = ("_to_copy", "mm", "mul", "add", "addmm")


class OperationLog(TorchDispatchMode):
    """Devices and types of matrix products, and the most bytes of float32 results that a device held at once."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.products, self.most = device, [], 0
        self.held = {}  # by storage: bytes, and the tensors that are in it

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.mm.default:
            self.products.append({(each.device, each.dtype) for each in (*args, made)})
        if isinstance(made, torch.Tensor) and made.device == self.device and made.dtype == torch.float32:
            self._keep(function, made)
        return made

    def _keep(self, function: object, made: torch.Tensor) -> None:
        """What is computed or copied counts as long as a view of it is there; a network's own places do not count."""
        place = made.untyped_storage()._cdata
        if str(function).split(".")[1] in COMPUTED:
            self.held.setdefault(place, [made.untyped_storage().nbytes(), 0])
        if place in self.held:
            self.held[place][1] += 1
            weakref.finalize(made, self._forget, place)
        self.most = max(self.most, sum(count for count, _ in self.held.values()))

    def _forget(self, place: int) -> None:
        self.held[place][1] -= 1
        if not self.held[place][1]:
            del self.held[place]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    model = write_model(folder / "model", 9, "tiny")
    networks = {"unet": UNet2DConditionModel.from_pretrained(model / "unet")}
    layers = {"unet": adapters.layers_of(networks["unet"])}
    save_file(adapters.kohya(adapters.random_pairs(networks, layers)), folder / "ink.safetensors")
    return folder


def loras(folder: Path) -> list[tuple[Path, float]]:
    return [(folder / "ink.safetensors", 0.7)]


def assert_one_layer_at_a_time(log: OperationLog, weights: Sequence[torch.Tensor]) -> None:
    """The stored weight and its sum: two of the largest layer, beside matrices of a rank of 3."""
    largest = max(weight.numel() for weight in weights)
    assert len(log.products) == len(weights)
    assert all(each == {(log.device, torch.float32)} for each in log.products)
    assert FLOAT32 * largest < log.most < 2.2 * FLOAT32 * largest
    assert log.most < FLOAT32 * sum(weight.numel() for weight in weights) / 4, "else it says nothing"


def changed_weights(network: torch.nn.Module, changed: Iterable[str]) -> list[torch.Tensor]:
    state = network.state_dict()
    return [state[name] for name in changed]


def test_a_change_multiplies_on_the_weights_device_one_layer_at_a_time(folder):
    unet = build_unet(folder / "model" / "unet").half()
    stored = stored_model(folder / "model")
    parts = Parts(unet=unet, vae=None, text=SimpleNamespace(towers=[]), scheduler={}, index={}, stored=stored)
    with OperationLog(META) as log:
        changed = change_loras(parts, loras(folder)).additions.tensors["unet"]
    published = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "model" / "unet"))
    assert_one_layer_at_a_time(log, changed_weights(published, changed))


def test_a_load_multiplies_on_the_weights_device_one_layer_at_a_time(folder):
    unet = build_unet(folder / "model" / "unet")
    additions = read_loras(loras(folder), {"unet": tensor_shapes(unet)}, 1, read=stored_tensors)
    with OperationLog(META) as log:
        load_unet(folder / "model" / "unet", META, torch.float16, additions)
    published = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "model" / "unet"))
    assert_one_layer_at_a_time(log, changed_weights(published, additions.tensors["unet"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_an_addition_is_float32_to_the_bit(dtype, kernel):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 10, *kernel, generator=generator).to(dtype)
    up = torch.randn(24, 4, *(1,) * len(kernel), generator=generator)
    down = torch.randn(4, 10, *kernel, generator=generator)
    expected = weight.float() + 0.3 * (up.reshape(24, 4) @ down.reshape(4, -1)).view(weight.shape)
    change = Addition(form=LowRank(down, up), scale=0.5).change(weight, 0.6, TorchArithmetic(weight.device))
    torch.testing.assert_close(weight.float() + change, expected, rtol=0, atol=0)


def test_taking_them_out_again_leaves_the_files_bits(folder):
    plain = load_pipeline_parts(folder / "model").unet.state_dict()
    parts = load_pipeline_parts(folder / "model", loras=loras(folder))
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in parts.unet.state_dict().items())
    undone = change_loras(parts, ())
    for name, tensor in undone.unet.state_dict().items():
        torch.testing.assert_close(tensor, plain[name], rtol=0, atol=0)


def bits(parts: Parts) -> str:
    """A hash of all weights."""
    networks = [parts.unet, *(tower.model for tower in parts.text.towers)]
    found = hashlib.sha256()
    for network in networks:
        for name, tensor in network.state_dict().items():
            found.update(name.encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and LoRAs of several kinds for a few layers of it."""
    folder = tmp_path_factory.mktemp("few")
    write_model(folder / "model", 9, "tiny")
    draw = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.2

    query = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    loha = {f"hada_w{i}_{half}": random(*((32, 2) if half == "a" else (2, 32))) for i in (1, 2) for half in "ab"}
    files = {
        "lora": {f"{query}.lora_down.weight": random(2, 32), f"{query}.lora_up.weight": random(32, 2)},
        "loha": {f"{query}.{part}": tensor for part, tensor in loha.items()},
        "norm": {"lora_unet_conv_norm_out.w_norm": random(32), "lora_unet_conv_norm_out.b_norm": random(32)},
    }
    files["dora"] = {**files["lora"], f"{query}.dora_scale": random(32, 1)}
    for name, state in files.items():
        save_file(state, folder / f"{name}.safetensors")
    return folder


SETS = [[], ["lora"], ["loha", "norm"], ["dora"], ["norm", "lora", "loha"]]


@pytest.mark.parametrize(
    ("precision", "changes"),
    [("standard", 30), pytest.param("standard", 1000, marks=pytest.mark.slow), ("fp8", 20)],
)
def test_a_thousand_changes_leave_bits_and_memory_as_they_were(few, precision, changes):
    """In half precision, where sums that were added and subtracted again would drift at once."""
    parts = load_pipeline_parts(few / "model", dtype=torch.float16)
    if precision == "fp8":
        parts = in_float8(parts, torch.float16)
    files = [[(few / f"{name}.safetensors", 0.7) for name in names] for names in SETS]
    expected = []
    for loras in files:
        parts = change_loras(parts, loras)
        expected.append(bits(parts))
    assert len(set(expected)) == len(SETS)

    order = random.Random(3).choices(range(len(SETS)), k=changes)
    storages = []
    for turn, chosen in enumerate(order):
        parts = change_loras(parts, files[chosen])
        if turn % (changes // 10) == 5:
            assert bits(parts) == expected[chosen]
            storages.append(live_bytes())
    assert len(set(storages[1:])) <= len(SETS), "what is held depends on the LoRAs alone"
    assert bits(change_loras(parts, [])) == expected[0]


def live_bytes() -> int:
    """Of all tensors that are held somewhere."""
    gc.collect()
    places = {}
    for each in gc.get_objects():
        if type(each) in (torch.Tensor, torch.nn.Parameter):
            places[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return sum(places.values())


def test_a_change_that_fails_half_way_is_taken_back(few, monkeypatch):
    parts = change_loras(load_pipeline_parts(few / "model"), [(few / "loha.safetensors", 1.0)])
    before, written = bits(parts), lora_change._write

    def fail_once(state: Any, name: str, values: torch.Tensor, template: torch.Tensor) -> None:
        so_far.append(bits(parts))
        if len(so_far) == 3:
            raise RuntimeError("out of memory, say")
        written(state, name, values, template)

    so_far: list[str] = []
    monkeypatch.setattr(lora_change, "_write", fail_once)
    with pytest.raises(RuntimeError, match="out of memory"):
        change_loras(parts, [(few / "lora.safetensors", 1.0), (few / "norm.safetensors", 1.0)])
    assert so_far[2] != before
    assert bits(parts) == before


def test_where_it_cannot_be_taken_back_the_next_change_writes_all_of_it(few, monkeypatch, tmp_path):
    parts = load_pipeline_parts(few / "model")
    plain, written, calls = bits(parts), lora_change._write, []

    def fail(state: Any, name: str, values: torch.Tensor, template: torch.Tensor) -> None:
        calls.append(name)
        if len(calls) > 1:
            raise WeightsError("the file has gone")
        written(state, name, values, template)

    with monkeypatch.context() as patched:
        patched.setattr(lora_change, "_write", fail)
        with pytest.raises(HalfChangedError, match="nor those from before be put back") as caught:
            change_loras(parts, [(few / "lora.safetensors", 1.0), (few / "norm.safetensors", 1.0)])
    assert bits(parts) != plain
    assert bits(change_loras(caught.value.parts, [])) == plain


def test_values_that_the_weights_type_cannot_hold_are_refused(few, tmp_path):
    query = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    state = {f"{query}.lora_down.weight": torch.full((2, 32), 6e4), f"{query}.lora_up.weight": torch.ones(32, 2)}
    save_file(state, tmp_path / "huge.safetensors")
    parts = load_pipeline_parts(few / "model", dtype=torch.float16)
    before = bits(parts)
    with pytest.raises(WeightsError, match=r"huge\.safetensors: unet\..*to_q\.weight gets .* too large for float16"):
        change_loras(parts, [(tmp_path / "huge.safetensors", 1.0)])
    assert bits(parts) == before
