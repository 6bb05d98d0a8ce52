"""A pipeline case: our engine and the peers on the same weights, images compared, then timed in turns.

The compiled peer has a turn of its own (:attr:`benchmarks.place.Place.compiles`), after everything else is written:
then only ours is timed beside it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

import intarsia
from benchmarks import peers
from benchmarks.cases import COMPILED, HALF, YARDSTICK, Case, affordable
from benchmarks.measure import interleaved, median, memory, nearest, p95, rms, seconds
from benchmarks.memory import alone
from benchmarks.networks import decoded_samples
from benchmarks.place import Place, engine, ours, ran
from benchmarks.records import Check, Record, judged, judged_float8, settings
from benchmarks.step_times import our_step, their_step
from intarsia.execution import FP8, STANDARD

Pictures = Callable[[], list[Image.Image]]

_Drawn = tuple[list[Image.Image], torch.Tensor]
"""Pictures, and the samples ``[B, 4, h, w]`` that they were decoded from."""


@dataclass(kw_only=True)
class _Contenders:
    """Calls by name, what their images' errors are, and who is missing."""

    absent: dict[str, str]
    calls: dict[str, Pictures] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)
    reference: list[Image.Image] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    samples: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Mapping[str, float] | None] = field(default_factory=dict)
    first_calls: dict[str, float] = field(default_factory=dict)


def measure(case: Case, place: Place, left: float) -> Record:
    """Compare, then time. ``left``: seconds that there are for it."""
    began = time.perf_counter()
    absent = {peer: why for peer in case.peers if (why := _missing(peer, place)) is not None}
    fits, dropped = affordable(replace(case, peers=tuple(peer for peer in case.peers if peer not in absent)), left)
    found = _Contenders(absent=absent | dict.fromkeys(dropped, f"no time for it: {left:.0f} s were left"))
    numbers: dict[str, Any] = {}
    reference = _reference(case, place)
    with engine(case, place) as opened, ExitStack() as others:
        half = others.enter_context(engine(_standard(case), place)) if case.precision == FP8 else None
        check = _ours_and_yardstick(case, place, opened, found, reference, half)
        if check.passed:
            for peer in fits:
                _add_peer(peer, case, place, found)
            if not place.compiles:
                for backend in case.beside:
                    beside = others.enter_context(engine(replace(case, backend=backend), place))
                    _add_backend(beside, backend, case, found)
            if not place.compiles or COMPILED in found.calls:
                numbers = _timed(case, place, found, left - (time.perf_counter() - began))
                numbers["ran"] = ran(opened, case)
    check = replace(check, errors=found.errors, samples=found.samples)
    return Record(case.name, settings(case), place.environment, check, numbers, found.absent, place.shrunk)


def _standard(case: Case) -> Case:
    return replace(case, precision=STANDARD)


def _missing(peer: str, place: Place) -> str | None:
    """Why a peer is left out; None for one that is to be measured. The yardstick is, but where the compiled one is."""
    if peer == YARDSTICK and not place.compiles:
        return None
    if place.peers is not None and peer not in place.peers:
        return "not asked for"
    return peers.missing(peer)


def _reference(case: Case, place: Place) -> _Drawn | None:
    """diffusers in float32, before anything else is on the device; in float32 itself the yardstick is the reference."""
    if not place.half:
        return None
    made = place.pipeline(case, torch.float32)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = peers.with_samples(made, replace(case, token_merging=0.0))
    del made
    release(place.device)
    return found


def reference(case: Case, place: Place, size: tuple[int, int]) -> list[Image.Image]:
    """diffusers' images of a size in float32, on the values of the half-precision weights; no tf32 anywhere."""
    made = place.pipeline(case, torch.float32)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return peers.call(made, case, size)()


