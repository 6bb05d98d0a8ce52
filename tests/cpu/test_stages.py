"""Lanes on stages against lanes stepped plainly, with graphs that only pretend: what is recorded when, what is reused,
what has to go, and that nobody's picture notices."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.backends.protocol import Step
from intarsia.backends.token_regions import draw_choices, find_regions
from intarsia.backends.torch.plain import PlainSteps
from intarsia.backends.torch.regions import MergingVariant, upload_regions
from intarsia.backends.torch.stage import Network, Room, Stage
from intarsia.backends.torch.stages import StagedSteps
from intarsia.backends.torch.state import Conditioning, State
from intarsia.schedulers import NAMES, table
from intarsia.token_merging import TokenMerging
from tests.cpu.recorder import Recorder

CPU = torch.device("cpu")
SIDE, WIDTH, TOKENS = 6, 5, 3
PLENTY = (16, 2**30)


class Unet:
    """Any function of all that a network is given, each sample by itself; remembers where its inputs lay."""

    def __init__(self):
        self.seen, self.choices = set(), []

    def __call__(self, sample, emb, context, image, merging):
        assert sample.is_contiguous(memory_format=torch.channels_last)
        self.seen.add((sample.data_ptr(), emb.data_ptr(), context.data_ptr()))
        self.choices.append([level.choice.clone() for level in merging])
        sample = sample.repeat_interleave(len(context) // len(sample), 0)
        rest = emb.mean(dim=1) + context.mean(dim=(1, 2))
        if image is not None:
            rest = rest + image.mean(dim=(1, 2))
        out = torch.tanh(0.3 * sample[:, :4] + rest[:, None, None, None]) + 0.1 * sample[:, -4:]
        return out.contiguous(memory_format=torch.channels_last)


class Case:
    """One way of stepping, and lanes for it."""

    def __init__(self, steps, nine=True):
        self.steps, self.nine = steps, nine

    def lane(self, made, seed, guidance=4.0, image=False, ratio=0.0, side=SIDE):
        """A state at its first row; all its tensors follow from the seed."""
        rng = np.random.default_rng(seed)

        def drawn(*shape):
            return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

        halves = 2 if guidance > 1 else 1
        clean, mask = drawn(4, side, side), (drawn(1, side, side) > 0).float()
        host_regions = find_regions(TokenMerging(ratio), [(side, side)], mask[0].numpy(), mask_aware=False)
        variant = MergingVariant(mask_aware=False)
        regions = upload_regions(host_regions, torch.device("cpu"), variant=variant)
        shared = Conditioning(
            drawn(halves, TOKENS, 8), None, None, guidance, clean, mask,
            torch.cat([mask, drawn(4, side, side)]) if self.nine else None, False,
            drawn(halves, 2, 8) if image else None, regions,
        )  # fmt: skip
        unit = drawn(4, side, side)
        buffer = torch.zeros(self.steps.slots(made) + 2, *unit.shape)
        buffer[0] = made.start_image * clean + made.start_noise * unit
        drawn_choices = draw_choices(unit.numpy(), len(made), [region.cells for region in host_regions])
        choices = tuple(torch.from_numpy(choice) for choice in drawn_choices)
        embeddings = drawn(len(made), 1, WIDTH)
        return State(shared, made, self.steps.pack(made), embeddings, buffer, unit, choices)

    def run(self, lanes, arrivals, until=99):
        """Everybody to the end, each from its own turn on; the samples as they are then."""
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
                    self.steps.drop(lanes[i])
        return finals

    def _noise(self, lane, place, row):
        if not lane.table.uses_noise[row]:
            return None
        return np.random.default_rng((place, row)).normal(size=tuple(lane.noise.shape)).astype(np.float32)


def staged(alone=False, limits=PLENTY, recorder=None, unet=None, nine=True, relieve=lambda: None):
    network = Network(unet or Unet(), CPU, torch.float32, fused=False, recorder=recorder)
    return Case(StagedSteps(network, alone, limits, relieve), nine)


def plain(unet=None, nine=True):
    return Case(PlainSteps(unet or Unet(), CPU, torch.float32, alone=True), nine)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        # the same float32 operations, but for sums that have more (vanishing) terms; levels reach 14.6
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("nine", [True, False], ids=["9 channels", "4 channels"])
@pytest.mark.parametrize("alone", [True, False])
def test_every_scheduler_in_company_is_what_the_plain_step_makes(nine, alone):
    tables = [table(name, 3 + place % 4, strength=0.8) for place, name in enumerate(NAMES)]
    arrivals = [place % 5 for place in range(len(tables))]
    found, expected = (
        case.run([case.lane(made, seed) for seed, made in enumerate(tables)], arrivals)
        for case in (staged(alone, recorder=Recorder(), nine=nine), plain(nine=nine))
    )
    assert_same(found, expected)
    assert max(float(each.abs().max()) for each in found) < 1e3


def test_alone_or_in_company_bit_for_bit_where_each_stands_alone():
    tables = [table(name, 4 + place) for place, name in enumerate(("euler", "UniPCMultistepScheduler", "ddpm"))]
    case = staged(alone=True, recorder=Recorder())
    together = case.run([case.lane(made, seed) for seed, made in enumerate(tables)], [0, 1, 2])
    for place, made in enumerate(tables):
        other = staged(alone=True, recorder=Recorder())
        lanes = [other.lane(each, seed) for seed, each in enumerate(tables)]
        (expected,) = [
            final for final in other.run(lanes, [0 if i == place else 50 for i in range(3)], 40) if final is not None
        ]
        assert torch.equal(together[place], expected), made.name


def test_pictures_guidance_and_merging_stay_each_lanes_own():
    made, unets = table("euler_a", 5), (Unet(), Unet())
    cases = (staged(recorder=Recorder(), unet=unets[0]), plain(unet=unets[1]))
    options = [{"image": True, "ratio": 0.5}, {"image": True, "ratio": 0.5, "guidance": 7.0}]
    found, expected = (
        case.run([case.lane(made, seed, **each) for seed, each in enumerate(options)], [0, 2]) for case in cases
    )
    assert_same(found, expected)
    # the destinations of merging are those of each lane's own row
    assert torch.equal(unets[0].choices[-1][0][:1], unets[1].choices[-1][0])
    unguided = staged(recorder=Recorder())
    lanes = [unguided.lane(made, seed, guidance=1.0) for seed in range(3)]
    truth = plain()
    expected = truth.run([truth.lane(made, seed, guidance=1.0) for seed in range(3)], [0, 0, 1])
    assert_same(unguided.run(lanes, [0, 0, 1]), expected)


def test_a_shape_is_recorded_once_and_its_memory_stays():
    recorder, unet, made = Recorder(), Unet(), table("euler", 3)
    case = staged(recorder=recorder, unet=unet)
    for seed in range(4):
        case.run([case.lane(made, seed)], [0])
    assert (recorder.recorded, recorder.replayed, len(case.steps)) == (1, 12, 1)
    assert len(unet.seen) == 1, "a graph reads where its inputs lay when it was recorded"
    case.run([case.lane(made, 9, guidance=1.0)], [0])
    case.run([case.lane(made, 9, side=8)], [0])
    assert (recorder.recorded, len(case.steps)) == (3, 3)


def test_lanes_that_become_fewer_stay_and_one_that_comes_new_does_not():
    recorder = Recorder()
    case = staged(recorder=recorder)
    short, long = table("euler", 2), table("euler", 6)
    case.run([case.lane(short if seed else long, seed) for seed in range(5)], [0] * 5)
    assert recorder.recorded == 1, "the last one finished on the stage of eight"
    case.run([case.lane(short, 7)], [0])
    assert recorder.recorded == 2, "a single one does not pay for eight"
    case.run([case.lane(short if seed else long, seed) for seed in range(5)], [0] * 5)
    assert recorder.recorded == 2, "it moved to the stage of one, which was there"


@pytest.mark.parametrize("limits", [(2, 2**30), (16, 1)])
def test_the_longest_unused_goes_and_who_stands_on_it_goes_on(limits):
    made, recorder = table("UniPCMultistepScheduler", 6), Recorder()
    case, truth = staged(limits=limits, recorder=recorder), plain()
    options = [{}, {"guidance": 1.0}, {"image": True}]
    # three companies in turns: each evaluation of one throws another out
    found, expected = (
        each.run([each.lane(made, seed, **option) for seed, option in enumerate(options)], [0, 0, 1])
        for each in (case, truth)
    )
    assert_same(found, expected)
    assert len(case.steps) <= limits[0]
    assert recorder.recorded > 3


def test_a_longer_table_makes_room_while_another_is_under_way():
    tables = [table("euler", 40), table("euler", 100), table("ScoreSdeVeScheduler", 5)]
    recorder = Recorder()
    case, truth = staged(recorder=recorder), plain()
    found, expected = (
        each.run([each.lane(made, seed) for seed, made in enumerate(tables)], [0, 3, 5], until=200)
        for each in (case, truth)
    )
    assert_same(found, expected)


def test_an_empty_stage_computes_and_changes_nothing():
    made, case = table("euler", 3), plain()
    lane = staged().lane(made, 1)
    stage = Stage(Network(Unet(), CPU, torch.float32, fused=False), lane.company, Room(2, 64, False), lane)
    stage.run()
    stage.hold([Step(lane, 0)])
    before = stage.sample(lane).clone()
    assert torch.equal(before, case.lane(made, 1).buffer[0])
    stage.drop(lane)
    stage.run()
    assert lane not in stage


def stage_for(lane, lanes=2):
    return Stage(Network(Unet(), CPU, torch.float32, fused=False), lane.company, Room(lanes, 64, False), lane)


def test_what_a_lane_leaves_behind_spoils_nobody_even_if_it_is_not_finite():
    made, truth = table("euler_a", 3), plain()
    lane, other = staged().lane(made, 1), truth.lane(made, 1)
    stage = stage_for(lane)
    stage._lanes.state.fill_(float("nan"))
    stage.hold([Step(lane, 0)])
    stage.run()
    truth.steps.advance([Step(other, 0)])
    assert_same([stage.sample(lane)], [truth.steps.sample(other)])


def test_a_lane_that_is_dropped_goes_on_no_further():
    made, case = table("euler", 6), staged()
    lanes = [case.lane(made, seed) for seed in range(2)]
    stage = stage_for(lanes[0])
    stage.hold([Step(lane, 0) for lane in lanes])
    stage.run()
    stage.drop(lanes[0])
    before = stage._lanes.state.clone()
    stage.run()
    assert torch.equal(stage._lanes.state[0], before[0])
    assert not torch.equal(stage._lanes.state[1], before[1]), "the other one does"


def test_the_stage_in_use_is_not_the_one_that_goes():
    made, recorder = table("euler", 2), Recorder()
    case = staged(limits=(2, 2**30), recorder=recorder)

    def run(**options):
        before = recorder.recorded
        case.run([case.lane(made, 0, **options)], [0])
        return recorder.recorded - before

    assert [run(), run(guidance=1.0), run(), run(image=True), run()] == [1, 1, 0, 1, 0]


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_memory_is_made_by_letting_others_go():
    recorder, made = Recorder(), table("euler", 4)
    case = staged(recorder=recorder)
    lanes = [case.lane(made, 0), case.lane(made, 1, guidance=1.0)]
    recorder.failures = []
    case.steps.advance([Step(lanes[0], 0)])
    recorder.failures = [out_of_memory()]
    case.steps.advance([Step(lanes[1], 0)])
    assert len(case.steps) == 1
    case.steps.advance([Step(lanes[0], 1)])  # it went on from where it stood
    truth = plain()
    other = truth.lane(made, 0)
    for row in range(2):
        truth.steps.advance([Step(other, row)])
    assert_same([case.steps.sample(lanes[0])], [truth.steps.sample(other)])


def test_memory_that_does_not_suffice_is_an_error():
    recorder, made = Recorder([out_of_memory(), out_of_memory()]), table("euler", 4)
    case = staged(recorder=recorder)
    with pytest.raises(torch.OutOfMemoryError):
        case.steps.advance([Step(case.lane(made, 0), 0)])
    case.steps.advance([Step(case.lane(made, 0), 0)])
    recorder.failures = [out_of_memory(), out_of_memory()]
    with pytest.raises(torch.OutOfMemoryError):
        case.steps.advance([Step(case.lane(made, 1, guidance=1.0), 0)])


def test_a_stage_that_finds_no_memory_has_pictures_let_go_of_theirs():
    relieved, recorder = [], Recorder([out_of_memory()])
    case = staged(recorder=recorder, relieve=lambda: relieved.append(True))
    case.steps.advance([Step(case.lane(table("euler", 4), 0), 0)])
    assert (relieved, recorder.recorded) == ([True], 1)


def test_stages_may_go_at_any_time():
    """As they do where a picture finds no memory: who stands there goes on from where it stood, on a new one."""
    made, recorder = table("UniPCMultistepScheduler", 6), Recorder()
    case, truth = staged(recorder=recorder), plain()
    evaluate = case.steps.advance

    def interrupted(steps):
        evaluate(steps)
        if steps[0].row % 2:
            case.steps.let_go()

    case.steps.advance = interrupted
    found, expected = (each.run([each.lane(made, seed) for seed in range(3)], [0, 0, 1]) for each in (case, truth))
    assert_same(found, expected)
    assert (recorder.recorded, len(case.steps)) == (5, 0)


def test_a_failure_of_another_kind_is_not_tried_again():
    recorder, made = Recorder(), table("euler", 4)
    case = staged(recorder=recorder)
    case.steps.advance([Step(case.lane(made, 0), 0)])
    recorder.failures = [RuntimeError("operation not permitted when stream is capturing")]
    with pytest.raises(RuntimeError, match="not permitted"):
        case.steps.advance([Step(case.lane(made, 1, guidance=1.0), 0)])
    assert len(case.steps) == 1
