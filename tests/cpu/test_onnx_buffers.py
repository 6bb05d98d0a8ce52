"""A lane's device buffers: kept where their runs are captured, freed as the lane leaves where they are not."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import intarsia
from intarsia.backends.choose import choose
from intarsia.backends.onnx.lane_buffers import LaneBuffers
from intarsia.backends.protocol import Step
from intarsia.engine.parts import model_files
from intarsia.engine.resolve import resolve
from intarsia.engine.sampling import table_of
from intarsia.execution import Execution
from intarsia.registry.registry import Registry
from tests.noise_request import noise_request

SMALL = {"size": 64, "rows": slice(16, 40), "columns": slice(16, 40)}
KINDS = {"plain": {}, "merging": {"token_merging": 0.5}, "unguided": {"guidance_scale": 1.0}}


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet:
    """All buffers that were made and are still there."""
    made: weakref.WeakSet = weakref.WeakSet()
    start = LaneBuffers.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        made.add(self)
        start(self, *args, **kwargs)

    monkeypatch.setattr(LaneBuffers, "__init__", counted)
    return made


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", KINDS)
def test_launched_buffers_are_freed_with_their_lane(alive: weakref.WeakSet, kind: str) -> None:
    with intarsia.Engine("onnx", "cpu") as engine:
        for seed in range(3):
            engine.run(noise_request(**SMALL, steps=2, samples=2, seed=seed, **KINDS[kind]))
        gc.collect()
        assert len(alive) == 0, "buffers of images that are finished"


def test_buffers_of_a_cancelled_request_are_freed(alive: weakref.WeakSet) -> None:
    with intarsia.Engine("onnx", "cpu") as engine:
        ticket = engine.submit(noise_request(**SMALL, steps=20, samples=3))
        next(iter(ticket.progress()))
        ticket.cancel()
        engine.run(noise_request(**SMALL, steps=2))
        del ticket
        gc.collect()
        assert len(alive) == 0


@pytest.mark.parametrize("rows", [(0, 0, 1), (0, 1, 0, 1)], ids=str)
def test_rows_are_those_that_are_asked_for(rows: tuple[int, ...]) -> None:
    """The device counts rows by itself; one that comes again is uploaded. torch takes each row as it is named."""
    pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")
    resolved = resolve(noise_request(**SMALL, steps=4, strength=1.0, scheduler="EulerDiscreteScheduler"), Registry())
    table, noise = table_of(resolved.plan), intarsia.noise(1, resolved.plan.latent_shape)
    drawn = {}
    for backend in ("onnx", "torch"):
        session = choose(backend, "cpu", Execution()).open(model_files(resolved.entry, resolved.parts))
        conditioning, _ = session.encode(resolved.inputs)
        for order in (rows, tuple(range(len(rows)))):
            state = session.start(conditioning, table, noise)
            for row in order:
                session.advance([Step(state, row)])
            drawn[backend, order] = session.decode([state])[0].astype(int)
        session.close()
    one, other = drawn["onnx", rows], drawn["torch", rows]
    assert np.abs(one - other).max() <= 2
    assert np.abs(one - drawn["onnx", tuple(range(len(rows)))]).max() > 2
