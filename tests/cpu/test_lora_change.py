"""Other LoRAs for a model that is open: written in place, to the bit what a fresh load gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its models with diffusers: pip install 'intarsia[torch]'")

from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

import intarsia
from intarsia import Lora
from intarsia.backends.protocol import ModelFiles
from intarsia.backends.torch.backend import TorchBackend
from intarsia.engine import worker
from intarsia.models import lora_change
from tests import adapters
from tests.noise_request import noise_request
from tests.random_model import write_model

SIZE = 64
SETTINGS = [(), (Lora(id="ink"),), (Lora(id="chalk", strength=0.5), Lora(id="ink", strength=0.8)), (Lora(id="chalk"),)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two LoRAs for all its layers, and one for layers that it does not have."""
    folder = tmp_path_factory.mktemp("change")
    model = write_model(folder / "nine", 9, "tiny")
    networks = {
        "unet": UNet2DConditionModel.from_pretrained(model / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(model / "text_encoder"),
    }
    layers = {name: adapters.layers_of(network) for name, network in networks.items()}
    few = {name: found[::3] for name, found in layers.items()}
    for seed, (name, chosen) in enumerate({"ink": layers, "chalk": few}.items()):
        pairs = adapters.random_pairs(networks, chosen, seed)
        adapters.write(folder / f"{name}.safetensors", adapters.kohya(pairs))
    stranger = {f"unet.mid_block.nowhere.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(stranger, folder / "stranger.safetensors")
    (folder / "weights.toml").write_text(
        'schema = 1\ndefault = "nine"\n[models.nine]\nfamily = "sd15-inpaint"\npath = "nine"\n'
        + "".join(f'[loras.{name}]\npath = "{name}.safetensors"\n' for name in ("ink", "chalk", "stranger"))
    )
    return folder / "weights.toml"


def ask(loras: Sequence[Any] = ()) -> intarsia.InpaintRequest:
    return noise_request(SIZE, slice(16, 50), slice(10, 44), steps=3, loras=loras)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sessions that were opened, in order."""
    sessions, original = [], TorchBackend.open

    def count(self: TorchBackend, files: ModelFiles) -> Any:
        sessions.append(original(self, files))
        return sessions[-1]

    monkeypatch.setattr(TorchBackend, "open", count)
    return sessions


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0])


@pytest.fixture(scope="module", params=["standard", "fp8"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """In e4m3 too, as a CPU simulates it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TorchBackend, "simulates", True)
        yield request.param


@pytest.fixture(scope="module")
def expected(weights: Path, precision: str) -> list[np.ndarray]:
    """Each setting's image from an engine of its own."""
    made = []
    for loras in SETTINGS:
        with intarsia.Engine("torch", "cpu", weights, precision=precision) as engine:
            made.append(drawn(engine.run(ask(loras))))
    return made


@pytest.mark.every(2)
def test_a_change_is_to_the_bit_a_fresh_load_and_happens_in_place(weights, opened, expected, precision):
    with intarsia.Engine("torch", "cpu", weights, precision=precision) as engine:
        engine.run(ask())
        places = {name: tensor.data_ptr() for name, tensor in opened[0].parts.unet.state_dict().items()}
        for place in (1, 2, 3, 1, 0):
            np.testing.assert_array_equal(drawn(engine.run(ask(SETTINGS[place]))), expected[place])
        assert {name: tensor.data_ptr() for name, tensor in opened[0].parts.unet.state_dict().items()} == places
    assert len(opened) == 1
    assert len({image.tobytes() for image in expected}) == len(SETTINGS)


def test_one_that_does_not_fit_leaves_the_session_as_it_was(weights, opened, expected, precision):
    with intarsia.Engine("torch", "cpu", weights, precision=precision) as engine:
        np.testing.assert_array_equal(drawn(engine.run(ask(SETTINGS[1]))), expected[1])
        with pytest.raises(intarsia.WeightsError, match="stranger"):
            engine.run(ask((Lora(id="stranger"),)))
        np.testing.assert_array_equal(drawn(engine.run(ask(SETTINGS[1]))), expected[1])
    assert len(opened) == 1


def test_a_model_in_use_is_not_changed_under_its_lanes(weights, opened, expected, precision, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 1)  # requests take turns, so that all are in flight at once
    with intarsia.Engine("torch", "cpu", weights, precision=precision) as engine:
        tickets = [engine.submit(ask(loras)) for loras in SETTINGS]
        for ticket, wanted in zip(tickets, expected, strict=True):
            np.testing.assert_array_equal(drawn(ticket.result()), wanted)
    assert len(opened) >= 2


def test_another_model_is_another_session(weights, opened, precision):
    with intarsia.Engine("torch", "cpu", weights, precision=precision) as engine:
        engine.run(ask())
        (session,) = opened
        assert not session.adapt(replace(session.files, model="other"))
        assert not session.adapt(replace(session.files, precision="fp8" if precision == "standard" else "standard"))
        assert session.adapt(session.files)


def test_half_changed_weights_make_no_image(weights, opened, expected, precision, monkeypatch):
    """A change that could not be taken back is an error of every request, until a change succeeds."""
    with intarsia.Engine("torch", "cpu", weights, precision=precision) as engine:
        np.testing.assert_array_equal(drawn(engine.run(ask(SETTINGS[1]))), expected[1])
        with monkeypatch.context() as patched:
            patched.setattr(lora_change, "_write", fail_once_written())
            with pytest.raises(intarsia.WeightsError, match="nor those from before be put back: it has gone"):
                engine.run(ask(SETTINGS[3]))
        with pytest.raises(intarsia.WeightsError, match="nor those from before be put back: it has gone"):
            engine.run(ask(SETTINGS[1]))
        np.testing.assert_array_equal(drawn(engine.run(ask(SETTINGS[2]))), expected[2])
    assert len(opened) == 1


def fail_once_written() -> Any:
    """In place of the writing of a tensor: the first is written, all others fail."""
    written, calls = lora_change._write, []

    def write(*args: Any) -> None:
        calls.append(args)
        if len(calls) > 1:
            raise intarsia.WeightsError("it has gone")
        written(*args)

    return write
