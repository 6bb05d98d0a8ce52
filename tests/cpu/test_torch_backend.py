"""The torch backend on the CPU with small random models: batches, cancellation, both kinds of network, errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its models with diffusers: pip install 'intarsia[torch]'")

import intarsia
from intarsia.backends.torch import prompts
from intarsia.backends.torch import session as sessions
from tests.noise_request import noise_request
from tests.random_model import write_model, write_registry

SIZE = 128


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    inpainting = write_model(folder / "nine", 9, "tiny")
    plain = write_model(folder / "four", 4, "kl", seed=1)
    return write_registry(folder / "weights.toml", nine=(inpainting, "sd15-inpaint"), four=(plain, "sd15"))


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu", models) as opened:
        yield opened


@pytest.fixture
def ask() -> Callable[..., intarsia.InpaintRequest]:
    def make(**fields: Any) -> intarsia.InpaintRequest:
        return noise_request(SIZE, slice(24, 100), slice(30, 90), **{"steps": 6, "model": "nine", **fields})

    return make


MIXED = [
    {"scheduler": "euler", "steps": 4, "strength": 1.0},
    {"scheduler": "EulerAncestralDiscreteScheduler", "steps": 9, "seed": 8, "samples": 2},
    {"scheduler": "HeunDiscreteScheduler", "steps": 5, "guidance_scale": 3.0},
    {"scheduler": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "steps": 7, "prompt": "xyz"},
    {"scheduler": "UniPCMultistepScheduler", "steps": 12, "strength": 0.4, "negative_prompt": "q"},
    {"scheduler": "PNDMScheduler", "steps": 8, "guidance_scale": 1.0},
    {"model": "four", "steps": 5},
    {"model": "four", "steps": 4, "scheduler": "euler", "strength": 1.0},
    {"width": 64, "height": 192, "steps": 4},
]


def test_same_seed_same_bits_alone_or_batched_with_others(engine, ask):
    requests = [ask(**fields) for fields in MIXED]
    alone = [engine.run(request) for request in requests]
    again = [ticket.result() for ticket in [engine.submit(request) for request in requests]]
    for first, second in zip(alone, again, strict=True):
        for one, other in zip(first.generated, second.generated, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert np.asarray(first.generated[0]).std() > 1
    assert all(result.runtime.deterministic for result in again)


def test_batched_evaluation_agrees_with_one_lane_at_a_time(engine, models, ask):
    requests = [ask(**fields) for fields in MIXED[:5]]
    alone = [engine.run(request).generated[0] for request in requests]
    with intarsia.Engine("torch", "cpu", models, deterministic=False) as together:
        batched = [ticket.result().generated[0] for ticket in [together.submit(request) for request in requests]]
    for one, other in zip(alone, batched, strict=True):
        difference = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
        assert difference.max() <= 1, "float32 in another order: at most one level after rounding"


def test_sample_i_is_the_image_of_seed_plus_i(engine, ask):
    several = engine.run(ask(samples=3, seed=40))
    for sample, seed in enumerate(several.seeds):
        alone = engine.run(ask(seed=seed))
        np.testing.assert_array_equal(np.asarray(several.generated[sample]), np.asarray(alone.generated[0]))


def test_outside_the_feather_every_byte_is_the_inputs(engine, ask):
    for model in ("nine", "four"):
        request = ask(model=model, mask_blur=3.0)
        result = engine.run(request)
        from intarsia.engine.resolve import resolve
        from intarsia.registry.registry import Registry

        touched = resolve(request, Registry(engine.registry.find("nine").declared_in)).canvas.touched()
        out, image = np.asarray(result.images[0]), request.init_image
        np.testing.assert_array_equal(out[~touched], image[~touched])
        assert (out[touched] != image[touched]).mean() > 0.5
        assert 0 < touched.mean() < 1


def test_a_4_channel_model_keeps_the_known_region_in_its_latents(engine, ask):
    """Outside the mask the latents end as the image's own, so the decoded image is its reconstruction there."""
    kept = np.asarray(engine.run(ask(model="four", prompt="ab")).generated[0], np.int16)
    other = np.asarray(engine.run(ask(model="four", prompt="something else", seed=77)).generated[0], np.int16)
    difference = np.abs(kept - other).max(axis=2)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[24:100, 30:90] = True
    far = ~inside
    far[8:116, 14:106] = False  # the decoder's convolutions reach across the mask's edge, its mean over everything
    assert difference[inside].mean() > 5 * max(difference[far].mean(), 0.2)


def test_conditioning_reaches_the_image(engine, ask):
    """Each of these must change what is drawn; a part that is dropped would not."""
    base = np.asarray(engine.run(ask()).generated[0])
    changes = [{"prompt": "cd"}, {"negative_prompt": "cd"}, {"guidance_scale": 2.0}, {"clip_skip": 2}, {"seed": 6}]
    changes += [{"strength": 1.0}, {"masked_content": "noise"}, {"masked_content": "fill"}]
    for change in changes:
        assert not np.array_equal(base, np.asarray(engine.run(ask(**change)).generated[0])), change


