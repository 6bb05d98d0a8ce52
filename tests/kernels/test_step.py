"""The fused step against the plain one and against the tables' own loop: all schedulers, in one batch."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.errors import BackendError
from intarsia.kernels.fused_step import advance, first_input
from intarsia.kernels.pick import pick_rows
from intarsia.kernels.step_lanes import StepLanes
from intarsia.schedulers import NAMES, Table, table
from intarsia.schedulers.packing import Field, pack_rows, record_size
from tests.kernels.guarding import Guard

SHAPE = (4, 5, 17)  # 340 elements: two programs a lane, the second partial
GUIDANCE = 3.0


def network(x: np.ndarray, timestep: float) -> np.ndarray:
    """Any function that depends on both; smooth, so that float32 stays close."""
    return np.tanh(0.3 * x + timestep / 1000) + 0.1 * x[::-1]


def lanes_of(
    guard: Guard,
    tables: list[Table],
    device: str,
    *,
    is_inpainting: bool,
    branches: int,
    dtype: torch.dtype,
    shared: bool = False,
    soft: bool = False,
) -> tuple[StepLanes, np.ndarray, np.ndarray]:
    """A lane for each table, at its row 0, in guarded memory; the network's input is poison.

    Args:
        shared: both branches have one sample of the network's input.
        soft: the mask has all levels, with networks of 9 channels too.

    Returns:
        The lanes, the latents of their images, and their starting noise.
    """
    rng = np.random.default_rng(5)
    count, rows = len(tables), max(map(len, tables))
    slots = max(sampler.state_slots for sampler in tables)
    channels, *size = SHAPE
    input_channels = channels + (5 if is_inpainting else 0)
    copies = 1 if shared else branches

    def guarded(array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return guard.holding(torch.from_numpy(np.asarray(array)).to(dtype).to(device))

    image_latents, noise = rng.normal(size=(2, count, *SHAPE)).astype(np.float32)
    state = np.zeros((count, slots + 2, *SHAPE))
    for lane, sampler in enumerate(tables):
        state[lane, 0] = sampler.start_image * image_latents[lane] + sampler.start_noise * noise[lane]

    known = {"inpaint_latents": guarded(rng.normal(size=(count, 5, *size)), dtype)} if is_inpainting else {}
    if soft or not is_inpainting:
        levels = rng.random(size=(count, 1, *size))
        known |= {
            "mask": guarded(levels if soft else levels > 0.5),
            "image_latents": guarded(image_latents),
            "noise": guarded(noise),
        }
    lanes = StepLanes(
        state=guarded(state),
        records=guarded(np.stack([pack_rows(sampler, slots, rows) for sampler in tables])),
        row=guarded(np.zeros(count), torch.int32),
        guidance=guarded(np.full(count, GUIDANCE)),
        network_input=guard.empty((copies * count, input_channels, *size), dtype, device, torch.channels_last),
        shared=shared,
        **known,
    )
    return lanes, image_latents, noise


def copied(lanes: StepLanes, device: str | None = None) -> StepLanes:
    values = {field.name: getattr(lanes, field.name) for field in fields(lanes)}
    tensors = {name: value for name, value in values.items() if torch.is_tensor(value)}
    copies = {name: tensor.to(device or tensor.device, copy=True) for name, tensor in tensors.items()}
    return replace(lanes, **copies)


def outputs(lanes: StepLanes, tables: list[Table], row: int, branches: int, dtype: torch.dtype) -> torch.Tensor:
    """The network's output for the inputs as they are; the conditional branch is 1.1 times the other."""
    inputs = lanes.network_input[:: lanes.copies, : SHAPE[0]].double().cpu().numpy()
    values = np.zeros((branches * len(tables), *SHAPE))
    for lane, sampler in enumerate(tables):
        if row < len(sampler):
            unconditional = network(inputs[lane], float(sampler.timesteps[row]))
            values[lane * branches] = unconditional
            values[lane * branches + branches - 1] = unconditional * (1.1 if branches == 2 else 1)
    output = torch.from_numpy(values).to(dtype).to(lanes.state.device)
    return output.to(memory_format=torch.channels_last)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    """Within ``share`` of each lane's largest value."""
    actual, expected = (tensor.double().cpu().flatten(1) for tensor in (actual, expected))
    scale = expected.abs().amax(dim=1, keepdim=True).clamp_min(1)
    assert bool(((actual - expected).abs() <= share * scale).all())


