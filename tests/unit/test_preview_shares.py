"""The combination of a lane's latents that previews show, against a network that always predicts the same image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from intarsia.engine.preview_copies import predicted_image
from intarsia.schedulers import NAMES, NoiseSchedule, Table, alpha_sigma, table
from intarsia.schedulers.tables import langevin_step

# Solvers whose sample is of several outputs, or whose corrector chooses its step size itself: some noise is left.
APPROXIMATE = ("KarrasVeScheduler", "PNDMScheduler", "ScoreSdeVeScheduler")


def predictions(made: Table, prediction_type: str, image: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The prediction after each row, and the sample itself, of a run whose network predicts ``image`` at every row."""
    rng = np.random.default_rng(1)
    state = np.zeros((made.state_slots, *image.shape))
    state[0] = made.start_image * image + made.start_noise * rng.normal(size=image.shape)
    for row in range(len(made)):
        alpha, sigma = alpha_sigma(float(made.sigmas[row]))
        scaled = made.input_scale[row] * state[0]
        noise = (scaled - alpha * image) / sigma if sigma else np.zeros_like(image)
        output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * image, "sample": image}[prediction_type]
        fresh = rng.normal(size=image.shape)

        matrix, snr = made.matrix[row], float(made.langevin_snr[row])
        if snr:
            matrix = langevin_step(matrix, snr, state[0], output, fresh)
        state = np.tensordot(matrix, np.stack([*state, output, fresh]), axes=1)

        shares = predicted_image(made, row, prediction_type)
        yield shares.sample * state[0] + shares.output * output + shares.noise * fresh, state[0]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean((one - other) ** 2)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("karras", [False, True], ids=["even", "karras"])
@pytest.mark.parametrize("name", NAMES)
def test_a_preview_is_the_image_that_the_network_predicts(name, karras, prediction_type):
    image = np.random.default_rng(0).normal(size=(4, 5, 6))
    schedule = NoiseSchedule.from_config({"prediction_type": prediction_type})
    made = table(name, 8, karras=karras, schedule=schedule)

    *found, (last, sample) = predictions(made, prediction_type, image)
    np.testing.assert_array_equal(last, sample, "what is decoded in the end")
    for row, (prediction, sample) in enumerate(found):
        if name in APPROXIMATE:
            assert distance(prediction, image) < 0.6 * distance(sample, image), f"row {row}"
        else:  # in float64; LCM's boundary condition holds to 1e-7
            assert np.abs(prediction - image).max() < 1e-6, f"row {row}"
