"""The step's plain reference against the tables' own numpy loop, for every documented scheduler."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.kernels.step import apply_row, guide, keep_known, langevin
from intarsia.schedulers import NAMES, table
from intarsia.schedulers.tables import langevin_step

SHAPE = (4, 5, 7)


def network(x: np.ndarray, timestep: float) -> np.ndarray:
    """Any function that depends on both; smooth, so that float32 stays close."""
    return np.tanh(0.3 * x + timestep / 1000) + 0.1 * x[::-1]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_agree_with_the_numpy_loop(name, prediction):
    made = table(name, 8, strength=0.7, prediction_type=prediction)
    rng = np.random.default_rng(3)
    clean, unit, fresh = rng.normal(size=SHAPE), rng.normal(size=SHAPE), rng.normal(size=(len(made), *SHAPE))
    expected = made.run(network, unit, fresh, clean)
    buffer = torch.full((made.state_slots + 2, *SHAPE), 0.0)
    buffer[0] = torch.from_numpy(made.start_image * clean + made.start_noise * unit)
    matrices = torch.from_numpy(made.matrix.astype(np.float32))
    for row in range(len(made)):
        x = buffer[0].double().numpy() * made.input_scale[row]
        buffer[-2] = torch.from_numpy(network(x, float(made.timesteps[row])))
        buffer[-1] = torch.from_numpy(fresh[row]) if made.uses_noise[row] else 1e3  # stale noise must not matter
        snr = float(made.langevin_snr[row])
        apply_row(buffer, langevin(buffer, matrices[row], snr) if snr else matrices[row])
    # float32 state and coefficients; levels reach 14.6, so errors of 1e-6 of that are rounding
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(buffer[0].numpy(), expected, atol=2e-4 * scale)


def test_langevin_agrees_for_every_shape_of_row():
    rng = np.random.default_rng(1)
    for matrix in ([[1.0, -0.7, 0.4]], [[0.8, 0.3, -0.2]], [[1.3, 0.0, 1.0]]):
        sample, output, noise = rng.normal(size=(3, *SHAPE))
        expected = langevin_step(np.array(matrix), 0.16, sample, output, noise)
        buffer = torch.from_numpy(np.stack([sample, output, noise]))
        np.testing.assert_allclose(langevin(buffer, torch.tensor(matrix).double(), 0.16), expected, rtol=1e-6)


def test_a_vanishing_drift_takes_no_step():
    buffer = torch.zeros(3, *SHAPE)
    buffer[2] = 1
    np.testing.assert_array_equal(langevin(buffer, torch.tensor([[1.0, -0.5, 0.3]]), 0.16), [[1.0, 0.0, 0.0]])


def test_guidance_and_known_region():
    a, b = torch.tensor([1.0]), torch.tensor([3.0])
    assert guide(a, b, 1.0) == 3
    assert guide(a, b, 4.0) == 9
    sample, mask = torch.ones(4, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    keep_known(sample, mask, torch.full((4, 2, 2), 7.0), 0.75)
    np.testing.assert_array_equal(sample[2], [[1, 7], [7, 1]])


def test_gray_of_a_mask_is_repainted_below_its_level():
    mask = torch.tensor([[[1.0, 0.75], [0.5, 0.0]]])
    for level, expected in ((0.75, [[1, 7], [7, 7]]), (0.25, [[1, 1], [1, 7]]), (0.0, [[1, 1], [1, 7]])):
        sample = torch.ones(4, 2, 2)
        keep_known(sample, mask, torch.full((4, 2, 2), 7.0), level)
        np.testing.assert_array_equal(sample[0], expected)