@pytest.mark.every(6)
@pytest.mark.parametrize(("branches", "shared"), [(1, False), (2, False), (2, True)], ids=["one", "two", "two of one"])
@pytest.mark.parametrize("is_inpainting", [False, True], ids=["4 channels", "9 channels"])
def test_every_row_of_every_scheduler(guard, device, is_inpainting, branches, shared):
    # All of them twice with two branches: at 4 channels with a sample each, at 9 with one for both. How the branches
    # lie does not touch a scheduler's coefficients, so elsewhere a third of them suffices.
    names = NAMES if branches == 2 and shared == is_inpainting else NAMES[::3]
    tables = [table(name, 4 + place % 3, strength=0.8) for place, name in enumerate(names)]
    dtype = torch.float32 if is_inpainting else torch.float16
    lanes, image_latents, noise = lanes_of(
        guard, tables, device, is_inpainting=is_inpainting, branches=branches, dtype=dtype, shared=shared
    )
    rng = np.random.default_rng(6)
    fresh = rng.normal(size=(lanes.records.shape[1], len(tables), *SHAPE)).astype(np.float32)
    first_input(lanes, fused=True)
    for row in range(lanes.records.shape[1]):
        lanes.row.copy_(torch.tensor([row if row < len(sampler) else -1 for sampler in tables]))
        lanes.state[:, -1] = torch.from_numpy(fresh[row]).to(device)
        output = outputs(lanes, tables, row, branches, dtype)
        plain, again = copied(lanes, "cpu"), copied(lanes)
        advance(plain, output.cpu().contiguous(memory_format=torch.channels_last), fused=False)
        advance(lanes, output, fused=True)
        # the same float32 operations, sums of at most six terms in another order
        assert_close(lanes.state, plain.state, 2e-6)
        # …and a rounding to the network's type that may fall the other way
        assert_close(lanes.network_input, plain.network_input, 2e-6 if is_inpainting else torch.finfo(dtype).eps)
        if row == 1:
            advance(again, output, fused=True)
            assert torch.equal(again.state, lanes.state)
            assert torch.equal(again.network_input, lanes.network_input)
            lanes.row.add_(1)
            again = replace(lanes, network_input=torch.full_like(lanes.network_input, torch.nan))
            first_input(again, fused=True)
            assert torch.equal(again.network_input, lanes.network_input)
    if is_inpainting:  # nothing is overwritten, so this is the plain loop
        for lane, sampler in enumerate(tables):
            # what guidance makes of the two branches, row by row; an unguided row has the first half alone
            gains = iter(1 + GUIDANCE * 0.1 * sampler.guided if branches == 2 else np.ones(len(sampler)))
            final = sampler.run(
                lambda x, t, g=gains: next(g) * network(x, t), noise[lane], fresh[:, lane], image_latents[lane]
            )
            # float32 state and coefficients over up to twelve rows; levels reach 14.6
            scale = max(1.0, float(np.abs(final).max()))
            np.testing.assert_allclose(lanes.state[lane, 0].cpu(), final, atol=2e-4 * scale, err_msg=sampler.name)


def test_the_known_region_is_the_picture_in_the_end(guard, device):
    sampler = table("EulerDiscreteScheduler", 2)
    lanes, image_latents, _ = lanes_of(guard, [sampler], device, is_inpainting=False, branches=1, dtype=torch.float32)
    first_input(lanes, fused=True)
    for row in range(2):
        lanes.row.fill_(row)
        lanes.state[:, -1] = 0
        advance(lanes, outputs(lanes, [sampler], row, 1, torch.float32), fused=True)
    known = (lanes.mask[0] <= 0.5).expand(SHAPE).cpu()
    assert 0 < int(known.sum()) < known.numel()
    sample = lanes.state[0, 0].cpu()
    assert torch.equal(sample[known], torch.from_numpy(image_latents[0])[known])
    assert not bool((sample == torch.from_numpy(image_latents[0]))[~known].any())


