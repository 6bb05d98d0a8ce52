"""Captured steps, with graphs that only pretend, against eager ones: what is captured when, what is reused, what is
freed, and that samples stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.backends.protocol import Step
from intarsia.backends.token_regions import draw_choices, find_regions
from intarsia.backends.torch.captured_stepper import CapturedStepper, Limits
from intarsia.backends.torch.eager_stepper import EagerStepper
from intarsia.backends.torch.regions import MergingVariant, upload_regions
from intarsia.backends.torch.state import Conditioning, State
from intarsia.backends.torch.static_batch import Capacity, Network, StaticBatch
from intarsia.schedulers import NAMES, Table, table
from intarsia.token_merging import TokenMerging
from tests.cpu.fake_capturer import FakeCapturer

CPU = torch.device("cpu")
SIDE, WIDTH, TOKENS = 6, 5, 3
PLENTY = Limits(16, 2**30)


class Unet:
    """Any function of all that a network is given, each sample by itself; remembers where its inputs lay."""

    def __init__(self) -> None:
        self.seen, self.choices = set(), []

    def __call__(
        self,
        sample: torch.Tensor,
        emb: torch.Tensor,
        cross_kv: torch.Tensor,
        image_kv: torch.Tensor | None,
        merging: Sequence[Any],
    ) -> torch.Tensor:
        assert sample.is_contiguous(memory_format=torch.channels_last)
        self.seen.add((sample.data_ptr(), emb.data_ptr(), cross_kv.data_ptr()))
        self.choices.append([level.choice.clone() for level in merging])
        sample = sample.repeat_interleave(len(cross_kv) // len(sample), 0)
        rest = emb.mean(dim=1) + cross_kv.mean(dim=(1, 2))
        if image_kv is not None:
            rest = rest + image_kv.mean(dim=(1, 2))
        out = torch.tanh(0.3 * sample[:, :4] + rest[:, None, None, None]) + 0.1 * sample[:, -4:]
        return out.contiguous(memory_format=torch.channels_last)


class Case:
    """One stepper, and lanes for it."""

    def __init__(self, steps: Any, is_inpainting: bool = True) -> None:
        self.steps, self.is_inpainting = steps, is_inpainting

    def lane(
        self,
        made: Table,
        seed: int,
        guidance: float = 4.0,
        image: bool = False,
        ratio: float = 0.0,
        side: int = SIDE,
        tokens: int = TOKENS,
    ) -> State:
        """A state at its first row; all its tensors follow from the seed."""
        rng = np.random.default_rng(seed)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

        branches = 2 if guidance > 1 else 1
        image_latents, mask = drawn(4, side, side), (drawn(1, side, side) > 0).float()
        host_regions = find_regions(TokenMerging(ratio), [(side, side)], mask[0].numpy(), mask_aware=False)
        variant = MergingVariant(mask_aware=False)
        regions = upload_regions(host_regions, torch.device("cpu"), variant=variant)
        conditioning = Conditioning(
            cross_kv=drawn(branches, tokens, 8),
            pooled=None,
            time_ids=None,
            guidance_scale=guidance,
            image_latents=image_latents,
            mask=mask,
            inpaint_latents=torch.cat([mask, drawn(4, side, side)]) if self.is_inpainting else None,
            noise_fill=False,
            image_kv=drawn(branches, 2, 8) if image else None,
            regions=regions,
        )
        unit = drawn(4, side, side)
        buffer = torch.zeros(self.steps.state_slots(made) + 2, *unit.shape)
        buffer[0] = made.start_image * image_latents + made.start_noise * unit
        drawn_choices = draw_choices(unit.numpy(), len(made), [region.cells for region in host_regions])
        choices = tuple(torch.from_numpy(choice) for choice in drawn_choices)
        return State(
            conditioning=conditioning,
            table=made,
            packed_table=self.steps.pack(made),
            embeddings=drawn(len(made), 1, WIDTH),
            buffer=buffer,
            noise=unit,
            choices=choices,
        )

    def run(self, lanes: list[State], arrivals: list[int], until: int = 99) -> list[torch.Tensor]:
        """All lanes to their ends, each from its own turn on; the samples as they are then."""
        rows, finals = [0] * len(lanes), [None] * len(lanes)
        for turn in range(until):
            here = [i for i, lane in enumerate(lanes) if arrivals[i] <= turn and rows[i] < len(lane.table)]
            if not here and turn > max(arrivals):
                break
            if here:
                self.steps.advance([Step(lanes[i], rows[i], self._noise(lanes[i], i, rows[i])) for i in here])
            for i in here:
                rows[i] += 1
                if rows[i] == len(lanes[i].table):
                    finals[i] = self.steps.sample(lanes[i]).clone()
                    self.steps.free(lanes[i])
        return finals

    def _noise(self, lane: State, place: int, row: int) -> np.ndarray | None:
        if not lane.table.uses_noise[row]:
            return None
        return np.random.default_rng((place, row)).normal(size=tuple(lane.noise.shape)).astype(np.float32)


def captured(
    alone: bool = False,
    limits: Limits = PLENTY,
    capturer: FakeCapturer | None = None,
    unet: Any = None,
    is_inpainting: bool = True,
    free_others: Callable[[], None] = lambda: None,
) -> Case:
    network = Network(unet=unet or Unet(), device=CPU, dtype=torch.float32, fused=False, capturer=capturer)
    return Case(CapturedStepper(network, alone, limits, free_others), is_inpainting)


def eager(unet: Any = None, is_inpainting: bool = True) -> Case:
    return Case(EagerStepper(unet or Unet(), CPU, torch.float32, alone=True), is_inpainting)


def assert_same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        # the same float32 operations, but for sums that have more (vanishing) terms; levels reach 14.6
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_prompts_of_different_lengths_have_batches_of_their_own():
    made = table("euler", 4)
    lengths = [TOKENS, 2 * TOKENS, TOKENS, 2 * TOKENS, 3 * TOKENS]
    finals = []
    for case in (captured(), eager()):
        lanes = [case.lane(made, seed, tokens=tokens) for seed, tokens in enumerate(lengths)]
        finals.append(case.run(lanes, [0, 0, 1, 2, 2]))
        if isinstance(case.steps, CapturedStepper):
            assert {key.lanes_key.tokens for key in case.steps._batches} == set(lengths)
    assert_same(*finals)


@pytest.mark.parametrize("is_inpainting", [True, False], ids=["9 channels", "4 channels"])
@pytest.mark.parametrize("alone", [True, False])
def test_every_scheduler_in_mixed_batches_is_what_eager_steps_make(is_inpainting, alone):
    tables = [table(name, 3 + place % 4, strength=0.8) for place, name in enumerate(NAMES)]
    arrivals = [place % 5 for place in range(len(tables))]
    found, expected = (
        case.run([case.lane(made, seed) for seed, made in enumerate(tables)], arrivals)
        for case in (
            captured(alone, capturer=FakeCapturer(), is_inpainting=is_inpainting),
            eager(is_inpainting=is_inpainting),
        )
    )
    assert_same(found, expected)
    assert max(float(each.abs().max()) for each in found) < 1e3


def test_alone_or_with_others_bit_for_bit_where_each_lane_has_its_own_batch():
    tables = [table(name, 4 + place) for place, name in enumerate(("euler", "UniPCMultistepScheduler", "ddpm"))]
    case = captured(alone=True, capturer=FakeCapturer())
    together = case.run([case.lane(made, seed) for seed, made in enumerate(tables)], [0, 1, 2])
    for place, made in enumerate(tables):
        other = captured(alone=True, capturer=FakeCapturer())
        lanes = [other.lane(each, seed) for seed, each in enumerate(tables)]
        (expected,) = [
            final for final in other.run(lanes, [0 if i == place else 50 for i in range(3)], 40) if final is not None
        ]
        assert torch.equal(together[place], expected), made.name


def test_image_prompts_guidance_and_merging_stay_each_lanes_own():
    made, unets = table("euler_a", 5), (Unet(), Unet())
    cases = (captured(capturer=FakeCapturer(), unet=unets[0]), eager(unet=unets[1]))
    options = [{"image": True, "ratio": 0.5}, {"image": True, "ratio": 0.5, "guidance": 7.0}]
    found, expected = (
        case.run([case.lane(made, seed, **each) for seed, each in enumerate(options)], [0, 2]) for case in cases
    )
    assert_same(found, expected)
    # the destinations of merging are those of each lane's own row
    assert torch.equal(unets[0].choices[-1][0][:1], unets[1].choices[-1][0])
    unguided = captured(capturer=FakeCapturer())
    lanes = [unguided.lane(made, seed, guidance=1.0) for seed in range(3)]
    truth = eager()
    expected = truth.run([truth.lane(made, seed, guidance=1.0) for seed in range(3)], [0, 0, 1])
    assert_same(unguided.run(lanes, [0, 0, 1]), expected)


def test_a_shape_is_captured_once_and_its_memory_stays():
    capturer, unet, made = FakeCapturer(), Unet(), table("euler", 3)
    case = captured(capturer=capturer, unet=unet)
    for seed in range(4):
        case.run([case.lane(made, seed)], [0])
    assert (capturer.captured, capturer.replayed, len(case.steps)) == (1, 12, 1)
    assert len(unet.seen) == 1, "a graph reads where its inputs lay when it was captured"
    case.run([case.lane(made, 9, guidance=1.0)], [0])
    case.run([case.lane(made, 9, side=8)], [0])
    assert (capturer.captured, len(case.steps)) == (3, 3)


def test_a_group_that_shrinks_keeps_its_batch_and_a_new_lane_gets_one_of_its_size():
    capturer = FakeCapturer()
    case = captured(capturer=capturer)
    short, long = table("euler", 2), table("euler", 6)
    case.run([case.lane(short if seed else long, seed) for seed in range(5)], [0] * 5)
    assert capturer.captured == 1, "the last one finished in the batch of eight"
    case.run([case.lane(short, 7)], [0])
    assert capturer.captured == 2, "a single one does not pay for eight"
    case.run([case.lane(short if seed else long, seed) for seed in range(5)], [0] * 5)
    assert capturer.captured == 2, "it moved to the batch of one, which was there"


@pytest.mark.parametrize("limits", [Limits(2, 2**30), Limits(16, 1)])
def test_the_least_recently_used_batch_is_freed_and_its_lanes_go_on(limits):
    made, capturer = table("UniPCMultistepScheduler", 6), FakeCapturer()
    case, truth = captured(limits=limits, capturer=capturer), eager()
    options = [{}, {"guidance": 1.0}, {"image": True}]
    # three keys in turns: each evaluation of one evicts another
    found, expected = (
        each.run([each.lane(made, seed, **option) for seed, option in enumerate(options)], [0, 0, 1])
        for each in (case, truth)
    )
    assert_same(found, expected)
    assert len(case.steps) <= limits.batches
    assert capturer.captured > 3


def test_a_longer_table_enlarges_the_capacity_while_another_is_under_way():
    tables = [table("euler", 40), table("euler", 100), table("ScoreSdeVeScheduler", 5)]
    capturer = FakeCapturer()
    case, truth = captured(capturer=capturer), eager()
    found, expected = (
        each.run([each.lane(made, seed) for seed, made in enumerate(tables)], [0, 3, 5], until=200)
        for each in (case, truth)
    )
    assert_same(found, expected)


def test_an_empty_batch_computes_and_changes_nothing():
    made, case = table("euler", 3), eager()
    lane = captured().lane(made, 1)
    batch = batch_for(lane)
    batch.run()
    batch.place([Step(lane, 0)])
    before = batch.sample(lane).clone()
    assert torch.equal(before, case.lane(made, 1).buffer[0])
    batch.free(lane)
    batch.run()
    assert lane not in batch


def batch_for(lane: State, lanes: int = 2) -> StaticBatch:
    network = Network(unet=Unet(), device=CPU, dtype=torch.float32, fused=False)
    return StaticBatch(network, lane.batch_key, Capacity(lanes, 64, False), lane)


def test_what_a_lane_leaves_behind_does_no_harm_even_if_it_is_not_finite():
    made, truth = table("euler_a", 3), eager()
    lane, other = captured().lane(made, 1), truth.lane(made, 1)
    batch = batch_for(lane)
    batch._lanes.state.fill_(float("nan"))
    batch.place([Step(lane, 0)])
    batch.run()
    truth.steps.advance([Step(other, 0)])
    assert_same([batch.sample(lane)], [truth.steps.sample(other)])


def test_a_lane_that_is_freed_goes_on_no_further():
    made, case = table("euler", 6), captured()
    lanes = [case.lane(made, seed) for seed in range(2)]
    batch = batch_for(lanes[0])
    batch.place([Step(lane, 0) for lane in lanes])
    batch.run()
    batch.free(lanes[0])
    before = batch._lanes.state.clone()
    batch.run()
    assert torch.equal(batch._lanes.state[0], before[0])
    assert not torch.equal(batch._lanes.state[1], before[1]), "the other one does"


def test_the_batch_in_use_is_not_the_one_that_is_freed():
    made, capturer = table("euler", 2), FakeCapturer()
    case = captured(limits=Limits(2, 2**30), capturer=capturer)

    def run(**options: Any) -> int:
        before = capturer.captured
        case.run([case.lane(made, 0, **options)], [0])
        return capturer.captured - before

    assert [run(), run(guidance=1.0), run(), run(image=True), run()] == [1, 1, 0, 1, 0]


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_memory_is_made_by_freeing_other_batches():
    capturer, made = FakeCapturer(), table("euler", 4)
    case = captured(capturer=capturer)
    lanes = [case.lane(made, 0), case.lane(made, 1, guidance=1.0)]
    capturer.failures = []
    case.steps.advance([Step(lanes[0], 0)])
    capturer.failures = [out_of_memory()]
    case.steps.advance([Step(lanes[1], 0)])
    assert len(case.steps) == 1
    case.steps.advance([Step(lanes[0], 1)])  # it went on from where it stood
    truth = eager()
    other = truth.lane(made, 0)
    for row in range(2):
        truth.steps.advance([Step(other, row)])
    assert_same([case.steps.sample(lanes[0])], [truth.steps.sample(other)])


def test_memory_that_does_not_suffice_is_an_error():
    capturer, made = FakeCapturer([out_of_memory(), out_of_memory()]), table("euler", 4)
    case = captured(capturer=capturer)
    with pytest.raises(torch.OutOfMemoryError):
        case.steps.advance([Step(case.lane(made, 0), 0)])
    case.steps.advance([Step(case.lane(made, 0), 0)])
    capturer.failures = [out_of_memory(), out_of_memory()]
    with pytest.raises(torch.OutOfMemoryError):
        case.steps.advance([Step(case.lane(made, 1, guidance=1.0), 0)])


def test_a_batch_that_finds_no_memory_has_other_graphs_freed():
    freed, capturer = [], FakeCapturer([out_of_memory()])
    case = captured(capturer=capturer, free_others=lambda: freed.append(True))
    case.steps.advance([Step(case.lane(table("euler", 4), 0), 0)])
    assert (freed, capturer.captured) == ([True], 1)


def test_batches_may_be_freed_at_any_time():
    """As they are when decoding runs out of memory: their lanes go on from where they were, in new ones."""
    made, capturer = table("UniPCMultistepScheduler", 6), FakeCapturer()
    case, truth = captured(capturer=capturer), eager()
    evaluate = case.steps.advance

    def interrupted(steps: Sequence[Step]) -> None:
        evaluate(steps)
        if steps[0].row % 2:
            case.steps.free_graphs()

    case.steps.advance = interrupted
    found, expected = (each.run([each.lane(made, seed) for seed in range(3)], [0, 0, 1]) for each in (case, truth))
    assert_same(found, expected)
    assert (capturer.captured, len(case.steps)) == (5, 0)


def test_a_failure_of_another_kind_is_not_tried_again():
    capturer, made = FakeCapturer(), table("euler", 4)
    case = captured(capturer=capturer)
    case.steps.advance([Step(case.lane(made, 0), 0)])
    capturer.failures = [RuntimeError("operation not permitted when stream is capturing")]
    with pytest.raises(RuntimeError, match="not permitted"):
        case.steps.advance([Step(case.lane(made, 1, guidance=1.0), 0)])
    assert len(case.steps) == 1
