"""Running out of memory: tiles first, then an error that says what would fit. The failures are injected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its model with diffusers: pip install 'intarsia[torch]'")

from torch.nn import functional as F

import intarsia
from intarsia.backends.torch import device as devices
from intarsia.backends.torch import memory
from intarsia.backends.torch.backend import TorchBackend
from intarsia.backends.torch.memory import Attempt, Memory, what_would_fit
from intarsia.backends.torch.tiles import Tiling, in_tiles
from intarsia.execution import Execution
from intarsia.models.vae_tiny import AutoencoderTiny
from tests.random_model import write_model, write_registry

GIB = 2**30
MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


# Tiles.


@pytest.mark.parametrize("sides", [(24, 40), (17, 90), (200, 33), (5, 16), (129, 64)])
def test_what_has_no_reach_is_the_same_in_tiles(sides):
    x = torch.randn(2, 3, *sides)
    calls = []

    def double(tile: torch.Tensor) -> torch.Tensor:
        calls.append(tile.shape)
        return F.interpolate(tile[:, :2], scale_factor=4, mode="nearest")

    found = in_tiles(double, x, Tiling(grain=1, scale=4, channels=2))
    torch.testing.assert_close(found, F.interpolate(x[:, :2], scale_factor=4, mode="nearest"), atol=1e-6, rtol=0)
    assert max(max(shape[2:]) for shape in calls) <= 64
    if max(sides) > 24:
        assert max(shape[2] * shape[3] for shape in calls) < 0.8 * sides[0] * sides[1], "no tile is the whole"


def test_encoding_begins_tiles_at_latents():
    x = torch.randn(1, 3, 8 * 70, 8 * 33)
    found = in_tiles(lambda tile: F.avg_pool2d(tile, 8), x, Tiling(grain=8, scale=1 / 8, channels=3))
    torch.testing.assert_close(found, F.avg_pool2d(x, 8), atol=1e-5, rtol=0)


# A session.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_registry(folder / "weights.toml", nine=(write_model(folder / "nine", 9, "tiny"), "sd15-inpaint"))


@pytest.fixture
def ask() -> Callable[..., intarsia.InpaintRequest]:
    ramp = np.linspace(20, 220, 320)[:, None, None] * np.ones((1, 256, 3))
    mask = np.zeros((320, 256), np.uint8)
    mask[60:200, 50:190] = 255

    def make(**fields: Any) -> intarsia.InpaintRequest:
        defaults = {"prompt": "ab", "seed": 5, "steps": 3, "width": 256, "height": 320}
        return intarsia.InpaintRequest(init_image=ramp.astype(np.uint8), mask_image=mask, **{**defaults, **fields})

    return make


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[str, int], None], list[Any]]:
    """Let the autoencoder hold images of so many pixels and no more; what it was called with."""
    calls = []

    def set_limit(name: str, pixels: int) -> None:
        original = getattr(AutoencoderTiny, name)

        def limited(self: AutoencoderTiny, x: torch.Tensor) -> torch.Tensor:
            side = 1 if name == "encode" else self.factor
            calls.append((name, len(x), x.shape[2] * side, x.shape[3] * side))
            if x.shape[2] * x.shape[3] * side**2 > pixels:
                raise torch.OutOfMemoryError(MESSAGE)
            return original(self, x)

        monkeypatch.setattr(AutoencoderTiny, name, limited)

    return set_limit, calls


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_what_does_not_fit_is_done_in_tiles_and_said(models, ask, short, name):
    set_limit, calls = short
    with intarsia.Engine("torch", "cpu", models) as engine:
        whole = engine.run(ask())
        assert not whole.runtime.notes
        set_limit(name, 256 * 320 - 1)
        first, second = (engine.run(ask()) for _ in range(2))
        other = engine.run(ask(width=128, height=128))
    expected = f"images of 256x320 are {name}d in tiles: memory does not hold them whole"
    for result in (first, second):
        assert expected in result.warnings
        difference = np.asarray(result.generated[0], float) - np.asarray(whole.generated[0], float)
        # The small autoencoder has no norms, but some forty pixels of reach, more than a tile's soft edge covers whole.
        assert 0 < np.sqrt(np.mean(difference**2)) < 4
    np.testing.assert_array_equal(first.generated[0], second.generated[0])
    assert other.generated[0].size == (128, 128)
    tried = [call for call in calls if call[2:] == (320, 256)]
    assert len(tried) == 1, "the whole is tried once for a size"


def test_what_does_not_fit_in_tiles_either_says_what_would(models, ask, short, monkeypatch):
    set_limit, _ = short
    set_limit("decode", 64)
    monkeypatch.setattr(devices, "measured", lambda error, device: Memory(6 * GIB, 2 * GIB, 8 * GIB))
    with (
        intarsia.Engine("torch", "cpu", models) as engine,
        pytest.raises(
            intarsia.OutOfMemory, match="while trying to decode an image: 256x320 needs 8,192 MiB or more"
        ) as caught,
    ):
        engine.run(ask())
    assert "8,192 MiB are there; about 192x256 would fit" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_that_does_not_fit_says_how_many_slots_would(models, ask, monkeypatch):
    from intarsia.models.unet import UNet

    def refuse(self: object, *_: object) -> None:
        raise torch.OutOfMemoryError(MESSAGE)

    monkeypatch.setattr(UNet, "forward", refuse)
    with intarsia.Engine("torch", "cpu", models) as engine:
        with pytest.raises(
            intarsia.OutOfMemory, match="evaluate the network: 256x320 in 4 slots is too much; a smaller width"
        ):
            engine.run(ask(samples=4))
        monkeypatch.undo()
        assert engine.run(ask()).images, "the engine goes on"


# What would fit.


def test_what_would_fit_is_a_share_of_what_was_asked():
    memory = Memory(held=10 * GIB, tried=6 * GIB, usable=12 * GIB)
    text = what_would_fit(Attempt(width=1024, height=2048, lanes=8, rest=4 * GIB), memory)
    # 12 GiB were needed beside the weights and 8 are there: 0.9 · 2/3 of 8 slots, or of the pixels
    assert text == (
        "1024x2048 in 8 slots needs 12,288 MiB or more beside the weights, and 8,192 MiB are there; "
        "about slots=4 or 768x1536 would fit"
    )
    alone = what_would_fit(Attempt(width=1024, height=2048, rest=4 * GIB), memory)
    assert alone.endswith("are there; about 768x1536 would fit")
    assert what_would_fit(Attempt(width=128, height=128, rest=12 * GIB), memory).endswith("no size of it would fit")
    plenty = Memory(held=GIB, tried=GIB, usable=100 * GIB)  # in pieces, then: less would still fit better
    assert "about 960x1920 would fit" in what_would_fit(Attempt(width=1024, height=2048), plenty)
    assert what_would_fit(None, memory) == "a smaller model, or fewer open ones, would fit"


def after(first: Exception, second: Exception) -> Exception:
    second.__context__ = first
    return second


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(MESSAGE), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (after(torch.OutOfMemoryError(MESSAGE), RuntimeError("operation failed due to a previous error")), True),
    ],
)
def test_memory_is_distinguished_from_other_failures(error, expected):
    assert memory.is_out_of_memory(error) is expected


def test_other_failures_are_in_our_words():
    with (
        pytest.raises(intarsia.BackendError, match="torch failed to try on cpu: no such thing") as caught,
        devices.translated("try", torch.device("cpu")),
    ):
        raise RuntimeError("no such thing\nmore")
    assert not isinstance(caught.value, intarsia.OutOfMemory)


# What is missing.


def test_a_torch_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(intarsia.BackendError, match=r"device cuda is not available: torch .* is built without CUDA"):
        intarsia.Engine("torch", "cuda")


def test_a_missing_driver_is_named(monkeypatch):
    def init() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check\nmore")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(
        intarsia.BackendError, match=r"cannot use a driver for CUDA 13\.0: Found no NVIDIA driver on your system"
    ):
        intarsia.Engine("torch", "cuda:1")


def test_a_device_too_few_is_counted(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    with pytest.raises(
        intarsia.BackendError, match="cuda:3 is not available: this machine has 1 CUDA device for torch"
    ):
        intarsia.Engine("torch", "cuda:3")


# What may be chosen, and what is captured.


def test_capture_is_for_a_gpu(models, ask):
    with pytest.raises(intarsia.BackendError, match="capture must be auto, on or off, not 'yes'"):
        intarsia.Engine("torch", "cpu", capture="yes")
    with (
        intarsia.Engine("torch", "cpu", models, capture="on") as engine,
        pytest.raises(
            intarsia.BackendError,
            match="captured steps need fused kernels on a CUDA device; here are plain ones on cpu",
        ),
    ):
        engine.run(ask())
    with (
        intarsia.Engine("null", "cpu", models, capture="on") as engine,
        pytest.raises(intarsia.BackendError, match="the null backend has no steps to capture"),
    ):
        engine.run(ask())


def test_results_say_what_ran(models, ask):
    with intarsia.Engine("torch", "cpu", models, capture="off") as engine:
        ran = engine.run(ask()).ran
    assert (ran["backend"], ran["kernels"], ran["capture"]) == ("torch", "plain", "off")
    assert ran["attention"] == (("every shape", "torch's default"),)
    with intarsia.Engine("torch", "cpu", models) as engine:
        assert engine.run(ask(strength=0.0)).ran == {}


@pytest.mark.parametrize("slots", [0, 65, -1, 2.0, True, "8"])
def test_slots_out_of_range(slots):
    with pytest.raises(intarsia.RequestError, match="slots must be an integer between 1 and 64"):
        intarsia.Engine("null", slots=slots)


def test_pasting_on_the_device_is_the_engines_to_the_byte(models):
    from intarsia.canvas.paste import blend
    from intarsia.engine.parts import Parts, model_files
    from intarsia.registry.registry import Registry

    rng = np.random.default_rng(0)
    base, over = rng.integers(0, 256, (2, 300, 256, 3), np.uint8)
    weights = np.repeat(np.arange(256, dtype=np.uint8)[None], 300, axis=0)
    session = TorchBackend("cpu", Execution()).open(model_files(Registry(models).find("nine"), Parts()))
    base.setflags(write=False)
    for part in (slice(0, 300), slice(10, 10), slice(7, 201)):
        given = base[part, 3:], over[part, 3:], weights[part, 3:]
        np.testing.assert_array_equal(session.blend(*given), blend(*given))
    session.close()