@pytest.mark.parametrize("is_inpainting", [False, True], ids=["4 channels", "9 channels"])
def test_a_soft_mask_is_repainted_from_the_row_of_its_level(guard, device, is_inpainting):
    sampler = table("EulerDiscreteScheduler", 5)
    lanes, image_latents, noise = lanes_of(
        guard, [sampler], device, is_inpainting=is_inpainting, branches=1, dtype=torch.float32, soft=True
    )
    mask = lanes.mask[0].expand(SHAPE).cpu()
    first_input(lanes, fused=True)
    for row in range(len(sampler)):
        lanes.row.fill_(row)
        lanes.state[:, -1] = 0
        output, plain = outputs(lanes, [sampler], row, 1, torch.float32), copied(lanes, "cpu")
        advance(plain, output.cpu().contiguous(memory_format=torch.channels_last), fused=False)
        advance(lanes, output, fused=True)
        assert_close(lanes.state, plain.state, 2e-6)
        assert_close(lanes.network_input, plain.network_input, 2e-6)

        levels = sampler.known_image[row], sampler.known_noise[row]
        known = torch.from_numpy(levels[0] * image_latents[0] + levels[1] * noise[0])
        is_known = torch.isclose(lanes.state[0, 0].cpu().double(), known, rtol=1e-6, atol=1e-6)
        assert torch.equal(is_known, mask <= 1 - (row + 1) / 5)


def test_a_vanishing_drift_takes_no_step(guard, device):
    sampler = table("ScoreSdeVeScheduler", 4)
    row = int(np.flatnonzero(sampler.langevin_snr)[0])
    lanes, _, _ = lanes_of(guard, [sampler], device, is_inpainting=True, branches=1, dtype=torch.float32)
    lanes.row.fill_(row)
    lanes.state[:, :2], lanes.state[:, 2] = 0, 1
    output = torch.zeros(1, *SHAPE, device=device).to(memory_format=torch.channels_last)
    advance(lanes, output, fused=True)
    assert not bool(lanes.state[:, 0].any())


def test_an_idle_lane_is_left_alone(guard, device):
    tables = [table(name, 3) for name in ("ScoreSdeVeScheduler", "UniPCMultistepScheduler")]
    lanes, _, _ = lanes_of(guard, tables, device, is_inpainting=True, branches=2, dtype=torch.float16)
    lanes.network_input.fill_(7)
    lanes.row.copy_(torch.tensor([-1, 0]))
    lanes.state[:, -1] = 0
    before = copied(lanes)
    advance(lanes, torch.ones_like(lanes.network_input[:, :4]).to(memory_format=torch.channels_last), fused=True)
    assert torch.equal(lanes.state[0], before.state[0])
    assert torch.equal(lanes.network_input[:2], before.network_input[:2])
    assert not torch.equal(lanes.state[1], before.state[1])
    assert not bool((lanes.network_input[2:] == 7).all())


@pytest.mark.parametrize("fused", [True, False])
def test_one_sample_for_both_halves_is_either_of_two(guard, device, fused):
    """Bit for bit, the idle lane's place left alone."""
    where, tables = device if fused else "cpu", [table(name, 3) for name in ("DDIMScheduler", "PNDMScheduler")]
    output = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).to(where)
    output, actual = output.contiguous(memory_format=torch.channels_last), []
    for shared in (False, True):
        lanes, _, _ = lanes_of(guard, tables, where, is_inpainting=True, branches=2, dtype=torch.float32, shared=shared)
        lanes.state[:, -1] = 0
        lanes.row.copy_(torch.tensor([-1, 0]))
        lanes.network_input.fill_(7)
        first_input(lanes, fused=fused)
        first = lanes.network_input.clone()
        advance(lanes, output, fused=fused)
        actual.append((first, lanes.network_input.clone(), lanes.state.clone()))
    (first, after, state), (one_first, one_after, one_state) = actual
    assert torch.equal(state, one_state)
    for two, one in ((first, one_first), (after, one_after)):
        assert torch.equal(two[::2], one)
        assert torch.equal(two[1::2], one)
        assert bool((one[0] == 7).all())
    assert not torch.equal(one_first[1], one_after[1])


@pytest.mark.parametrize("fused", [True, False])
def test_the_way_up_is_not_guided(guard, device, fused):
    """An unguided row says the same whatever the prompt, its neighbour's guided row does not."""
    inverse, plain = table("DDIMInverseScheduler", 4), table("DDIMScheduler", 4)
    assert not inverse.guided[0]
    actual = []
    where = device if fused else "cpu"
    for conditional in (1.0, 5.0):
        lanes, _, _ = lanes_of(guard, [inverse, plain], where, is_inpainting=True, branches=2, dtype=torch.float32)
        lanes.state[:, -1] = 0
        output = torch.ones(4, *SHAPE, device=where)
        output[1::2] = conditional
        advance(lanes, output.contiguous(memory_format=torch.channels_last), fused=fused)
        actual.append(lanes.state[:, 0].cpu())
    assert torch.equal(actual[0][0], actual[1][0])
    assert not torch.equal(actual[0][1], actual[1][1])


