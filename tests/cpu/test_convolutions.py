"""Other forms of convolutions: the same numbers, only where they were asked for, and then in the session."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("transformers", reason="makes text encoders: pip install 'intarsia[torch]'")

from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.networks import Weights, parts
from intarsia.backends.torch.backend import TorchBackend
from intarsia.errors import BackendError
from intarsia.execution import Execution
from intarsia.models.convolutions import FORMS, PaddedConvolution, UnfoldedConvolution, use_forms
from intarsia.models.layers import convolve
from intarsia.models.loading import Parts

CPU = torch.device("cpu")
# Sums of up to 9 · 64 products of about 1, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


class Convolutions(TorchDispatchMode):
    """Input and output channels of the convolutions that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.channels.append((args[0].shape[1], args[1].shape[0]))
        return function(*args, **(kwargs or {}))


def layer_of(inputs: int, outputs: int, size: int = 3, **settings: Any) -> nn.Conv2d:
    generator = torch.Generator().manual_seed(inputs)
    layer = nn.Conv2d(inputs, outputs, size, **settings).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.to(memory_format=torch.channels_last)


def map_of(
    channels: int, height: int, width: int, memory_format: torch.memory_format = torch.channels_last
) -> torch.Tensor:
    made = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))
    return made.contiguous(memory_format=memory_format)


def assert_same_as(layer: nn.Conv2d, formed: torch.nn.Module, x: torch.Tensor) -> None:
    """With its bias and without, in both memory formats."""
    for each in (x, x.contiguous()):
        torch.testing.assert_close(formed(each), layer(each), **CLOSE)
        torch.testing.assert_close(
            convolve(formed, each), F.conv2d(each, layer.weight, None, layer.stride, layer.padding), **CLOSE
        )


@pytest.mark.parametrize(
    ("inputs", "outputs", "filled"), [(9, 32, (16, 32)), (3, 20, (8, 24)), (24, 3, (24, 8)), (4, 4, (8, 8))]
)
@pytest.mark.parametrize("size", [1, 3])
def test_padded_is_the_unpadded_convolution_of_full_channels(inputs, outputs, filled, size):
    layer, x = layer_of(inputs, outputs, size, padding=size // 2), map_of(inputs, 11, 6)
    with Convolutions() as seen:
        PaddedConvolution(layer)(x)
    assert seen.channels == [filled]
    assert_same_as(layer, PaddedConvolution(layer), x)


def test_what_is_written_into_a_padded_weight_in_place_is_what_it_computes_with():
    layer, other, x = layer_of(9, 30, padding=1), layer_of(9, 30, padding=1), map_of(9, 8, 8)
    formed = PaddedConvolution(layer)
    assert {name: each.shape for name, each in formed.state_dict().items()} == {
        name: each.shape for name, each in layer.state_dict().items()
    }
    for name, each in other.state_dict().items():
        each += 1
        formed.state_dict()[name].copy_(each)
    assert_same_as(other, formed, x)


@pytest.mark.parametrize(
    "settings", [{"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 0, "stride": 2}, {"padding": (1, 0)}], ids=str
)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (16, 16), (3, 3), (40, 33)])
def test_unfolded_is_the_same_convolution(settings, height, width):
    layer, x = layer_of(16, 24, **settings), map_of(16, height, width)
    assert_same_as(layer, UnfoldedConvolution(layer), x)


@pytest.mark.parametrize(
    ("height", "width", "stride", "often"), [(16, 16, 1, 0), (16, 17, 1, 1), (32, 32, 2, 0), (34, 32, 2, 1)]
)
def test_only_small_results_are_products(height, width, stride, often):
    with Convolutions() as seen:
        UnfoldedConvolution(layer_of(8, 8, padding=1, stride=stride))(map_of(8, height, width))
    assert len(seen.channels) == often


def test_the_weights_of_a_product_are_not_copied():
    layer, copied = layer_of(8, 16, padding=1), []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            made = function(*args, **(kwargs or {}))
            if "clone" in str(function) or "copy" in str(function):
                copied.append(made.shape)
            return made

    with Copies():
        UnfoldedConvolution(layer)(map_of(8, 8, 8))
    assert layer.weight.numel() not in [shape.numel() for shape in copied]


def networks() -> Parts:
    return parts(Weights("sd15-inpaint", shrunk=True), CPU, torch.float32)


def evaluated(made: Parts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A UNet's output for small random inputs, an autoencoder's latents and its image."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: object) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    unet, vae = made.unet, made.vae
    emb, cross_kv = (
        unet.embed(torch.tensor([500.0, 7.0])),
        unet.cross_kv(drawn(2, 4, unet.config.cross_attention_dim[0])),
    )
    latents = vae.encode(drawn(1, 3, 64, 48).clamp(-1, 1))
    return unet(drawn(2, 9, 24, 16), emb, cross_kv), latents, vae.decode(latents)


@pytest.fixture(scope="module")
def plain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return evaluated(networks())


CHOICES = [choice for count in (1, 2, 3) for choice in combinations(FORMS, count)]


@pytest.mark.every(2)
@pytest.mark.parametrize("choice", CHOICES, ids="+".join)
@torch.inference_mode()
def test_networks_compute_the_same_in_every_form(plain, choice):
    made = networks()
    before = {name: each.clone() for name, each in made.unet.state_dict().items()}
    use_forms(made.unet, made.vae, frozenset(choice))
    assert {name: each.shape for name, each in made.unet.state_dict().items()} == {
        n: e.shape for n, e in before.items()
    }
    for one, other in zip(evaluated(made), plain, strict=True):
        # relative to the size of what a dozen layers give
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


def kinds(made: Parts) -> set[str]:
    modules = [*made.unet.modules(), *made.vae.modules()]
    return {
        kind for kind in (PaddedConvolution, UnfoldedConvolution) if any(isinstance(each, kind) for each in modules)
    }


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((), set()),
        (("padded",), {PaddedConvolution}),
        (("unfolded",), {UnfoldedConvolution}),
        (("searched",), set()),
        (FORMS, {PaddedConvolution, UnfoldedConvolution}),
    ],
)
def test_a_choice_reaches_the_session_and_nothing_else_does(plain, choice, expected):
    session = TorchBackend("cpu", Execution()).open_parts(networks(), convolutions=choice)
    assert kinds(session.parts) == expected
    assert session.runtime.options == ((("convolutions", "+".join(choice)),) if choice else ())
    if not choice:
        with torch.inference_mode():
            for one, other in zip(evaluated(session.parts), plain, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_padded_are_the_ends_of_networks_and_unfolded_only_the_unets():
    made = networks()
    use_forms(made.unet, made.vae, frozenset(FORMS))
    padded = {name for name, each in made.vae.named_modules() if isinstance(each, PaddedConvolution)}
    assert {"encoder.conv_in", "decoder.conv_in", "decoder.conv_out", "post_quant_conv"} == padded
    assert isinstance(made.unet.conv_in, PaddedConvolution)
    assert not any(isinstance(each, UnfoldedConvolution) for each in made.vae.modules())


def test_a_form_that_there_is_not_is_one_line():
    with pytest.raises(BackendError, match=r"^convolutions must be of padded, searched, unfolded, not 'wide'$"):
        TorchBackend("cpu", Execution()).open_parts(networks(), convolutions=("padded", "wide"))
