"""The loop by itself, on sessions that only count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from intarsia.backends.protocol import Runtime, Step
from intarsia.engine.lanes import Lane, Lanes
from intarsia.engine.noise import NoiseStream
from intarsia.schedulers import Table, table

SHAPE = (4, 2, 2)


@dataclass
class ListingSession:
    """A session that writes down what it was asked."""

    batches: list = field(default_factory=list)
    noise: dict = field(default_factory=dict)
    fail_on: str = ""
    runtime = Runtime(backend="recorder", device="cpu", dtype="none", deterministic=True)

    def start(self, conditioning: Any, made: Table, noise: np.ndarray) -> Any:
        if conditioning == self.fail_on:
            raise RuntimeError(f"cannot start {conditioning}")
        self.noise[conditioning] = [noise]
        return conditioning

    def advance(self, steps: Sequence[Step]) -> None:
        if any(step.state == "explodes" for step in steps):
            raise RuntimeError("boom")
        self.batches.append([(step.state, step.row) for step in steps])
        for step in steps:
            if step.noise is not None:
                self.noise[step.state].append(step.noise)


def lane(
    session: Any, name: str, rows: int, key: str = "one", scheduler: str = "EulerDiscreteScheduler", seed: int = 0
) -> Lane:
    return Lane(key, 0, seed, table(scheduler, rows), SHAPE, lambda: session, lambda: name)


def drain(lanes: Lanes, limit: int = 1000) -> list[Lane]:
    finished = []
    while lanes and limit:
        finished += [each for each in lanes.turn() if each.done]
        limit -= 1
    assert limit, "the loop does not end"
    return finished


@pytest.fixture
def failures() -> list[Any]:
    return []


@pytest.fixture
def make(failures: list[Any]) -> Callable[..., Lanes]:
    return lambda slots=4, patience=50: Lanes(slots, patience, lambda each, error: failures.append((each, error)))


def test_lanes_enter_and_leave_between_steps(make):
    session, lanes = ListingSession(), make(slots=2)
    lanes.add([lane(session, "long", 5), lane(session, "short", 2), lane(session, "late", 2)])
    order = [each.state for each in drain(lanes)]
    assert order == ["short", "late", "long"]
    # "late" takes the slot the moment "short" leaves it: no batch runs with an empty slot while work waits
    assert session.batches == [
        [("long", 0), ("short", 0)],
        [("long", 1), ("short", 1)],
        [("long", 2), ("late", 0)],
        [("long", 3), ("late", 1)],
        [("long", 4)],
    ]
    assert (lanes.evaluations, lanes.lane_rows) == (5, 9)


def test_every_row_is_run_once_in_order(make):
    session, lanes = ListingSession(), make(slots=3)
    counts = {f"lane{i}": rows for i, rows in enumerate([3, 7, 1, 4, 4, 2, 9])}
    lanes.add([lane(session, name, rows) for name, rows in counts.items()])
    drain(lanes)
    for name, rows in counts.items():
        assert [row for batch in session.batches for state, row in batch if state == name] == list(range(rows))


def test_other_keys_do_not_share_a_batch_and_wait_no_longer_than_patience(make):
    session, lanes = ListingSession(), make(slots=4, patience=3)
    lanes.add([lane(session, f"a{i}", 10, key="a") for i in range(8)])
    lanes.add([lane(session, "b", 2, key="b")])
    drain(lanes)
    for batch in session.batches:
        assert len({state[0] for state, _ in batch}) == 1
    first_b = next(i for i, batch in enumerate(session.batches) if batch[0][0] == "b")
    assert first_b == 3


def test_a_cancelled_lane_costs_no_further_evaluation(make):
    session, lanes = ListingSession(), make()
    gone, stays = lane(session, "gone", 10), lane(session, "stays", 4)
    lanes.add([gone, stays])
    lanes.turn()
    gone.cancelled = True
    drain(lanes)
    assert [row for batch in session.batches for state, row in batch if state == "gone"] == [0]
    assert stays.done
    assert not gone.done


def test_fresh_noise_comes_after_the_starting_noise_and_only_where_a_row_uses_it(make):
    session, lanes = ListingSession(), make()
    stochastic = lane(session, "sde", 4, scheduler="EulerAncestralDiscreteScheduler", seed=9)
    lanes.add([stochastic, lane(session, "ode", 4, seed=9)])
    drain(lanes)
    used = int(stochastic.table.uses_noise.sum())
    assert used > 0
    stream = NoiseStream(9)
    expected = [stream.draw(SHAPE) for _ in range(1 + used)]
    np.testing.assert_array_equal(session.noise["sde"], expected)
    np.testing.assert_array_equal(session.noise["ode"], expected[:1])


def test_a_lane_that_cannot_start_does_not_take_the_others_with_it(make, failures):
    session, lanes = ListingSession(fail_on="bad"), make()
    lanes.add([lane(session, "bad", 3), lane(session, "good", 3)])
    assert [each.state for each in drain(lanes)] == ["good"]
    assert [str(error) for _, error in failures] == ["cannot start bad"]


def test_a_failed_evaluation_fails_every_lane_in_it(make, failures):
    session, lanes = ListingSession(), make(slots=2)
    lanes.add([lane(session, "explodes", 3), lane(session, "beside", 3), lane(session, "after", 3)])
    assert [each.state for each in drain(lanes)] == ["after"]
    assert len(failures) == 2