@pytest.mark.parametrize("fused", [True, False])
def test_the_device_counts_rows_by_itself(guard, device, fused):
    """A lane that is stepped by its cursor goes the same way as one whose rows the host sets."""
    where = device if fused else "cpu"
    tables = [table(name, 3 + place) for place, name in enumerate(("UniPCMultistepScheduler", "DDIMScheduler"))]
    lanes, _, _ = lanes_of(guard, tables, where, is_inpainting=False, branches=2, dtype=torch.float32)
    cursor = guard.holding(torch.tensor([-1, 0], dtype=torch.int32, device=where))
    lanes.state[:, -1] = 0
    by_host, by_cursor = copied(lanes), replace(copied(lanes), cursor=cursor)
    rows = torch.arange(lanes.records.shape[1], dtype=torch.float32, device=where)
    times = rows[None, :, None, None].expand(2, -1, 1, 5).contiguous()
    picked = guard.empty((4, 5), torch.float32, where)
    for turn, expected in enumerate([(-1, 0), (0, 1), (1, 2), (2, 3), (-1, -1)]):
        if turn == 1:
            cursor[0] = 0  # the first one enters a step later
        if turn == 4:
            cursor.fill_(-1)  # both have left
        first_input(by_cursor, fused=fused)
        pick_rows(times, cursor, picked, by_cursor.row, fused=fused)
        assert tuple(by_cursor.row.tolist()) == expected
        assert picked[::2, 0].tolist() == picked[1::2, 4].tolist() == [max(0, row) for row in expected]
        by_host.row.copy_(by_cursor.row)
        output = outputs(by_cursor, tables, 0, 2, torch.float32)
        advance(by_host, output, fused=fused)
        advance(by_cursor, output, fused=fused)
        assert cursor.tolist() == [row + 1 if row >= 0 else -1 for row in expected]
        assert torch.equal(by_host.state, by_cursor.state)
        assert torch.equal(by_host.row, by_cursor.row)


def test_records_are_rows_and_what_does_not_fit_is_refused():
    sampler = table("PNDMScheduler", 5)
    records = pack_rows(sampler, sampler.state_slots, len(sampler) + 2)
    size = record_size(sampler.state_slots)
    assert records.shape == (len(sampler) + 2, size)
    matrices, fields = records[: len(sampler), : -len(Field)], records[: len(sampler), -len(Field) :]
    np.testing.assert_array_equal(matrices, sampler.matrix.reshape(len(sampler), -1).astype("f4"))
    np.testing.assert_array_equal(fields[:, Field.INPUT_SCALE], sampler.input_scale.astype("f4"))
    np.testing.assert_array_equal(fields[:-1, Field.NEXT_INPUT_SCALE], sampler.input_scale[1:].astype("f4"))
    assert fields[-1, Field.NEXT_INPUT_SCALE] == 0
    assert not records[len(sampler) :].any()
    both_ways = table("DDIMInverseScheduler", 5, strength=0.8)
    guided = pack_rows(both_ways, 1, len(both_ways))[:, Field.GUIDED - len(Field)]
    np.testing.assert_array_equal(guided, both_ways.guided)
    assert 0 < both_ways.guided.sum() < len(both_ways)
    with pytest.raises(BackendError, match="does not fit lanes of"):
        pack_rows(sampler, sampler.state_slots - 1, len(sampler))
    with pytest.raises(BackendError, match="does not fit lanes of"):
        pack_rows(sampler, sampler.state_slots, len(sampler) - 1)


def test_other_layouts_are_refused(guard, device):
    tables = [table("DDIMScheduler", 3)]
    lanes, _, _ = lanes_of(guard, tables, device, is_inpainting=False, branches=2, dtype=torch.float16)
    with pytest.raises(BackendError, match="step: output must be of shape"):
        advance(lanes, torch.zeros(1, *SHAPE, device=device), fused=True)
    with pytest.raises(BackendError, match="step: network_input must be"):
        replace(lanes, shared=True)
    with pytest.raises(BackendError, match="step: mask must be given without inpaint_latents"):
        replace(lanes, mask=None)
    with pytest.raises(BackendError, match=r"step: row must be torch\.int32"):
        replace(lanes, row=lanes.row.long())
    with pytest.raises(BackendError, match="step: network_input must be"):
        replace(lanes, network_input=lanes.network_input.contiguous())
