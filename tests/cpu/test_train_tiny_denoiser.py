"""The parts of the packaged model's training that have an exact answer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training needs torch")
diffusers = pytest.importorskip("diffusers", reason="the training needs diffusers")

from tools.train_tiny import denoiser, networks, optimiser
from tools.train_tiny.settings import read_settings

SETTINGS = read_settings().denoiser


@pytest.mark.parametrize("shape", [(32, 288), (128, 64), (96, 96)])
def test_an_orthogonal_update_keeps_the_directions_and_evens_out_their_sizes(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    matrix = torch.from_numpy(rng.standard_normal(shape)).float()
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(1.0, 0.05, len(sizes))) @ right
    turned = left.T @ optimiser.orthogonal(matrix) @ right.T
    off_diagonal = turned - torch.diag(turned.diag())
    assert off_diagonal.abs().max() < 1e-3
    assert 0.6 < float(turned.diag().min()) <= float(turned.diag().max()) < 1.3


def test_an_update_has_the_size_that_adamw_would_give() -> None:
    """Root mean square 0.2 × rate, AdamW's usual one, whatever the gradient's scale."""
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(64, 16, 3, 3).contiguous(memory_format=torch.channels_last))
    weight.grad = torch.randn(64, 16, 3, 3).contiguous(memory_format=torch.channels_last) * 1e-4
    optimiser.Muon([weight], rate=0.01, weight_decay=0.0).step()
    size = float(weight.detach().square().mean().sqrt())
    assert size == pytest.approx(0.2 * 0.01, rel=0.15)
    assert float((weight.detach() * weight.grad).sum()) < 0  # downhill


def test_where_a_shape_would_stand_is_read_off_the_mask() -> None:
    mask = np.zeros((1, 32, 32), np.float32)
    mask[0, 8:24, 4:28] = 1
    centre = denoiser._centre(mask)[0] > 0
    rows, columns = np.nonzero(centre)
    assert abs(rows.mean() + 0.5 - 16) <= 0.5
    assert abs(columns.mean() + 0.5 - 16) <= 1
    assert 7.5 <= (np.ptp(rows) + 1) / 2 <= 10


def test_the_rate_warms_up_stays_and_falls_to_a_fiftieth() -> None:
    total = SETTINGS.steps_256 + SETTINGS.steps_512
    assert denoiser.learning_rate(SETTINGS, 0) == pytest.approx(SETTINGS.rate / SETTINGS.warmup)
    assert denoiser.learning_rate(SETTINGS, int(total * SETTINGS.fall_from)) == pytest.approx(SETTINGS.rate)
    assert denoiser.learning_rate(SETTINGS, total - 1) == pytest.approx(SETTINGS.rate * 0.02)


def test_an_input_of_the_networks_own_is_a_step_of_ddim() -> None:
    """With the network's velocity taken as known, against diffusers' scheduler; other images keep their input."""
    torch.manual_seed(4)
    scheduler = diffusers.DDIMScheduler.from_config(networks.SCHEDULER)
    nets = denoiser.build(SETTINGS, 5, torch.device("cpu"))
    truth, masked, noise, plain = torch.randn(4, 3, 4, 16, 16).unbind(0)
    mask, ids = torch.ones(3, 1, 16, 16), torch.zeros(3, 77, dtype=torch.long)
    timesteps, starts = torch.tensor([300, 499, 499]), torch.tensor([300, 999, 749])
    nothing = torch.zeros(3, dtype=torch.bool)
    batch = denoiser.Batch(truth, masked, mask, noise, timesteps, nothing, starts, mask, ids, torch.ones(3).long())
    states = torch.randn(3, 77, 64)
    shares = networks.signal_shares().float()
    found = denoiser._own_samples(nets, batch, plain, states, shares)
    assert torch.equal(found[0], plain[0])
    for index in (1, 2):
        share = shares[starts[index]] if starts[index] < denoiser.BLANK_FROM else torch.tensor(0.0)
        start = share.sqrt() * truth[index] + (1 - share).sqrt() * noise[index]
        inputs = torch.cat([start, mask[index], masked[index]])[None].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            velocity = nets.unet(inputs, starts[index], states[index : index + 1], return_dict=False)[0]
        scheduler.num_inference_steps = 1000 // int(starts[index] - timesteps[index])
        expected = scheduler.step(velocity, int(starts[index]), start[None]).prev_sample[0]
        torch.testing.assert_close(found[index], expected, atol=2e-5, rtol=0)