def test_cancellation_between_steps(engine, ask, monkeypatch):
    decoded = []
    monkeypatch.setattr(sessions.TorchSession, "decode", lambda self, states: decoded.append(states))
    ticket = engine.submit(ask(steps=150, strength=1.0))
    next(ticket.progress())
    ticket.cancel()
    with pytest.raises(intarsia.Cancelled):
        ticket.result(timeout=30)
    assert decoded == []


def test_more_layers_skipped_than_there_are(engine, ask):
    with pytest.raises(intarsia.RequestError, match="clip_skip must be between 1 and 3"):
        engine.run(ask(clip_skip=8))


def test_a_long_prompt_is_cut_with_a_warning(engine, ask):
    long = {"prompt": "word " * 200}
    assert engine.run(ask(**long)).warnings == ()
    [warning] = engine.run(ask(**long, prompt_syntax="plain")).warnings
    assert warning.startswith("prompt cut after 77 tokens; not used: ")


@pytest.fixture
def damaged(models: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(models.parent / "nine", tmp_path / "nine")
    registry = write_registry(tmp_path / "weights.toml", nine=(tmp_path / "nine", "sd15-inpaint"))
    return tmp_path / "nine", registry


def truncate(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def pickle_only(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def other_shape(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [32, 96]}))


DAMAGE = [
    (truncate, "diffusion_pytorch_model.safetensors"),
    (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "unet"),
    (lambda folder: (folder / "vae" / "config.json").unlink(), "vae"),
    (lambda folder: (folder / "vae" / "config.json").write_text("{"), "config.json"),
    (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer"),
    (pickle_only, "pickle"),
    (other_shape, "unet"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGE)
def test_damaged_models_are_one_line_that_names_the_file(damaged, ask, damage, named):
    folder, registry = damaged
    damage(folder)
    with (
        intarsia.Engine("torch", "cpu", registry) as engine,
        pytest.raises(intarsia.WeightsError, match=named) as caught,
    ):
        engine.run(ask())
    assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_than_the_registry_says(models, tmp_path, ask):
    registry = write_registry(tmp_path / "w.toml", nine=(models.parent / "four", "sd15-inpaint"))
    with (
        intarsia.Engine("torch", "cpu", registry) as engine,
        pytest.raises(intarsia.WeightsError, match="in_channels 4, nine's family in the registry promises 9"),
    ):
        engine.run(ask())


class Refusing:
    """Stands for a device on which nothing can be captured."""

    def __init__(self, device: object, *, required: bool = False) -> None:
        self.refused, self.required = "", required

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.required:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.refused = "steps are launched one operation at a time: capturing failed (no)"
        return work


@pytest.mark.parametrize("capture", ["auto", "on"])
def test_where_nothing_can_be_captured_all_is_launched_unless_capture_is_required(monkeypatch, capture):
    monkeypatch.setattr(sessions, "CudaGraphCapturer", Refusing)
    monkeypatch.setattr(sessions, "captures", lambda *_: True)
    request = noise_request(64, slice(16, 40), slice(16, 40), steps=2)
    with intarsia.Engine("torch", "cpu", capture=capture) as engine:
        first = engine.run(request)  # a size is launched once, and captured when it comes again
        assert first.ran["capture"] == "on"
        if capture == "on":
            with pytest.raises(intarsia.BackendError, match="not permitted"):
                engine.run(request)
            return
        second = engine.run(request)
    np.testing.assert_array_equal(first.generated[0], second.generated[0])
    assert second.ran["capture"] == "off"
    assert [warning for warning in second.warnings if "capturing failed" in warning]


@pytest.mark.slow
def test_preparing_imports_what_opening_needs_and_importing_the_backend_does_not():
    """Else hashing a model's files has nothing to run beside."""
    script = (
        "import sys; from intarsia.backends.torch.backend import TorchBackend;"
        "from intarsia.execution import Execution; backend = TorchBackend('cpu', Execution());"
        "name = 'transformers.models.clip.modeling_clip'; before = name in sys.modules; backend.prepare();"
        "print(before, name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_prompts_are_kept_as_long_as_they_take_little_memory(models, monkeypatch):
    def request(prompt: str) -> intarsia.InpaintRequest:
        return noise_request(64, slice(16, 40), slice(16, 40), steps=2, model="nine", guidance_scale=1.0, prompt=prompt)

    with intarsia.Engine("torch", "cpu", models) as engine:
        engine.run(request("first"))
        (session,) = engine._worker._models._sessions.values()
        (entry,) = session._prompts._prompts.values()
        monkeypatch.setattr(prompts, "_PROMPT_BYTES", 2 * entry.cross_kv.nbytes)
        for prompt in ("second", "third"):
            engine.run(request(prompt))
        assert [key.text for key in session._prompts._prompts] == ["second", "third"], "the longest unused went"
        monkeypatch.setattr(prompts, "_PROMPT_BYTES", 1)
        engine.run(request("fourth"))
        assert [key.text for key in session._prompts._prompts] == ["fourth"], "the one in use stays"
