"""An engine with a memory budget: what leaves memory between prompts, with the same images."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import torch
from safetensors.numpy import load_file

import intarsia
from intarsia.backends.memory_plan import NetworkSizes
from intarsia.backends.onnx import open_sessions
from intarsia.backends.onnx.session import OnnxSession
from intarsia.backends.onnx.vae import in_tiles
from intarsia.backends.tile_spans import Tiling
from intarsia.backends.torch import tiles as torch_tiles
from intarsia.backends.torch.session import TorchSession
from intarsia.checkpoints.single_file import stored_model
from tests.noise_request import noise_request

MODEL = Path(intarsia.__file__).parent / "assets" / "intarsia-tiny"
# The packaged model fits into it several times; a request, by the estimate, does not.
RELEASES_TEXT = "1GiB"


def ask(**fields: Any) -> intarsia.InpaintRequest:
    defaults = {"model": "intarsia-tiny", "prompt": "a red circle", "steps": 2, "seed": 3}
    return noise_request(128, slice(24, 100), slice(30, 90), **{**defaults, **fields})


REQUESTS = [
    {},
    {"loras": [{"id": "stripes", "strength": 0.8}], "prompt": "a green square"},
    {"loras": [], "prompt": "a green square"},
    {"prompt": "a red circle"},
]


def images(backend: str, memory: str | None) -> list[np.ndarray]:
    with intarsia.Engine(backend, "cpu", memory=memory) as engine:
        return [engine.run(ask(**fields)).drawn[0] for fields in REQUESTS]


@pytest.mark.every(2)
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_released_text_encoders_change_no_bit(backend):
    """With LoRAs switched on and off in between: weights are changed where they are not there."""
    kept = images(backend, None)
    released = images(backend, RELEASES_TEXT)
    assert not np.array_equal(kept[0], kept[1])
    for one, other in zip(kept, released, strict=True):
        assert np.array_equal(one, other)


def test_a_session_on_onnx_runtime_says_what_its_weights_take():
    with intarsia.Engine("onnx", "cpu") as engine:
        engine.run(ask())
        (session,) = engine._worker._models._sessions.values()
        assert session.weight_bytes == sum(
            4 * values.size for path in MODEL.glob("*/*.safetensors") for values in load_file(path).values()
        )


def test_torch_releases_them_and_says_so(caplog):
    caplog.set_level(logging.INFO, "intarsia")
    with intarsia.Engine("torch", "cpu", memory=RELEASES_TEXT) as engine:
        result = engine.run(ask())
        (session,) = engine._worker._models._sessions.values()
        assert isinstance(session, TorchSession)
        text = [weight for tower in session.parts.text.towers for weight in tower.model.parameters()]
        assert text
        assert sum(weight.numel() for weight in text) == 0
        assert sum(weight.numel() for weight in session.parts.unet.parameters()) > 1e6

    sentence = dict(result.ran["options"])["memory"]
    assert sentence.startswith("a budget of 1.0 GiB: text encoders leave the device between prompts")
    assert [record.getMessage() for record in caplog.records if "memory" in record.getMessage()] == [
        f"memory: {sentence}"
    ]


def test_onnx_opens_them_for_new_prompts_alone(monkeypatch):
    opened: list[str] = []
    real = open_sessions.open_graph

    def counted(graphs: Any, name: str, *rest: Any, **options: Any) -> Any:
        opened.append(name)
        return real(graphs, name, *rest, **options)

    monkeypatch.setattr(open_sessions, "open_graph", counted)
    with intarsia.Engine("onnx", "cpu", memory=RELEASES_TEXT) as engine:
        for prompt in ("a red circle", "a red circle", "a blue circle"):
            engine.run(ask(prompt=prompt, negative_prompt="dark"))
    assert opened.count("text_encoder") == 2, "for a prompt with the negative one, and for the other prompt"
    assert opened.count("unet_context") == 2


def test_onnx_opens_one_graph_after_the_other_for_all_prompts_of_a_request(monkeypatch):
    """Also for the empty prompt that is read behind the shorter of two."""
    opened: list[tuple[str, weakref.ref[Any]]] = []
    real = open_sessions.open_graph

    def counted(graphs: Any, name: str, *rest: Any, **options: Any) -> Any:
        assert [other for other, session in opened if session() is not None] in ([], ["unet"])
        session = real(graphs, name, *rest, **options)
        opened.append((name, weakref.ref(session)))
        return session

    monkeypatch.setattr(open_sessions, "open_graph", counted)
    long = ", ".join(["a red circle"] * 30)
    with intarsia.Engine("onnx", "cpu", memory="16MiB") as engine:
        for _ in range(2):
            engine.run(ask(prompt=long, negative_prompt="dark"))
    names = [name for name, _ in opened]
    assert [names.count(name) for name in ("text_encoder", "unet_context")] == [1, 1]


def test_an_image_encoder_that_is_released_changes_no_bit(monkeypatch):
    """Of an IP adapter, on both backends; it is not there while the network is evaluated."""
    shown = {"id": "tiny-look", "image": np.full((64, 64, 3), (200, 40, 40), np.uint8), "scale": 0.7}
    values: list[int] = []
    opened: list[str] = []
    open_graph, advance = open_sessions.open_graph, TorchSession.advance

    def followed(graphs: Any, name: str, *rest: Any, **options: Any) -> Any:
        opened.append(name)
        return open_graph(graphs, name, *rest, **options)

    def looked_at(self: TorchSession, steps: Any) -> None:
        assert self.image_prompts is not None
        values.append(sum(weight.numel() for weight in self.image_prompts.encoder.parameters()))
        advance(self, steps)

    monkeypatch.setattr(open_sessions, "open_graph", followed)
    monkeypatch.setattr(TorchSession, "advance", looked_at)
    for backend, sentence in (
        ("torch", "the image encoder leaves it between images"),
        ("onnx", "the image encoder is opened for each image"),
    ):
        with intarsia.Engine(backend, "cpu") as engine:
            kept = engine.run(ask(ip_adapter=shown))
        assert all(values), "without a budget it stays"
        assert not set(opened) & {"image_encoder", "image_context"}
        values.clear()
        with intarsia.Engine(backend, "cpu", memory=RELEASES_TEXT) as engine:
            for _ in range(2):
                released = engine.run(ask(ip_adapter=shown))
                assert np.array_equal(kept.drawn[0], released.drawn[0])
        assert sentence in dict(released.ran["options"])["memory"]
        assert not any(values)
        values.clear()
    assert opened.count("image_encoder") == opened.count("image_context") == 2, "once for each image"


def test_onnx_opens_the_vae_for_each_use(monkeypatch):
    """Encoder and decoder are there while they run, once for an image and its masked copy, tiles or not."""
    alive: dict[str, weakref.ref[Any]] = {}
    at_steps: list[set[str]] = []
    opened: list[str] = []
    real, advance = open_sessions.open_graph, OnnxSession.advance

    def followed(graphs: Any, name: str, *rest: Any, **options: Any) -> Any:
        session = real(graphs, name, *rest, **options)
        alive[name] = weakref.ref(session)
        if name not in ("text_encoder", "unet_context"):
            opened.append(name)
        return session

    def looked_at(self: OnnxSession, steps: Any) -> None:
        at_steps.append({name for name, session in alive.items() if session() is not None})
        advance(self, steps)

    monkeypatch.setattr(open_sessions, "open_graph", followed)
    monkeypatch.setattr(OnnxSession, "advance", looked_at)
    for memory, size in ((RELEASES_TEXT, 128), ("64MiB", 256)):
        opened.clear()
        with intarsia.Engine("onnx", "cpu", memory=memory) as engine:
            result = engine.run(ask(width=size, height=size))
            assert opened == ["unet", "vae_encoder", "unet_embed", "vae_decoder"]
        assert "the VAE is opened for each use" in dict(result.ran["options"])["memory"]
    assert at_steps
    assert all(there == {"unet"} for there in at_steps)


@pytest.mark.slow
def test_the_device_decides_without_a_budget(monkeypatch):
    for module in ("intarsia.backends.torch.backend", "intarsia.backends.onnx.backend"):
        monkeypatch.setattr(f"{module}.host_bytes", lambda: 2**30)
    for backend in ("torch", "onnx"):
        with intarsia.Engine(backend, "cpu") as engine:
            options = dict(engine.run(ask()).ran["options"])
        assert options["memory"].startswith("a device with 1.0 GiB: text encoders")


def test_a_large_model_is_kept_small_without_a_budget(monkeypatch):
    """On ONNX Runtime, where what is released is soon opened again; a budget is taken at its word."""
    monkeypatch.setattr("intarsia.backends.onnx.backend._LARGE", 2**20)
    kept = images("onnx", "16GiB")
    saved = images("onnx", None)
    with intarsia.Engine("onnx", "cpu") as engine:
        options = dict(engine.run(ask()).ran["options"])
    assert options["memory"] == (
        "a large model without a budget: text encoders are opened for each new prompt, "
        "the VAE is opened for each use, matrices are not packed"
    )
    with intarsia.Engine("onnx", "cpu", memory="16GiB") as engine:
        assert dict(engine.run(ask()).ran["options"])["memory"].startswith("a budget of 16.0 GiB: images above")
    for one, other in zip(kept, saved, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.parametrize("folds_above", [0, 2**40])
def test_who_folds_is_decided_by_the_weights(monkeypatch, folds_above):
    monkeypatch.setattr("intarsia.backends.onnx.backend._FOLDED", folds_above)
    with intarsia.Engine("onnx", "cpu") as engine:
        engine.run(ask())
        (session,) = engine._worker._models._sessions.values()
        assert (session.device.folds, session.device.packs) == (folds_above == 0, True)


def test_the_network_that_merges_shares_the_weights():
    """With a LoRA as well; the images are those of two networks with weights of their own, but for rounding."""
    fields = {"token_merging": 0.5, "loras": [{"id": "stripes", "strength": 0.8}], "prompt": "a red circle"}
    request = noise_request(128, slice(48, 80), slice(48, 80), model="intarsia-tiny", steps=2, seed=3, **fields)
    with intarsia.Engine("onnx", "cpu") as engine:
        expected = engine.run(request)
    with intarsia.Engine("onnx", "cpu", memory="16MiB") as engine:
        actual = engine.run(request)
        (session,) = engine._worker._models._sessions.values()
        pools = (session._pool, session._merging_pool)
        networks = [{id(weight) for weight in pool.sessions.network.folded_weights.values()} for pool in pools]
    assert len(networks[0]) > 50
    assert networks[0] == networks[1]

    difference = actual.drawn[0].astype(int) - expected.drawn[0].astype(int)
    assert np.abs(difference).max() <= 2


def test_nothing_is_said_where_nothing_is_short():
    with intarsia.Engine("torch", "cpu") as engine:
        assert "memory" not in dict(engine.run(ask()).ran["options"])


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_images_above_the_budget_are_done_in_tiles(backend):
    with intarsia.Engine(backend, "cpu", memory="64MiB") as engine:
        result = engine.run(ask(width=256, height=256))
    tiled = [warning for warning in result.warnings if "tiles" in warning]
    assert tiled == [
        "images of 256x256 are encoded in tiles: the memory budget does not hold them whole",
        "images of 256x256 are decoded in tiles: the memory budget does not hold them whole",
    ]


def test_weights_that_are_folded_here_give_the_same_images_but_for_rounding():
    """With a LoRA, whose weights come from memory instead of the files."""
    request = ask(loras=[{"id": "stripes", "strength": 0.8}])
    with intarsia.Engine("onnx", "cpu", memory="16MiB") as engine:
        folded = engine.run(request)
    assert "matrices are not packed" in dict(folded.ran["options"])["memory"]
    with intarsia.Engine("onnx", "cpu") as engine:
        by_onnx_runtime = engine.run(request)

    difference = folded.drawn[0].astype(int) - by_onnx_runtime.drawn[0].astype(int)
    assert np.abs(difference).max() <= 1


def test_a_session_with_fewer_slots_than_the_engine_gets_fewer_lanes(monkeypatch):
    """As a GPU's would have, whose lanes are evaluated together."""
    together: list[int] = []
    advance, settled = TorchSession.advance, TorchSession._settled_runtime

    def limited(self: TorchSession, *arguments: Any) -> Any:
        self.slots = 2
        return settled(self, *arguments)

    def counted(self: TorchSession, steps: Any) -> None:
        together.append(len(steps))
        advance(self, steps)

    monkeypatch.setattr(TorchSession, "_settled_runtime", limited)
    monkeypatch.setattr(TorchSession, "advance", counted)
    with intarsia.Engine("torch", "cpu", slots=4) as engine:
        assert len(engine.run(ask(samples=4)).images) == 4
    assert set(together) == {2}


def test_tiles_are_put_together_as_in_torch():
    image = np.random.default_rng(0).standard_normal((1, 3, 8 * 41, 8 * 70), np.float32)
    tiling = Tiling(grain=8, scale=1 / 8, channels=3)

    def pooled(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 8) - x.mean()  # differs from tile to tile, as norms do

    expected = torch_tiles.in_tiles(pooled, torch.from_numpy(image), tiling).numpy()
    actual = in_tiles(lambda x: pooled(torch.from_numpy(x)).numpy(), image, tiling)
    assert actual.shape == (1, 3, 41, 70)
    # torch sums in another order where channels are last
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_sizes_are_those_of_the_networks():
    sizes = NetworkSizes.of(stored_model(MODEL))
    with intarsia.Engine("torch", "cpu") as engine:
        engine.run(ask())
        (session,) = engine._worker._models._sessions.values()
        parts = session.parts
        assert sizes.unet == _count(parts.unet)
        assert sizes.text == sum(_count(tower.model) for tower in parts.text.towers)


def _count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())
