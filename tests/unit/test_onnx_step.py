"""The loop's step as a graph against the plain loop of every table, and the tokenizer: ONNX Runtime without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import intarsia
from intarsia.backends.onnx import state as lanes
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.open_sessions import STEP
from intarsia.schedulers import NAMES, Table, table

SHAPE = (4, 6, 9)


@pytest.fixture(scope="module")
def step() -> Any:
    return Device("cpu").open(STEP.read_bytes())


def field(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def network(x: np.ndarray, timestep: float) -> np.ndarray:
    """Some function of both that stays bounded."""
    return np.tanh(x * 0.7 + timestep / 1000) - 0.1


def run(
    step: Any,
    made: Table,
    *,
    guidance: float = 1.0,
    branches: int = 1,
    mask: np.ndarray | None = None,
    extra: int = 0,
    keeps_known: bool = False,
) -> np.ndarray:
    """The loop as the session runs it, every array on the host; both branches of the network's output are its own."""
    clean, start = field(1), field(2)
    rows = {"matrices": lanes.matrices(made), "scalars": lanes.scalars(made, guidance, keeps_known=keeps_known)}
    rest = {
        "clean": clean, "start": start, "mask": np.ones((1, *SHAPE[1:]), np.float32) if mask is None else mask,
        "extra": np.full((extra, *SHAPE[1:]), 5, np.float32),
    }  # fmt: skip
    state = np.zeros((made.state_slots, *SHAPE), np.float32)
    state[0] = clean
    noise, output = start, np.zeros((branches, *SHAPE), np.float32)
    for row in range(len(made) + 1):
        feeds = {**rows, **rest, "row": np.array([row]), "state": state, "noise": noise, "output": output}
        state, sample, following = step.run(None, feeds)
        assert following.tolist() == [row + 1]
        assert sample.shape == (1, SHAPE[0] + extra, *SHAPE[1:])
        assert (sample[:, SHAPE[0] :] == 5).all()
        if row < len(made):
            timestep = lanes.timesteps(made)[row + 1]
            # unconditional and conditional; with guidance 1 the second alone counts
            output = np.stack([network(sample[0, : SHAPE[0]], timestep) * (branch + 1) for branch in range(branches)])
            output = output.astype(np.float32)
            noise = field(100 + row)
    return state[0]


def reference(made: Table, scale: float = 1.0) -> np.ndarray:
    return made.run(
        lambda x, t: network(x, t) * scale, field(2).astype(np.float64), lambda row: field(100 + row), field(1)
    )


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_soft_mask_is_repainted_from_the_row_of_its_level(step, name):
    """In each row what is at most the row's level is the image at its noise, the rest what the solver makes of it."""
    made, clean, start = table(name, 4), field(1), field(2)
    mask = np.linspace(0, 1, 6 * 9, dtype=np.float32).reshape(1, 6, 9)
    rows = {"matrices": lanes.matrices(made), "scalars": lanes.scalars(made, 1.0, keeps_known=True)}
    state = np.zeros((made.state_slots, *SHAPE), np.float32)
    state[0] = clean
    for row in range(5):
        feeds = {
            **rows, "row": np.array([row]), "state": state, "noise": start if row == 0 else field(row),
            "output": network(state[:1], 1.0), "clean": clean, "start": start, "extra": np.zeros((0, 6, 9), np.float32),
        }  # fmt: skip
        bare, _, _ = step.run(None, feeds | {"mask": np.ones_like(mask)})
        state, sample, _ = step.run(None, feeds | {"mask": mask})
        if row == 0:
            np.testing.assert_array_equal(state, bare)
            continue
        known = made.known_image[row - 1] * clean + made.known_noise[row - 1] * start
        expected = np.where(mask > 1 - row / 4, bare[0], known)
        np.testing.assert_allclose(state[0], expected, atol=1e-5)
        np.testing.assert_array_equal(state[1:], bare[1:])
        scale = made.input_scale[row] if row < 4 else 1.0
        np.testing.assert_allclose(sample[0], expected * scale, atol=1e-5)


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_as_its_table_says(step, name, strength):
    made = table(name, 7, strength=strength)
    expected = reference(made)
    # float32 against float64, a few rounding errors a row; DDIMInverse and churn magnify them
    np.testing.assert_allclose(run(step, made), expected, atol=2e-4 * max(1, np.abs(expected).max()))


def test_guidance_is_applied_where_the_row_is_guided(step):
    made = table("EulerDiscreteScheduler", 5)
    # branches are f and 2 f, so the guided output is f + g f
    np.testing.assert_allclose(
        run(step, made, guidance=3.0, branches=2),
        reference(made, 4.0),
        rtol=0,
        atol=2e-3 * np.abs(reference(made, 4.0)).max(),
    )
    inverse = table("DDIMInverseScheduler", 6, strength=0.7)
    assert not inverse.guided.all()
    plain, guided = (run(step, inverse, guidance=scale, branches=2) for scale in (1.0, 3.0))
    assert not np.allclose(plain, guided)


def test_rows_that_are_not_guided_take_the_negative_prompts_output(step):
    made = table("DDIMInverseScheduler", 6, strength=0.7)
    up = lanes.scalars(made, 7.5, keeps_known=False)[1:, 0]
    np.testing.assert_array_equal(up, np.where(made.guided, 7.5, 0))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_the_known_region_is_kept_at_its_level(step, name):
    made = table(name, 6)
    mask = np.zeros((1, *SHAPE[1:]), np.float32)
    mask[:, 2:4, 3:7] = 1
    kept = run(step, made, mask=mask, keeps_known=True)
    outside = np.broadcast_to(mask < 0.5, SHAPE)
    level = made.known_image[-1] * field(1) + made.known_noise[-1] * field(2)
    np.testing.assert_allclose(kept[outside], level[outside], rtol=1e-5, atol=1e-6)
    assert np.abs(kept[~outside] - level[~outside]).max() > 0.1
    # without it, the mask says nothing
    np.testing.assert_array_equal(run(step, made, mask=mask), run(step, made))


def test_the_networks_input_has_the_mask_and_the_masked_image(step):
    assert np.isfinite(run(step, table("EulerDiscreteScheduler", 3), extra=5)).all()


def test_a_device_that_this_onnxruntime_does_not_have():
    import onnxruntime

    for device, provider in (("cuda", "CUDAExecutionProvider"), ("tensorrt:1", "TensorrtExecutionProvider")):
        if provider in onnxruntime.get_available_providers():
            pytest.skip(f"this onnxruntime has {provider}")
        with pytest.raises(intarsia.BackendError, match=rf"{provider}.*pip install onnxruntime-gpu"):
            intarsia.Engine("onnx", device)


def test_bad_graphs_are_one_line(tmp_path):
    from intarsia.backends.onnx.device import translated

    device = Device("cpu")
    for content in (b"", b"not a graph", STEP.read_bytes()[:500]):
        with (
            pytest.raises(intarsia.BackendError, match="failed to load it on cpu") as caught,
            translated("load it", device),
        ):
            device.open(content)
        assert "\n" not in str(caught.value)
