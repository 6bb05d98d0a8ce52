"""Where LoRAs' additions are computed, and how much of them is held at once."""

from __future__ import annotations

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
from intarsia.models.loading import Parts, build_unet, load_pipeline_parts, load_unet
from intarsia.models.lora import LowRank
from intarsia.models.lora_change import change_loras
from intarsia.models.lora_files import read_loras
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
    return [network.get_submodule(name).weight for name in changed]


def test_a_change_multiplies_on_the_weights_device_one_layer_at_a_time(folder):
    unet = build_unet(folder / "model" / "unet").half()
    stored = stored_model(folder / "model")
    parts = Parts(unet=unet, vae=None, text=SimpleNamespace(towers=[]), scheduler={}, index={}, stored=stored)
    with OperationLog(META) as log:
        changed = change_loras(parts, loras(folder)).changed["unet"]
    published = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "model" / "unet"))
    assert_one_layer_at_a_time(log, changed_weights(published, changed))


def test_a_load_multiplies_on_the_weights_device_one_layer_at_a_time(folder):
    additions = read_loras(loras(folder), 1)
    with OperationLog(META) as log:
        load_unet(folder / "model" / "unet", META, torch.float16, additions)
    published = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "model" / "unet"))
    assert_one_layer_at_a_time(log, changed_weights(published, additions.layers["unet"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_an_addition_is_float32_to_the_bit(dtype, kernel):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 10, *kernel, generator=generator).to(dtype)
    up = torch.randn(24, 4, *(1,) * len(kernel), generator=generator)
    down = torch.randn(4, 10, *kernel, generator=generator)
    expected = weight.float() + 0.3 * (up.reshape(24, 4) @ down.reshape(4, -1)).view(weight.shape)
    torch.testing.assert_close(LowRank(down, up, 0.3).added_to(weight), expected, rtol=0, atol=0)


def test_taking_them_out_again_leaves_the_files_bits(folder):
    plain = load_pipeline_parts(folder / "model").unet.state_dict()
    parts = load_pipeline_parts(folder / "model", loras=loras(folder))
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in parts.unet.state_dict().items())
    undone = change_loras(parts, ())
    for name, tensor in undone.unet.state_dict().items():
        torch.testing.assert_close(tensor, plain[name], rtol=0, atol=0)