def release(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _ours_and_yardstick(
    case: Case,
    place: Place,
    opened: intarsia.Engine,
    found: _Contenders,
    reference: _Drawn | None,
    half: intarsia.Engine | None = None,
) -> Check:
    """Our images and diffusers' against float32, before anything is timed; merging does not take part.

    Args:
        half: another of ours, where ``opened`` has products in e4m3.
    """
    plain = replace(case, token_merging=0.0)
    with decoded_samples() as samples:
        pictures = ours(opened, plain)()
    call = ours(opened, case)
    merged = call()
    found.memory["intarsia"] = memory(call)  # nothing but our own networks is on the device yet
    pipeline, theirs = _yardstick(plain, place, found)
    exact = reference or theirs
    assert exact is not None, "without a yardstick there is a reference"
    found.reference = exact[0]
    found.errors["intarsia"] = rms(pictures, exact[0])
    if samples:  # sessions of torch have them
        found.samples["intarsia"] = nearest(samples, exact[1])
    if theirs is not None:
        found.errors[YARDSTICK], found.samples[YARDSTICK] = rms(theirs[0], exact[0]), nearest(theirs[1], exact[1])
    if half is not None:
        _add_half(half, plain, found, exact)
    judge = judged if half is None else judged_float8
    check = judge(found.errors, YARDSTICK, place.half, found.samples)
    if case.token_merging:
        found.errors["intarsia, merging"] = rms(merged, exact[0])
    found.calls["intarsia"] = call
    if pipeline is not None and not place.compiles:
        found.calls[YARDSTICK] = peers.call(pipeline, plain)
        found.pipelines[YARDSTICK] = pipeline
        found.memory[YARDSTICK] = memory(found.calls[YARDSTICK])
    return check


def _add_half(half: intarsia.Engine, case: Case, found: _Contenders, exact: _Drawn) -> None:
    """Ours in standard precision: checked first, then timed in the same turns."""
    found.calls[HALF] = call = ours(half, case)
    with decoded_samples() as samples:
        found.errors[HALF] = rms(call(), exact[0])
    found.samples[HALF] = nearest(samples, exact[1])
    found.memory[HALF] = memory(call)


def _yardstick(case: Case, place: Place, found: _Contenders) -> tuple[Any, _Drawn | None]:
    """diffusers' pipeline, and what it draws; in half precision nothing, named, where memory lacks for it."""
    try:
        made = place.pipeline(case, place.dtype)
        return made, peers.with_samples(made, case)
    except torch.OutOfMemoryError as exc:
        if not place.half:
            raise  # it is the reference
        found.absent[YARDSTICK] = _failed(exc)
    release(place.device)
    return None, None


def _failed(exc: Exception) -> str:
    """What stopped a peer, in one line."""
    if isinstance(exc, torch.OutOfMemoryError):
        return "failed: not enough memory for it beside ours"
    return f"failed: {type(exc).__name__}: {(str(exc).splitlines() or [''])[0][:200]}"


def _add_peer(peer: str, case: Case, place: Place, found: _Contenders) -> None:
    """Build a peer, run it once, keep its error; what stands in its way goes into the record."""
    if peer == YARDSTICK:
        return
    try:
        made = place.pipeline(case, place.dtype)
        folder = place.folder / f"onnx-{case.family}"
        made = peers.onnx(made, folder) if peer == "onnx" else peers.MAKERS[peer](made)
        call = peers.call(made, case)
        found.first_calls[peer] = seconds(call)
        found.errors[peer] = rms(call(), found.reference)
        found.memory[peer] = memory(call)
    except Exception as exc:  # noqa: BLE001 - a peer that fails is reported, and the others go on
        found.absent[peer] = _failed(exc)
    else:
        found.calls[peer], found.pipelines[peer] = call, made
        return
    release(place.device)  # out of the handler, which held what was made


def _add_backend(opened: intarsia.Engine, backend: str, case: Case, found: _Contenders) -> None:
    """Another backend of ours, on the same job."""
    found.calls[backend] = call = ours(opened, case)
    found.errors[backend] = rms(call(), found.reference)
    found.memory[backend] = memory(call)


def _timed(case: Case, place: Place, found: _Contenders, left: float) -> dict[str, Any]:
    """Wall times in turns, then device times of the loop."""
    times = _turns(case, place, found, left)
    medians = {name: median(each) for name, each in times.items()}
    numbers: dict[str, Any] = {
        "seconds": times,
        "median": medians,
        "p95": {name: p95(each) for name, each in times.items()},
        "ratio": {name: medians[name] / medians["intarsia"] for name in medians if name != "intarsia"},
        "images_per_second": {name: case.batch / each for name, each in medians.items()},
        "memory_mib": found.memory,
        "first_call": found.first_calls,
    }
    if case.family == "packaged":
        numbers |= alone(case.backend)
    if place.device.type == "cuda":
        numbers["step_ms"] = _steps(case, place, found)
    return numbers


def _turns(case: Case, place: Place, found: _Contenders, left: float) -> dict[str, list[float]]:
    """Wall times in turns. Where memory lacks for all of them, the last peer goes, and it begins anew."""
    while True:
        try:
            return interleaved(found.calls, case.warmups, case.runs, left)
        except torch.OutOfMemoryError as exc:
            last = next(reversed(found.calls))
            if last == "intarsia":
                raise
            found.absent[last] = _failed(exc)
        del found.calls[last]
        found.pipelines.pop(last, None)
        release(place.device)


def _steps(case: Case, place: Place, found: _Contenders) -> dict[str, float]:
    """Milliseconds of an evaluation by device events; of what memory lacks for, none."""
    calls: dict[str, Callable[[], float]] = {
        name: lambda made=made: their_step(made, case) for name, made in found.pipelines.items() if name != "onnx"
    }
    if case.backend == "torch":
        calls["intarsia"] = lambda: our_step(case, place)
    if case.precision == FP8:
        calls[HALF] = lambda: our_step(_standard(case), place)
    times = {}
    for name, call in calls.items():
        try:
            times[name] = call()
        except torch.OutOfMemoryError as exc:
            found.absent[f"a step of {name}"] = _failed(exc)
    return times
