"""Device times of one evaluation: of a session of ours by itself, and of a step of a peer's pipeline."""

from __future__ import annotations

import statistics
from typing import Any

import torch

import intarsia
from benchmarks import peers
from benchmarks.cases import Case
from benchmarks.jobs import requests
from benchmarks.networks import RandomBackend
from benchmarks.place import Place
from intarsia.engine.lanes import Lane
from intarsia.engine.parts import model_files
from intarsia.engine.resolve import resolve
from intarsia.engine.sampling import table_of
from intarsia.execution import Execution


def our_step(case: Case, place: Place) -> float:
    """Median milliseconds of an evaluation by device events, the engine's thread left out: a session by itself."""
    registry = intarsia.Registry(place.registry(case), case.precision)
    backend = RandomBackend(str(place.device), Execution(capture=place.capture))
    resolved = [resolve(request, registry) for request in requests(case, None)]
    session = backend.open(model_files(resolved[0].entry, resolved[0].parts))
    prepared = [(each.plan, table_of(each.plan), session.encode(each.inputs)[0]) for each in resolved]
    found = []
    for _ in range(7):
        lanes = [
            Lane(plan.group, sample, seed, table, plan.latent_shape, lambda: session, lambda kept=shared: kept)
            for plan, table, shared in prepared
            for sample, seed in enumerate(plan.seeds)
        ]
        for lane in lanes:
            lane.begin()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began.record()
        for row in range(lanes[0].rows):
            session.advance([lane.step() for lane in lanes])
            for lane in lanes:
                lane.cursor = row + 1
        ended.record()
        torch.cuda.synchronize()
        found.append(began.elapsed_time(ended) / lanes[0].rows)
    session.close()
    return statistics.median(found[2:])


def their_step(made: Any, case: Case) -> float:
    """Median milliseconds between the ends of two steps of a pipeline, by device events."""
    events: list[torch.cuda.Event] = []

    def mark(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        events.append(torch.cuda.Event(enable_timing=True))
        events[-1].record()
        return tensors

    call, found = peers.call(made, case, on_step=mark), []
    for _ in range(5):
        events.clear()
        call()
        torch.cuda.synchronize()
        found.append(events[0].elapsed_time(events[-1]) / (len(events) - 1))
    return statistics.median(found[1:])
