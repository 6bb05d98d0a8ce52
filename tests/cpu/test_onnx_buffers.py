"""What becomes of a lane's buffers: kept where their runs are recorded, freed as the lane leaves where they are not."""

from __future__ import annotations

import gc
import weakref

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import inlay
from inlay.backends.onnx import buffers as module
from tests.noise_request import noise_request

SMALL = {"size": 64, "rows": slice(16, 40), "columns": slice(16, 40)}
KINDS = {"plain": {}, "merging": {"token_merging": 0.5}, "unguided": {"guidance_scale": 1.0}}


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet:
    """All buffers that were made and are still there."""
    made: weakref.WeakSet = weakref.WeakSet()
    start = module.Buffers.__init__

    def counted(self, *args, **kwargs):
        made.add(self)
        start(self, *args, **kwargs)

    monkeypatch.setattr(module.Buffers, "__init__", counted)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_launched_buffers_are_freed_with_their_lane(alive: weakref.WeakSet, kind: str) -> None:
    with inlay.Engine("onnx", "cpu") as engine:
        for seed in range(3):
            engine.run(noise_request(**SMALL, steps=2, samples=2, seed=seed, **KINDS[kind]))
        gc.collect()
        assert len(alive) == 0, "buffers of pictures that are finished"


def test_buffers_of_a_cancelled_request_are_freed(alive: weakref.WeakSet) -> None:
    with inlay.Engine("onnx", "cpu") as engine:
        ticket = engine.submit(noise_request(**SMALL, steps=20, samples=3))
        next(iter(ticket.progress()))
        ticket.cancel()
        engine.run(noise_request(**SMALL, steps=2))
        del ticket
        gc.collect()
        assert len(alive) == 0
